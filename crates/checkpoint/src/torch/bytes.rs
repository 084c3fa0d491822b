//! Storages inside of plain pickles.
//!
//! `pickle.dump` of a tensor has no file beside it: each storage is `torch.storage._load_from_bytes(b)`, where `b` is a
//! legacy stream of its own.

use std::ops::Range;

use occlude_pickle::{Limits, Node, Value, decode};

use super::storage::{StorageRef, storage};
use super::{MAGIC, PROTOCOL};
use crate::array::Arrays;
use crate::error::{FormatError, StateError};
use crate::view::Storage;

/// The head of such a stream is shorter, and its pickles have fewer instructions.
const MAX_HEAD: usize = 4096;
const FEW: Limits =
    Limits { ops: 128, values: 64, members: 128, nesting: 8, globals: 8, decoded_bytes: 1024 };

/// A storage that a pickle holds itself.
pub(super) struct Inner {
    pub(super) storage: Storage,
    /// Bytes of it.
    pub(super) len: usize,
    /// Its type, as far as it has one.
    pub(super) about: Owned,
}

/// What a stream says of its storage.
pub(super) struct Owned {
    pub(super) dtype: Option<crate::dtype::Dtype>,
    pub(super) type_name: &'static str,
}

/// Reads a node as such a call; `None` when it is something else.
pub(super) fn read(node: Node<'_, '_>, arrays: &Arrays<'_>) -> Result<Option<Inner>, FormatError> {
    let Some(call) = node.call() else { return Ok(None) };
    if (&*call.global.module, &*call.global.name) != ("torch.storage", "_load_from_bytes") {
        return Ok(None);
    }
    let Some(stream) = call.args.first().and_then(|data| arrays.bytes(*data)) else { return Ok(None) };
    let stream = stream?;
    let head = stream.head(MAX_HEAD)?;
    let (about, range) = head_of(&head)?;
    let storage = stream.part(range.clone())?;
    let storage = storage.ok_or_else(|| StateError::StorageMissing { key: "in a pickle".to_owned() })?;
    Ok(Some(Inner { storage, len: range.len(), about }))
}

/// The storage that a stream holds, and where in the stream its elements lie.
fn head_of(head: &[u8]) -> Result<(Owned, Range<usize>), FormatError> {
    let damaged = |what| FormatError::from(StateError::Legacy(what));
    let mut at = 0;
    let mut next = |part: &'static str| {
        let pickle =
            decode(head.get(at..).unwrap_or_default(), &FEW).map_err(|e| FormatError::pickle(e, part))?;
        at += pickle.consumed();
        Ok::<_, FormatError>(pickle)
    };
    let magic = next("the magic number of a storage")?;
    if !matches!(magic.root().value(), Value::Long(bytes) if bytes.starts_with(&MAGIC)) {
        return Err(damaged("a storage in it has no magic number"));
    }
    if next("the protocol of a storage")?.root().as_i64() != Some(PROTOCOL) {
        return Err(damaged("the protocol of a storage is not 1001"));
    }
    next("the system information of a storage")?;
    let object = next("a storage")?;
    next("the key of a storage")?;
    let found = object.root().persistent().and_then(storage);
    let StorageRef { dtype, element_size, numel, type_name, .. } =
        found.ok_or_else(|| damaged("a storage in it is not valid"))?;
    let count = head.get(at..).and_then(|rest| rest.first_chunk());
    if count.map(|count| u64::from_le_bytes(*count)) != Some(numel as u64) {
        return Err(damaged("a storage is not as long as it says"));
    }
    let begin = at + 8;
    let end = numel.checked_mul(element_size).and_then(|len| begin.checked_add(len));
    let end = end.ok_or_else(|| damaged("a storage is not as long as it says"))?;
    Ok((Owned { dtype, type_name }, begin..end))
}
