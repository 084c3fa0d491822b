//! The zip format of PyTorch 1.6 and later: `data.pkl`, and one record per storage.
//!
//! The format: <https://docs.pytorch.org/docs/stable/notes/serialization.html>

use std::collections::BTreeMap;

use occlude_pickle::{Limits, decode};

use super::METADATA_RECORD;
use super::rebuild::tensor;
use super::storage::StorageBytes;
use crate::array::Arrays;
use crate::error::{FormatError, StateError, ZipError};
use crate::flatten::flatten;
use crate::index::Index;
use crate::zip::Archive;

/// Bytes of Occlude's own metadata; a few kilobytes in practice.
const MAX_METADATA: usize = 1 << 20;

pub(crate) fn read(file: &[u8]) -> Result<Index, FormatError> {
    let archive = Archive::read(file)?;
    let root = root(&archive)?;
    let swapped = is_big_endian(file, &archive, &root)?;
    let record = |name: &str| archive.range(&format!("{root}{name}"));
    let pickle_bytes = record("data.pkl").transpose()?.and_then(|r| file.get(r)).unwrap_or_default();
    let pickle = decode(pickle_bytes, &Limits::default()).map_err(|e| FormatError::pickle(e, "data.pkl"))?;
    let locate = |key: &str| match record(&format!("data/{key}")) {
        Some(range) => Ok(Some(StorageBytes { range: range?, swapped })),
        None => Ok(None),
    };
    let arrays = Arrays::new(file);
    let mut index = flatten(&pickle, &|node| tensor(node, &arrays, &locate))?;
    if let Some(range) = record(METADATA_RECORD) {
        index.metadata.extend(metadata(file.get(range?).unwrap_or_default())?);
    }
    Ok(index)
}

/// The metadata that Occlude adds to the files it writes.
fn metadata(json: &[u8]) -> Result<BTreeMap<String, String>, FormatError> {
    if json.len() > MAX_METADATA {
        return Err(StateError::TooLarge { what: "bytes of metadata", limit: MAX_METADATA }.into());
    }
    serde_json::from_slice(json).map_err(|reason| StateError::Metadata(reason).into())
}

/// What all names begin with: the one folder that holds a `data.pkl`.
fn root(archive: &Archive<'_>) -> Result<String, FormatError> {
    let mut roots: Vec<&str> = archive
        .names()
        .filter_map(|name| name.strip_suffix("data.pkl"))
        .filter(|root| root.is_empty() || root.find('/') == Some(root.len() - 1))
        .collect();
    roots.sort_unstable();
    let [root] = roots.as_slice() else {
        return Err(if roots.is_empty() { ZipError::NoPickle.into() } else { ZipError::TwoPickles.into() });
    };
    if archive.range(&format!("{root}constants.pkl")).is_some() {
        return Err(StateError::TorchScript.into());
    }
    Ok((*root).to_owned())
}

/// The `byteorder` record; files before PyTorch 2.1 have none and are little-endian.
fn is_big_endian(file: &[u8], archive: &Archive<'_>, root: &str) -> Result<bool, FormatError> {
    let Some(range) = archive.range(&format!("{root}byteorder")) else { return Ok(false) };
    match file.get(range?).unwrap_or_default() {
        b"little" => Ok(false),
        b"big" => Ok(true),
        other => Err(StateError::ByteOrder(String::from_utf8_lossy(other).chars().take(40).collect()).into()),
    }
}

/// The records whose checksums do not fit.
pub(crate) fn damaged(file: &[u8]) -> Vec<String> {
    Archive::read(file).map(|archive| archive.damaged()).unwrap_or_default()
}
