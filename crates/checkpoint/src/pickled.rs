//! Pickles of arrays and tensors that are files of their own.

use occlude_pickle::{Limits, decode};

use crate::array::Arrays;
use crate::error::FormatError;
use crate::flatten::flatten;
use crate::index::Index;
use crate::torch;

/// Reads a pickle of arrays or tensors.
pub(crate) fn read(file: &[u8]) -> Result<Index, FormatError> {
    let pickle = decode(file, &Limits::default()).map_err(|e| FormatError::pickle(e, "the pickle"))?;
    let arrays = Arrays::new(file);
    // A tensor of torch has no file beside it, either: `pickle.dump` puts its storage into the pickle.
    flatten(&pickle, &|node| torch::tensor(node, &arrays, &|_| Ok(None)))
}
