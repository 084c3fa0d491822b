//! The stream of PyTorch before 1.6: magic number, protocol, system, object, storage keys, storages.
//!
//! The storages are little-endian whatever machine wrote them. The published MoCo checkpoints are of
//! this kind.

use std::collections::HashMap;

use occlude_pickle::{Limits, Node, Pickle, Value, decode};

use super::rebuild::tensor;
use super::storage::{MAX_KEY, StorageBytes, storage};
use super::{MAGIC, PROTOCOL};
use crate::array::Arrays;
use crate::error::{FormatError, StateError};
use crate::flatten::flatten;
use crate::index::Index;

/// Whether the file begins with a pickle of the magic number.
pub(crate) fn looks_like(file: &[u8]) -> bool {
    let few = Limits { ops: 8, ..Limits::default() };
    let Ok(pickle) = decode(file, &few) else { return false };
    let Value::Long(bytes) = pickle.root().value() else { return false };
    // A textual number is padded to sixteen bytes.
    bytes.strip_prefix(&MAGIC).is_some_and(|rest| rest.iter().all(|&b| b == 0))
}

pub(crate) fn read(file: &[u8]) -> Result<Index, FormatError> {
    let mut stream = Stream { file, at: 0 };
    stream.pickle("the magic number")?;
    let protocol = stream.pickle("the protocol")?.root().as_i64();
    if protocol != Some(PROTOCOL) {
        return Err(StateError::Legacy("its protocol is not 1001").into());
    }
    stream.pickle("the system information")?;
    let object = stream.pickle("the object")?;
    let keys = stream.pickle("the storage keys")?;
    let storages = stream.storages(&object, &keys)?;
    let arrays = Arrays::new(file);
    flatten(&object, &|node| tensor(node, &arrays, &|key| Ok(storages.get(key).cloned())))
}

/// A position in the file, between two of its parts.
struct Stream<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Stream<'a> {
    fn pickle(&mut self, part: &'static str) -> Result<Pickle<'a>, FormatError> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let pickle = decode(rest, &Limits::default()).map_err(|e| FormatError::pickle(e, part))?;
        self.at += pickle.consumed();
        Ok(pickle)
    }

    /// Walks the storages: each a count of elements and then the elements, whose size only the
    /// object knows.
    fn storages(
        &mut self,
        object: &Pickle<'_>,
        keys: &Pickle<'_>,
    ) -> Result<HashMap<String, StorageBytes>, FormatError> {
        let declared = declared(object);
        let keys = keys.root().items().ok_or(StateError::Legacy("its storage keys are not a list"))?;
        let mut storages = HashMap::new();
        for key in keys {
            let key = key.as_str().filter(|key| key.len() <= MAX_KEY);
            let key = key.ok_or(StateError::Legacy("a storage key is not a short string"))?;
            let &(size, numel) =
                declared.get(key).ok_or(StateError::Legacy("a storage belongs to no tensor"))?;
            let short = || StateError::StorageMissing { key: key.to_owned() };
            let count = self.file.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or_else(short)?;
            if u64::from_le_bytes(*count) != numel as u64 {
                return Err(StateError::Legacy("a storage is not as long as the object says").into());
            }
            let begin = self.at + count.len();
            let end = numel.checked_mul(size).and_then(|len| begin.checked_add(len)).ok_or_else(short)?;
            if end > self.file.len() {
                return Err(short().into());
            }
            let bytes = StorageBytes { range: begin..end, swapped: false };
            if storages.insert(key.to_owned(), bytes).is_some() {
                return Err(StateError::Legacy("a storage key appears twice").into());
            }
            self.at = end;
        }
        Ok(storages)
    }
}

/// (bytes of an element, elements) of every storage that the object names; as PyTorch does, the
/// first mention counts.
fn declared<'p>(object: &'p Pickle<'_>) -> HashMap<&'p str, (usize, usize)> {
    let mut sizes = HashMap::new();
    for storage in object.nodes().filter_map(Node::persistent).filter_map(storage) {
        sizes.entry(storage.key).or_insert((storage.element_size, storage.numel));
    }
    sizes
}
