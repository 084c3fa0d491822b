//! What `occlude-export` writes, in every form, read by torchvision, PyTorch and ONNX Runtime in Python.

mod graphs;
mod inspecting;
mod refused;
mod verifying;

use occlude_tests::{pictures, run};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const SCRIPT: &str = include_str!("../export.py");

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
