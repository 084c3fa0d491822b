//! What several test files share.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use occlude_checkpoint::{Checkpoint, Dtype, TensorOut, save_detectron2, save_safetensors};
use occlude_detectron::{Norm, Options, convert};
use occlude_encoder::{Arch, Graph, ParamKind, detectron};

/// Every parameter of an encoder below `prefix`, with values that differ between parameters and elements.
pub fn encoder(arch: Arch, prefix: &str) -> Vec<TensorOut<'static>> {
    let params = Graph::new(arch).params().into_iter().enumerate();
    params
        .map(|(i, param)| {
            let name = format!("{prefix}{}", param.name);
            if param.kind == ParamKind::BnCount {
                return TensorOut::i64(name, 1000 + i as i64);
            }
            let len: usize = param.shape.iter().product();
            let data = (0..len).flat_map(|k| value(i, k).to_le_bytes()).collect();
            TensorOut { name, dtype: Dtype::F32, shape: param.shape, data: Cow::Owned(data) }
        })
        .collect()
}

/// Element `k` of parameter `i`: small and positive, so that it may be a variance.
fn value(i: usize, k: usize) -> f32 {
    (1 + i % 7) as f32 / 64.0 + (k % 9973) as f32 / 99_730.0
}

/// The same under Detectron2's names, each changed by `rename`.
pub fn detectron2(arch: Arch, rename: impl Fn(&str) -> String) -> Vec<TensorOut<'static>> {
    let mut tensors = encoder(arch, "");
    for tensor in &mut tensors {
        tensor.name = rename(&detectron::from_torchvision(&tensor.name).expect("an encoder parameter"));
    }
    tensors
}

/// The one tensor of that name.
pub fn tensor<'t>(tensors: &'t mut [TensorOut<'static>], name: &str) -> &'t mut TensorOut<'static> {
    tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("no `{name}`"))
}

/// Sets every element.
pub fn fill(tensor: &mut TensorOut<'static>, value: f32) {
    let len: usize = tensor.shape.iter().product();
    tensor.data = Cow::Owned((0..len).flat_map(|_| value.to_le_bytes()).collect());
}

pub fn safetensors(path: &Path, tensors: &[TensorOut<'_>]) {
    save_safetensors(path, tensors, &BTreeMap::new()).expect("written");
}

pub fn pickle(path: &Path, tensors: &[TensorOut<'_>]) {
    save_detectron2(path, tensors, "a test").expect("written");
}

/// Options of `convert` with nothing said.
pub fn options(checkpoint: &Path, out: &Path) -> Options {
    Options {
        checkpoint: checkpoint.to_owned(),
        out: out.to_owned(),
        prefix: None,
        arch: None,
        keep_head: false,
        recipe: None,
        norm: Norm::SyncBn,
        force: false,
    }
}

/// A checkpoint of MoCo's layout and the pickle that `convert` makes of it.
pub fn converted(folder: &Path, arch: Arch) -> (PathBuf, PathBuf) {
    let (checkpoint, out) = (folder.join("encoder.safetensors"), folder.join("encoder.pkl"));
    safetensors(&checkpoint, &encoder(arch, "module.encoder_q."));
    convert(&options(&checkpoint, &out)).expect("converted");
    (checkpoint, out)
}

/// Name -> (shape, type, bytes) of every tensor whose name begins with `prefix`, without it.
pub fn contents(path: &Path, prefix: &str) -> BTreeMap<String, (Vec<usize>, String, Vec<u8>)> {
    let checkpoint = Checkpoint::open(path).expect("opens");
    checkpoint
        .tensors()
        .filter_map(|t| {
            let name = t.name.strip_prefix(prefix)?.to_owned();
            Some((name, (t.shape.to_vec(), t.dtype.to_string(), t.to_bytes().expect("bytes").into_owned())))
        })
        .collect()
}

/// Python with numpy and torch, or a clear failure.
pub fn python() -> PathBuf {
    let path = std::env::var_os("OCCLUDE_PYTHON").map(PathBuf::from).unwrap_or_default();
    assert!(path.exists(), "no Python environment at `{}`: run `cargo xtask setup`", path.display());
    path
}

/// Python with Detectron2, or `None` where the test is skipped: no package registry has Detectron2.
pub fn python_with_detectron2() -> Option<PathBuf> {
    let python = python();
    let found = Command::new(&python).args(["-c", "import detectron2._C"]).output().expect("starts");
    if !found.status.success() {
        let hint = format!("`{}` cannot import detectron2: build it from its source there", python.display());
        occlude_skip::test("Detectron2", &hint);
        return None;
    }
    Some(python)
}

/// The tool.
pub fn tool() -> Command {
    Command::new(env!("CARGO_BIN_EXE_occlude-detectron"))
}

/// Exit status, stdout and stderr as text.
pub fn said(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}
