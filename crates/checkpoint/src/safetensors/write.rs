//! The writer: header first, then the tensors' bytes as they are given.

use std::collections::BTreeMap;
use std::path::Path;

use serde::ser::{SerializeMap, Serializer};

use super::header::InfoOut;
use super::{LENGTH_BYTES, METADATA_KEY};
use crate::error::{Error, SaveError};
use crate::out::{TensorOut, check};

/// Writes a safetensors file; the target is replaced atomically and no second copy of the data is
/// made.
///
/// Tensors keep their order, except that wider element types come first, so that every tensor is
/// aligned for its type.
///
/// # Errors
/// [`Error::Save`] for repeated names, data of the wrong length, and whatever the operating system
/// refuses.
pub fn save_safetensors(
    path: &Path,
    tensors: &[TensorOut<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let fail = |reason| Error::Save { path: path.to_owned(), reason };
    check(tensors).map_err(fail)?;
    if tensors.iter().any(|t| t.name == METADATA_KEY) {
        return Err(fail(SaveError::Reserved));
    }
    let mut ordered: Vec<&TensorOut<'_>> = tensors.iter().collect();
    ordered.sort_by_key(|t| std::cmp::Reverse(t.dtype.size()));
    let header = header(&ordered, metadata).map_err(|e| fail(SaveError::Io(e.into())))?;
    occlude_output::write(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        ordered.iter().try_for_each(|tensor| out.write_all(&tensor.data))
    })
    .map_err(|e| fail(SaveError::Io(e)))
}

/// The JSON, padded with spaces so that the data begins at a multiple of eight.
fn header(tensors: &[&TensorOut<'_>], metadata: &BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let mut map = serializer.serialize_map(None)?;
    if !metadata.is_empty() {
        map.serialize_entry(METADATA_KEY, metadata)?;
    }
    let mut begin = 0;
    for tensor in tensors {
        let end = begin + tensor.data.len() as u64;
        let info = InfoOut { dtype: tensor.dtype.name(), shape: &tensor.shape, data_offsets: (begin, end) };
        map.serialize_entry(&tensor.name, &info)?;
        begin = end;
    }
    map.end()?;
    json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
    Ok(json)
}
