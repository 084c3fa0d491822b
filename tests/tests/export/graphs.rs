//! Graphs and weights, read by torchvision, PyTorch and ONNX Runtime in Python.

use occlude_tests::{pictures, processor, run, tolerance};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::{SCRIPT, SIDE, checkpoint, compared, export, number, onnx, place};

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
