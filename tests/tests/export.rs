//! What `occlude-export` writes, in every form, read by torchvision, PyTorch and ONNX Runtime in Python.

use occlude_tests::{pictures, run, tolerance};
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
    let all = "--outputs embedding,saliency,projection,res2,res3,res4,res5";
    let mut models = vec![
        onnx("all", all),
        onnx("bytes", &format!("{all} --input uint8")),
        onnx("unfolded", &format!("{all} --no-fold")),
        onnx("raw", "--no-normalize --outputs res5,projection,embedding"),
        onnx("external", &format!("{all} --external-data")),
    ];
    models.extend((17..=22).map(|opset| onnx(&format!("opset{opset}"), &format!("--opset {opset}"))));
    assert!(place().join("external.onnx.data").metadata().expect("written").len() > 40 << 20);
    assert!(models[4].metadata().expect("written").len() < 1 << 20);
    for (model, found) in models.iter().zip(compared(&models, SIDE)) {
        println!("{}: {found}", model.display());
        assert!(number(&found, "error") < tolerance::ONNX_ERROR, "{}: {found}", model.display());
        assert!(number(&found, "golden") >= tolerance::TORCHVISION_COSINE, "{}: {found}", model.display());
    }
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
    assert!(said.stderr.contains("golden picture is not answered"), "{}", said.stderr);
}

#[test]
fn pictures_of_any_size_where_that_is_asked_for() {
    let models = [onnx("dynamic", "--dynamic-size"), onnx("dynamic_bytes", "--dynamic-size --input uint8")];
    for side in ["64", "97", "160"] {
        for found in compared(&models, side) {
            assert!(number(&found, "error") < tolerance::ONNX_ERROR, "{side}: {found}");
        }
    }
}

#[test]
fn halves_and_integers_stay_close() {
    let int8 = "--precision int8 --calibrate @/pictures";
    let models = [
        onnx("half", "--precision fp16 --input uint8"),
        onnx("half_stages", "--precision fp16 --outputs embedding,res2,res5,projection"),
        onnx("int8", int8),
        onnx("int8_bytes", &format!("{int8} --input uint8 --outputs embedding,res3,projection")),
        onnx("int8_kept", &format!("{int8} --keep-float first,last --reduce-range --calibration entropy")),
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
    for (name, flags) in [("v16", "--precision fp16"), ("v8", "--precision int8 --calibrate @/pictures")] {
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
