//! What several test files share.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::Command;

use occlude_checkpoint::{Dtype, TensorOut};
use occlude_encoder::{Arch, Graph, ParamKind};

/// Every parameter of an encoder below `prefix`, with values that differ between parameters and
/// elements.
pub fn encoder_tensors(arch: Arch, prefix: &str) -> Vec<TensorOut<'static>> {
    Graph::new(arch)
        .params()
        .into_iter()
        .enumerate()
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

/// Element `k` of parameter `i`.
pub fn value(i: usize, k: usize) -> f32 {
    (i as f32) + (k % 9973) as f32 / 9973.0
}

/// Python with numpy and torch, or a clear failure.
pub fn python() -> Command {
    let path = std::env::var_os("OCCLUDE_PYTHON").map(PathBuf::from).unwrap_or_default();
    assert!(path.exists(), "no Python environment at `{}`: run `cargo xtask setup`", path.display());
    Command::new(path)
}
