//! Tensors of files, and how far ours are from theirs.

use occlude_checkpoint::Checkpoint;
use tch::{Kind, Tensor};

pub(crate) fn tensor(file: &Checkpoint, name: &str) -> Tensor {
    let found = file.tensor(name).unwrap_or_else(|| panic!("no `{name}`"));
    let shape: Vec<i64> = found.shape.iter().map(|&n| n as i64).collect();
    Tensor::from_slice(&found.to_f32().expect("numbers")).view(shape.as_slice())
}

/// Relative error in the Euclidean norm.
pub(crate) fn relative(ours: &Tensor, theirs: &Tensor) -> f64 {
    let norm = |t: &Tensor| t.to_kind(Kind::Double).square().sum(Kind::Double).sqrt().double_value(&[]);
    norm(&(ours.detach() - theirs)) / norm(theirs)
}
