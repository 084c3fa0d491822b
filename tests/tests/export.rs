//! What `occlude-export` writes, in every form, read by torchvision, PyTorch and ONNX Runtime in Python.

use occlude_tests::{pictures, processor, run, tolerance};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const SCRIPT: &str = include_str!("export.py");

/// Side of the pictures that the models are made for.
const SIDE: &str = "64";

/// A folder with a MoCo-like checkpoint and pictures.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("export");
        run::python(SCRIPT, &[Path::new("make"), &folder.join("moco.pth.tar")]);
        pictures::tree(&folder.join("pictures"), 8, 3);
        folder
    })
}

fn checkpoint() -> PathBuf {
    place().join("moco.pth.tar")
}

/// Runs the exporter with the checkpoint, `out` in the shared folder, and flags; `@/` is that folder.
fn export(command: &str, out: &str, flags: &str) -> PathBuf {
    let out = place().join(out);
    let folder = format!("{}/", place().display());
    let flags: Vec<String> = flags.split_whitespace().map(|f| f.replace("@/", &folder)).collect();
    let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&command];
    let checkpoint = checkpoint();
    arguments.extend([&checkpoint as &dyn AsRef<OsStr>, &out]);
    arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
    run::run("occlude-export", &arguments).ok();
    out
}

fn onnx(name: &str, flags: &str) -> PathBuf {
    export("onnx", &format!("{name}.onnx"), &format!("--image-size {SIDE} {flags}"))
}

/// What Python finds about models.
fn compared(models: &[PathBuf], side: &str) -> Vec<Value> {
    let checkpoint = checkpoint();
    let mut arguments = vec![Path::new("compare"), &checkpoint, Path::new(side)];
    arguments.extend(models.iter().map(PathBuf::as_path));
    run::python(SCRIPT, &arguments).as_array().expect("a list").clone()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no `{key}` in {value}"))
}

#[test]
fn every_graph_in_single_precision_is_torchvisions() {
    let all = "--outputs embedding,saliency,saliency_sum,projection,res2,res3,res4,res5";
    let mut models = vec![
        onnx("all", all),
        onnx("bytes", &format!("{all} --input uint8")),
        onnx("unfolded", &format!("{all} --no-fold")),
        onnx("raw", "--no-normalize --outputs res5,projection,embedding"),
        onnx("external", &format!("{all} --external-data")),
    ];
    models.extend(
        [
            ("sum", "--saliency sum"),
            ("border", "--saliency border"),
            ("object2", "--saliency-stage 2 --opset 22"),
        ]
        .map(|(name, flags)| onnx(name, flags)),
    );
    models.extend((17..=22).map(|opset| onnx(&format!("opset{opset}"), &format!("--opset {opset}"))));
    assert!(place().join("external.onnx.data").metadata().expect("written").len() > 40 << 20);
    assert!(models[4].metadata().expect("written").len() < 1 << 20);
    for (model, found) in models.iter().zip(compared(&models, SIDE)) {
        println!("{}: {found}", model.display());
        assert!(number(&found, "error") < tolerance::ONNX_ERROR, "{}: {found}", model.display());
        assert!(number(&found, "golden") >= tolerance::TORCHVISION_COSINE, "{}: {found}", model.display());
    }
}

/// A checkpoint as LEWEL's repository has it: its necks are convolutions, its encoder is the online one.
#[test]
fn lewels_checkpoints_give_their_projection_and_alignment() {
    let folder = run::scratch("export-lewel");
    let checkpoint = folder.join("lewel.pth.tar");
    run::python(SCRIPT, &[Path::new("make-lewel"), &checkpoint]);
    let export = |name: &str, flags: &str| {
        let out = folder.join(name);
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"onnx", &checkpoint, &out, &"--image-size", &"96"];
        let flags: Vec<&str> = flags.split_whitespace().collect();
        arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
        (run::run("occlude-export", &arguments), out)
    };
    let models = [
        export("all.onnx", "--outputs embedding,saliency,alignment,projection"),
        export("served.onnx", "--saliency alignment --opset 22"),
        export("dynamic.onnx", "--saliency alignment --dynamic-size --input uint8"),
    ]
    .map(|(said, out)| {
        said.ok();
        out
    });
    let mut arguments = vec![Path::new("compare"), &checkpoint, Path::new("96")];
    arguments.extend(models.iter().map(PathBuf::as_path));
    for found in run::python(SCRIPT, &arguments).as_array().expect("a list") {
        println!("{found}");
        assert!(number(found, "error") < tolerance::ONNX_ERROR, "{found}");
        assert!(number(found, "golden") >= tolerance::TORCHVISION_COSINE, "{found}");
    }
    let pictures = place().join("pictures");
    for model in &models {
        let verify: [&dyn AsRef<OsStr>; 6] = [&"verify", model, &checkpoint, &pictures, &"--limit", &"2"];
        run::run("occlude-export", &verify).ok();
    }
    let (said, _) = export("stage.onnx", "--saliency alignment --saliency-stage 4");
    assert!(said.stderr.contains("stage 5"), "{}", said.stderr);
    let moco = self::checkpoint();
    let out = folder.join("moco.onnx");
    let said = run::run("occlude-export", &[&"onnx", &moco, &out, &"--saliency", &"alignment"]);
    assert!(said.code != 0 && said.stderr.contains("(LEWEL)"), "{}", said.stderr);
}

#[test]
fn a_file_without_an_embedding_has_no_golden_picture_and_says_so() {
    let (checkpoint, out) = (checkpoint(), place().join("stages.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &checkpoint, &out, &"--outputs", &"res5"]).ok();
    assert!(said.stderr.contains("has no golden picture"), "{}", said.stderr);
    let found = run::run("occlude-export", &[&"inspect", &out, &"--json"]).ok().json();
    assert!(found["golden"].is_null(), "{found}");
}

#[test]
fn the_golden_picture_is_shown_and_not_its_data() {
    let model = onnx("shown", "");
    let found = run::run("occlude-export", &[&"inspect", &model, &"--json"]).ok().json();
    let golden = &found["golden"];
    assert_eq!((&golden["embedding"], &golden["source"]), (&512.into(), &"checkpoint".into()), "{golden}");
    assert!(found["metadata"].as_object().expect("a map").keys().all(|k| !k.starts_with("golden")));
    let text = run::run("occlude-export", &[&"inspect", &model]).ok().stdout;
    assert!(text.contains("embedding of 512") && !text.contains("golden_image"), "{text}");
}

/// Byte for byte the same file but for one number of the golden answer.
#[test]
fn verify_finds_a_wrong_golden_answer() {
    let (model, changed) = (onnx("right", ""), place().join("changed.onnx"));
    let mut bytes = std::fs::read(&model).expect("written");
    let key = b"golden_embedding";
    let at = bytes.windows(key.len()).position(|w| w == key).expect("has golden data") + key.len() + 32;
    bytes[at..at + 256].fill(b'Q');
    std::fs::write(&changed, bytes).expect("writes");
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let verify = |model: &PathBuf| {
        run::run("occlude-export", &[&"verify", model, &checkpoint, &pictures, &"--limit", &"1", &"--json"])
    };
    assert!(number(&verify(&model).ok().json()["golden"], "cosine") > 0.9999);
    let said = verify(&changed);
    assert_eq!(said.code, 3, "{}", said.stderr);
    assert!(said.stderr.contains("does not reproduce the outputs of its golden picture"), "{}", said.stderr);
}

#[test]
fn pictures_of_any_size_where_that_is_asked_for() {
    let models = [
        onnx("dynamic", "--dynamic-size"),
        onnx("dynamic_bytes", "--dynamic-size --input uint8 --opset 20"),
        onnx("dynamic_border", "--dynamic-size --saliency border"),
    ];
    for side in ["64", "97", "160"] {
        for found in compared(&models, side) {
            assert!(number(&found, "error") < tolerance::ONNX_ERROR, "{side}: {found}");
        }
    }
}

#[test]
fn halves_and_integers_stay_close() {
    let int8 = &format!("--precision int8 --calibrate @/pictures{}", processor::weight_bits());
    let models = [
        onnx("half", "--precision fp16 --input uint8"),
        onnx("half_stages", "--precision fp16 --outputs embedding,res2,res5,projection"),
        onnx("int8", int8),
        onnx("int8_bytes", &format!("{int8} --input uint8 --outputs embedding,res3,projection")),
        onnx(
            "int8_kept",
            "--precision int8 --calibrate @/pictures --reduce-range --keep-float first,last --calibration entropy",
        ),
        onnx("int8_dynamic", &format!("{int8} --dynamic-size --calibration percentile:99.999")),
    ];
    for (model, found) in models.iter().zip(compared(&models, SIDE)) {
        println!("{}: {found}", model.display());
        let half = model.to_string_lossy().contains("half");
        let least = if half { tolerance::HALF_COSINE } else { tolerance::INT8_COSINE };
        assert!(number(&found, "cosine") >= least, "{}: {found}", model.display());
        assert!(
            number(&found, "golden") >= least.min(tolerance::TORCHVISION_COSINE),
            "{}: {found}",
            model.display()
        );
    }
    let size = |path: &PathBuf| path.metadata().expect("written").len();
    assert!(size(&models[0]) < 24 << 20 && size(&models[2]) < 13 << 20);
}

#[test]
fn verify_holds_lower_precision_against_single() {
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let int8 = &format!("--precision int8 --calibrate @/pictures{}", processor::weight_bits());
    for (name, flags) in [("v16", "--precision fp16"), ("v8", int8)] {
        let model = onnx(name, flags);
        let verify = |more: &[&str]| {
            let mut arguments: Vec<&dyn AsRef<OsStr>> =
                vec![&"verify", &model, &checkpoint, &pictures, &"--json"];
            arguments.extend(more.iter().map(|m| m as &dyn AsRef<OsStr>));
            run::run("occlude-export", &arguments)
        };
        let found = verify(&[]).ok().json();
        assert_eq!(found["passed"], true, "{found}");
        assert!(found["neighbours"]["overlap"].as_f64().is_some_and(|o| o > 0.8), "{found}");
        assert!(found["neighbours"]["top1"].is_f64(), "the pictures lie in folders: {found}");
        // A difference that is there cannot pass a tolerance of nothing.
        assert_eq!(verify(&["--tolerance", "0"]).code, 3);
    }
}

/// One broken picture is named, skipped and counted, by calibration and by both kinds of `verify`; nothing but broken
/// ones is an error.
#[test]
fn broken_pictures_are_skipped_and_told() {
    let folder = run::scratch("export_broken");
    let (some, none) = (folder.join("some"), folder.join("none"));
    pictures::tree(&some, 8, 3);
    pictures::broken(&some.join("disc/broken.jpg"));
    std::fs::create_dir(&none).expect("a folder");
    ["a.jpg", "b.png"].iter().for_each(|name| pictures::broken(&none.join(name)));
    let checkpoint = checkpoint();
    let int8 = |out: &PathBuf, pictures: &PathBuf| {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"onnx", &checkpoint, out, &"--image-size", &SIDE];
        arguments.extend([&"--precision" as &dyn AsRef<OsStr>, &"int8", &"--calibrate", pictures]);
        let bits = processor::weight_bits().trim();
        if !bits.is_empty() {
            arguments.push(&bits);
        }
        run::run("occlude-export", &arguments)
    };
    let (single, integers, never) =
        (onnx("unbroken", ""), folder.join("int8.onnx"), folder.join("never.onnx"));
    let said = int8(&integers, &some).ok();
    for part in ["calibrated on 24 pictures", "1 skipped", "warning: skipped: ", "disc/broken.jpg"] {
        assert!(said.stderr.contains(part), "no `{part}` in: {}", said.stderr);
    }
    let said = int8(&never, &none);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("none of the 2 pictures could be read; the first: "), "{}", said.stderr);
    assert!(!never.exists());
    for model in [&single, &integers] {
        let verify = |pictures: &PathBuf| {
            run::run(
                "occlude-export",
                &[&"verify", model, &checkpoint, pictures, &"--limit", &"0", &"--json"],
            )
        };
        let said = verify(&some).ok();
        assert_eq!(said.json()["skipped"], 1, "{}", said.stdout);
        for part in ["1 pictures skipped", "warning: skipped: ", "disc/broken.jpg"] {
            assert!(said.stderr.contains(part), "no `{part}` in: {}", said.stderr);
        }
        let said = verify(&none);
        assert_eq!((said.code, said.stdout.as_str()), (1, ""), "{}", said.stderr);
        assert!(said.stderr.contains("none of the 2 pictures could be read; the first: "), "{}", said.stderr);
    }
}

#[test]
fn verify_draws_the_maps_and_overwrites_nothing() {
    let (checkpoint, pictures) = (checkpoint(), place().join("pictures"));
    let (model, sheet) = (onnx("drawn", ""), place().join("maps.png"));
    let verify = |model: &PathBuf, more: &[&dyn AsRef<OsStr>]| {
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"verify", model, &checkpoint, &pictures];
        arguments.extend([&"--limit" as &dyn AsRef<OsStr>, &"2"]);
        arguments.extend(more);
        run::run("occlude-export", &arguments)
    };
    verify(&model, &[&"--maps", &sheet]).ok();
    let drawn = std::fs::read(&sheet).expect("written");
    assert!(drawn.starts_with(b"\x89PNG"));
    let said = verify(&model, &[&"--maps", &sheet]);
    assert!(said.code == 1 && said.stderr.contains("--force"), "{}", said.stderr);
    verify(&model, &[&"--maps", &sheet, &"--force"]).ok();
    assert_eq!(std::fs::read(&sheet).expect("written"), drawn, "the same maps");
    let said = verify(&onnx("undrawn", "--outputs embedding"), &[&"--maps", &sheet, &"--force"]);
    assert!(said.code == 1 && said.stderr.contains("`saliency`"), "{}", said.stderr);
}

#[test]
fn written_weights_load_strictly_and_are_equal() {
    let written = [
        export("torch", "bare.pth", ""),
        export("torch", "moco.pth", "--layout moco"),
        export("torch", "classes.pth", "--fc 1000"),
        export("safetensors", "bare.safetensors", ""),
    ];
    let checkpoint = checkpoint();
    let mut arguments = vec![Path::new("load"), &checkpoint];
    arguments.extend(written.iter().map(PathBuf::as_path));
    assert_eq!(run::python(SCRIPT, &arguments), serde_json::json!([true, true, true, true]));
    // And Occlude reads them back as the same encoder.
    let prints = written.iter().map(|path| {
        run::run("occlude-export", &[&"inspect", path, &"--json"]).ok().json()["encoder"]["fingerprint"]
            .to_string()
    });
    let prints: std::collections::BTreeSet<String> = prints.collect();
    assert_eq!(prints.len(), 1, "{prints:?}");
}

#[test]
fn a_projection_needs_a_head() {
    let (bare, out) = (export("torch", "headless.pth", ""), place().join("never_projected.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &bare, &out, &"--outputs", &"projection"]);
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("headless.pth") && said.stderr.contains("`fc.*`"), "{}", said.stderr);
    assert!(!out.exists());
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    for (flags, word) in [
        (vec!["--precision", "fp16", "--no-fold"], "--no-fold"),
        (vec!["--precision", "int8", "--calibrate", "no-such-folder"], "no-such-folder"),
    ] {
        let (checkpoint, out) = (checkpoint(), place().join("never.onnx"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&"onnx", &checkpoint, &out];
        arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
        let said = run::run("occlude-export", &arguments);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains(word), "{}", said.stderr);
        assert!(!out.exists());
    }
}

/// A file's identity, as `inspect` says it.
fn identity(model: &Path) -> String {
    let found = run::run("occlude-export", &[&"inspect", &model, &"--json"]).ok().json();
    let identity = found["identity"].as_str().expect("an identity").to_owned();
    assert_eq!(found["metadata"]["occlude.identity"], identity.as_str());
    assert!(
        identity.len() == 64 && identity.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    );
    let text = run::run("occlude-export", &[&"inspect", &model]).ok().stdout;
    assert!(text.contains(&identity), "{text}");
    identity
}

#[test]
fn the_identity_is_that_of_the_numbers() {
    let plain = identity(&onnx("id_plain", ""));
    // What changes no number: another name, a second run, a file for the weights, the opset, free sizes, a licence, the
    // order of the outputs.
    for (name, flags) in [
        ("id_again", ""),
        ("id_external", "--external-data"),
        ("id_opset", "--opset 22"),
        ("id_dynamic", "--dynamic-size"),
        ("id_licence", "--licence MIT"),
        ("id_order", "--outputs saliency,embedding"),
    ] {
        assert_eq!(identity(&onnx(name, flags)), plain, "{flags}");
    }
    let calibrated = "--precision int8 --calibrate @/pictures --calibration-limit 4";
    let mut all = vec![plain];
    for (name, flags) in [
        ("id_half", "--precision fp16".to_owned()),
        ("id_bytes", "--input uint8".to_owned()),
        ("id_raw", "--no-normalize".to_owned()),
        ("id_one", "--outputs embedding".to_owned()),
        ("id_border", "--saliency border".to_owned()),
        ("id_border_3", "--saliency border --saliency-stage 3".to_owned()),
        ("id_sum", "--saliency sum".to_owned()),
        ("id_unfolded", "--no-fold".to_owned()),
        ("id_mean", "--mean 0.5,0.5,0.5".to_owned()),
        ("id_size", "--resize 64".to_owned()),
        ("id_filter", "--high-pass 11,5".to_owned()),
        ("id_int8", calibrated.to_owned()),
        ("id_int8_kept", format!("{calibrated} --keep-float first")),
        ("id_int8_narrow", format!("{calibrated} --reduce-range")),
        ("id_int8_cut", format!("{calibrated} --calibration percentile:99")),
    ] {
        let found = identity(&onnx(name, &flags));
        assert!(!all.contains(&found), "{name} has the identity of another model");
        all.push(found);
    }
}

/// The checkpoint is worth more than what is made from it, by whatever name it goes.
#[test]
fn no_output_is_an_input() {
    let folder = run::scratch("export_onto_input");
    let at = |name: &str| folder.join(name);
    std::fs::copy(checkpoint(), at("s.pth")).expect("copied");
    let before = std::fs::read(at("s.pth")).expect("there");
    std::os::unix::fs::symlink(at("s.pth"), at("link.pth")).expect("linked");
    std::fs::hard_link(at("s.pth"), at("hard.pth")).expect("linked");
    // The weights of a model would be written beside it.
    std::fs::hard_link(at("s.pth"), at("beside.onnx.data")).expect("linked");
    for (command, out, flags) in [
        ("torch", "s.pth", vec![]),
        ("torch", "../occlude-export_onto_input/s.pth", vec![]),
        ("safetensors", "link.pth", vec![]),
        ("onnx", "hard.pth", vec![]),
        ("onnx", "beside.onnx", vec!["--external-data"]),
    ] {
        for force in [false, true] {
            let (input, out) = (at("s.pth"), at(out));
            let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&command, &input, &out];
            arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
            if force {
                arguments.push(&"--force");
            }
            let said = run::run("occlude-export", &arguments);
            assert_eq!(said.code, 1, "{}", said.stderr);
            assert!(said.stderr.contains("the input would be lost"), "{}", said.stderr);
            assert_eq!(std::fs::read(at("s.pth")).expect("there"), before);
        }
    }
    assert!(!at("beside.onnx").exists());
}

#[test]
fn an_existing_output_needs_force() {
    let folder = run::scratch("export_existing");
    let input = checkpoint();
    for (command, name) in [("torch", "a.pth"), ("safetensors", "a.safetensors"), ("onnx", "a.onnx")] {
        let out = folder.join(name);
        std::fs::write(&out, "mine").expect("written");
        let said = run::run("occlude-export", &[&command, &input, &out]);
        assert_eq!(said.code, 1, "{}", said.stderr);
        assert!(said.stderr.contains("exists; hint: `--force` replaces it"), "{}", said.stderr);
        assert_eq!(std::fs::read(&out).expect("there"), b"mine");
        run::run("occlude-export", &[&command, &input, &out, &"--force"]).ok();
        assert!(out.metadata().expect("there").len() > 1 << 20);
    }
}

/// Values that no model can compute with are named, and nothing is written.
#[test]
fn values_are_checked_on_their_way() {
    let folder = run::scratch("export_values");
    run::python(SCRIPT, &[Path::new("values"), &folder]);
    for (name, command, flags, words) in [
        ("nan.pth", "onnx", vec![], vec!["`layer2.0.conv1.weight`", "holds NaN"]),
        ("nan.pth", "torch", vec![], vec!["`layer2.0.conv1.weight`", "holds NaN"]),
        ("infinite.pth", "safetensors", vec![], vec!["`bn1.bias`", "holds inf"]),
        ("negative.pth", "onnx", vec![], vec!["`layer1.1.bn2.running_var`", "holds -0.5", "variance"]),
        ("large.pth", "onnx", vec!["--precision", "fp16"], vec!["`layer3.0.conv1.weight`", "65504"]),
        ("loud.pth", "onnx", vec!["--precision", "fp16"], vec!["`layer1.0.", "65504"]),
        ("plain.pth", "onnx", vec!["--mean", "123.675,116.28,103.53"], vec!["`mean`", "0.485,0.456,0.406"]),
        ("plain.pth", "torch", vec!["--std", "58.395,57.12,57.375"], vec!["`std`", "0.229,0.224,0.225"]),
    ] {
        let (input, out) = (folder.join(name), folder.join("never"));
        let mut arguments: Vec<&dyn AsRef<OsStr>> = vec![&command, &input, &out, &"--image-size", &SIDE];
        arguments.extend(flags.iter().map(|f| f as &dyn AsRef<OsStr>));
        let said = run::run("occlude-export", &arguments);
        assert_eq!(said.code, 1, "{name}: {}", said.stderr);
        for word in words {
            assert!(said.stderr.contains(word), "{name}: no `{word}` in: {}", said.stderr);
        }
        assert!(!out.exists(), "{name}");
    }
    // In single precision the large ones are numbers, and the small ones are in halves, but badly.
    for name in ["large.pth", "loud.pth"] {
        let (input, out) = (folder.join(name), folder.join(name).with_extension("onnx"));
        run::run("occlude-export", &[&"onnx", &input, &out, &"--image-size", &SIDE]).ok();
    }
    let (input, out) = (folder.join("small.pth"), folder.join("small.onnx"));
    let said = run::run("occlude-export", &[&"onnx", &input, &out, &"--precision", &"fp16"]).ok();
    assert!(said.stderr.contains("warning: `layer4.1.conv2.weight` loses"), "{}", said.stderr);
    // And `inspect` shows what is wrong without refusing the file.
    let found = run::run("occlude-export", &[&"inspect", &folder.join("nan.pth"), &"--json"]).ok().json();
    let bad = found["encoder"]["bad_values"].to_string();
    assert!(bad.contains("layer2.0.conv1.weight"), "{found}");
}

/// Grouped and wide convolutions, in ONNX Runtime, in tract and plainly, against torchvision.
#[test]
fn other_resnets_are_torchvisions() {
    let folder = run::scratch("export_archs");
    pictures::tree(&folder.join("pictures"), 2, 3);
    let at = |name: &str| folder.join(name);
    for arch in ["resnext50_32x4d", "wide_resnet50_2", "resnet18-small"] {
        let (file, single, int8) = (at("in.pth"), at("single.onnx"), at("int8.onnx"));
        run::python(SCRIPT, &[Path::new("make"), &file, Path::new(arch)]);
        let size: [&dyn AsRef<OsStr>; 3] = [&"--force", &"--image-size", &SIDE];
        let export = |out: &PathBuf, flags: &[&dyn AsRef<OsStr>]| {
            let arguments = [&[&"onnx" as &dyn AsRef<OsStr>, &file, out], size.as_slice(), flags].concat();
            run::run("occlude-export", &arguments).ok()
        };
        let said = export(&single, &[]);
        assert!(said.stderr.contains(arch), "{}", said.stderr);
        let pictures = at("pictures");
        run::run("occlude-export", &[&"verify", &single, &file, &pictures, &"--limit", &"2"]).ok();
        let mut flags: Vec<&dyn AsRef<OsStr>> = vec![&"--precision", &"int8", &"--calibrate", &pictures];
        let bits = processor::weight_bits().trim();
        if !bits.is_empty() {
            flags.push(&bits);
        }
        export(&int8, &flags);
        let found = run::python(SCRIPT, &[Path::new("compare"), &file, Path::new(SIDE), &single, &int8]);
        assert!(number(&found[0], "error") < tolerance::ONNX_ERROR, "{arch}: {found}");
        // Random weights over 2,048 wide channels are no network that 8 bits were meant for.
        let least = if arch.starts_with("wide") { 0.8 } else { tolerance::INT8_COSINE };
        assert!(number(&found[1], "cosine") >= least, "{arch}: {found}");
    }
}
