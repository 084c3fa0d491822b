//! Models in lower precision find what models in single precision find: discs whose masks are known.

use occlude_tests::{run, tolerance};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

const CHECKPOINT: &str = include_str!("export.py");
const SCRIPT: &str = include_str!("map_precision.py");

#[test]
fn halves_and_integers_find_what_single_precision_finds() {
    let folder = run::scratch("map_precision");
    let checkpoint = folder.join("moco.pth.tar");
    run::python(CHECKPOINT, &[Path::new("make"), &checkpoint]);
    run::python(SCRIPT, &[Path::new("draw"), &folder]);
    let pictures = folder.join("pictures");
    // The weights are random, so that each rule has to be better than chance only by what it is made of.
    for (rule, least) in [("object", 0.9), ("border", 0.75)] {
        let export = |precision: &str| -> PathBuf {
            let out = folder.join(format!("{rule}-{precision}.onnx"));
            let mut arguments: Vec<&dyn AsRef<OsStr>> =
                vec![&"onnx", &checkpoint, &out, &"--saliency", &rule];
            arguments.extend([&"--image-size" as &dyn AsRef<OsStr>, &"64", &"--precision", &precision]);
            if precision == "int8" {
                arguments.extend([&"--reduce-range" as &dyn AsRef<OsStr>, &"--calibrate", &pictures]);
            }
            run::run("occlude-export", &arguments).ok();
            out
        };
        let models = ["fp32", "fp16", "int8"].map(export);
        let mut arguments = vec![Path::new("auroc"), &folder];
        arguments.extend(models.iter().map(PathBuf::as_path));
        let found = run::python(SCRIPT, &arguments);
        println!("{rule}: {found}");
        let of = |i: usize| found[i].as_f64().expect("a figure");
        assert!(of(0) > least && of(0) < 1.0, "{rule}: {found}");
        for i in [1, 2] {
            assert!((of(i) - of(0)).abs() < tolerance::MAP_AUROC, "{rule}, {}: {found}", models[i].display());
        }
    }
}
