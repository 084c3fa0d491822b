//! A tensor on its way into a file.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::dtype::Dtype;
use crate::error::SaveError;

/// A tensor to write: row-major, little-endian bytes.
#[derive(Clone, Debug)]
pub struct TensorOut<'a> {
    /// The name it gets in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sides; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Cow<'a, [u8]>,
}

impl<'a> TensorOut<'a> {
    /// Floats, without a copy on little-endian machines.
    pub fn f32(name: impl Into<String>, shape: impl Into<Vec<usize>>, data: &'a [f32]) -> Self {
        let data = if cfg!(target_endian = "little") {
            Cow::Borrowed(bytemuck::cast_slice(data))
        } else {
            Cow::Owned(data.iter().flat_map(|x| x.to_le_bytes()).collect())
        };
        Self { name: name.into(), dtype: Dtype::F32, shape: shape.into(), data }
    }

    /// A scalar integer.
    pub fn i64(name: impl Into<String>, value: i64) -> Self {
        Self {
            name: name.into(),
            dtype: Dtype::I64,
            shape: vec![],
            data: Cow::Owned(value.to_le_bytes().into()),
        }
    }
}

/// What every format asks: distinct names, data as long as shape and type say.
pub(crate) fn check(tensors: &[TensorOut<'_>]) -> Result<(), SaveError> {
    let mut names = HashSet::with_capacity(tensors.len());
    for tensor in tensors {
        if !names.insert(tensor.name.as_str()) {
            return Err(SaveError::Duplicate(tensor.name.clone()));
        }
        if tensor.dtype.bytes_of(&tensor.shape) != Some(tensor.data.len()) {
            return Err(SaveError::Length {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                dtype: tensor.dtype,
                got: tensor.data.len(),
            });
        }
    }
    Ok(())
}
