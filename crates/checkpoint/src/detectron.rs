//! The pickle that Detectron2's checkpointer reads.

use std::path::Path;

use occlude_pickle::{ArrayType, Encoder};

use crate::dtype::Dtype;
use crate::error::{Error, SaveError};
use crate::out::{TensorOut, check};

/// Writes `{'model': {name: array}, '__author__': author, 'matching_heuristics': True}`.
///
/// Both extra keys are needed: without `__author__` Detectron2 takes the whole dictionary for the
/// state dict, and without the heuristics it does not match `stem.*` and `res*` to
/// `backbone.*` and `roi_heads.res5.*`.
///
/// The arrays are written as they are given, in order; no second copy is made. The target is
/// replaced atomically.
///
/// # Errors
/// [`Error::Save`] for repeated names, data of the wrong length, types that numpy lacks (bfloat16),
/// and whatever the operating system refuses.
pub fn save_detectron2(path: &Path, tensors: &[TensorOut<'_>], author: &str) -> Result<(), Error> {
    let fail = |reason| Error::Save { path: path.to_owned(), reason };
    check(tensors).map_err(fail)?;
    let types = tensors.iter().map(array_type).collect::<Result<Vec<_>, _>>().map_err(fail)?;
    occlude_output::write(path, |out| {
        let mut pickle = Encoder::new(out)?;
        pickle.dict_start()?;
        pickle.str("model")?;
        pickle.dict_start()?;
        for (tensor, dtype) in tensors.iter().zip(types) {
            pickle.str(&tensor.name)?;
            pickle.ndarray(dtype, &tensor.shape, &tensor.data)?;
        }
        pickle.dict_end()?;
        pickle.str("__author__")?;
        pickle.str(author)?;
        pickle.str("matching_heuristics")?;
        pickle.bool(true)?;
        pickle.dict_end()?;
        pickle.finish().map(drop)
    })
    .map_err(|e| fail(SaveError::Io(e)))
}

fn array_type(tensor: &TensorOut<'_>) -> Result<ArrayType, SaveError> {
    Ok(match tensor.dtype {
        Dtype::F64 => ArrayType::F64,
        Dtype::F32 => ArrayType::F32,
        Dtype::F16 => ArrayType::F16,
        Dtype::I64 => ArrayType::I64,
        Dtype::I32 => ArrayType::I32,
        Dtype::I16 => ArrayType::I16,
        Dtype::I8 => ArrayType::I8,
        Dtype::U8 => ArrayType::U8,
        Dtype::Bool => ArrayType::Bool,
        Dtype::BF16 => return Err(SaveError::Dtype { name: tensor.name.clone(), dtype: tensor.dtype }),
    })
}
