//! The calls by which torch puts tensors together, read as data.

use occlude_pickle::{CallNode, Global, Node};

use super::bytes::{self, Inner};
use super::storage::{StorageBytes, StorageRef, storage};
use crate::array::Arrays;
use crate::dtype::Dtype;
use crate::error::{FormatError, StateError};
use crate::flatten::{Found, TensorSpec};
use crate::view::{self, Layout, Storage};

/// `torch.float32` and its kin, as `_rebuild_tensor_v3` names them.
const DTYPES: [(&str, Dtype); 10] = [
    ("float64", Dtype::F64),
    ("float32", Dtype::F32),
    ("float16", Dtype::F16),
    ("bfloat16", Dtype::BF16),
    ("int64", Dtype::I64),
    ("int32", Dtype::I32),
    ("int16", Dtype::I16),
    ("int8", Dtype::I8),
    ("uint8", Dtype::U8),
    ("bool", Dtype::Bool),
];

/// More dimensions than PyTorch has.
const MAX_RANK: usize = 64;

/// Finds the bytes of a storage by its key.
pub(crate) type Locate<'l> = dyn Fn(&str) -> Result<Option<StorageBytes>, FormatError> + 'l;

/// Reads a node as a tensor of torch or an array of numpy; `None` when it is neither.
pub(crate) fn tensor(
    node: Node<'_, '_>,
    arrays: &Arrays<'_>,
    locate: &Locate<'_>,
) -> Result<Option<Found>, FormatError> {
    if let Some(found) = arrays.read(node)? {
        return Ok(Some(found));
    }
    let Some(call) = node.call() else { return Ok(None) };
    rebuild(&call, &Source { arrays, locate })
}

/// A tensor that repeats its storage (a stride of zero) may be larger than it, up to this many bytes:
/// otherwise a few bytes of file could ask for any amount of memory.
const MAX_EXPANDED: usize = 16 << 20;

/// (part of a function's name, what it makes and what to do)
const KINDS: [(&str, &str); 6] = [
    ("qtensor", ": a quantised tensor; hint: save the model before it is quantised, or `dequantize()` it"),
    ("sparse", ": a sparse tensor; hint: `to_dense()`"),
    (
        "meta_tensor",
        ": a tensor on the device `meta`, which has no values; hint: save after the weights are loaded",
    ),
    ("device_tensor", ": a tensor on XLA or another device; hint: move it to the CPU before it is saved"),
    ("xla", ": a tensor on XLA; hint: move it to the CPU before it is saved"),
    ("nested", ": a nested tensor"),
];

/// Wrappers are followed this far; nobody nests them.
const MAX_WRAPPERS: usize = 8;

/// Where the bytes of storages come from.
struct Source<'s, 'f> {
    arrays: &'s Arrays<'f>,
    locate: &'s Locate<'s>,
}

fn rebuild(call: &CallNode<'_, '_>, source: &Source<'_, '_>) -> Result<Option<Found>, FormatError> {
    let (mut module, mut name, mut args) = callee(call);
    for _ in 0..MAX_WRAPPERS {
        match (module.as_str(), name.as_str()) {
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2" | "_rebuild_tensor_v3") => {
                return plain(&name, &args, source).map(Some);
            }
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")
            | ("torch.nn.parameter", "Parameter" | "Buffer") => {
                let Some(inner) = args.first().and_then(|data| data.call()) else { return Ok(None) };
                (module, name, args) = callee(&inner);
            }
            ("torch._tensor", "_rebuild_from_type_v2") => {
                let inner = args.get(2).filter(|a| a.size() <= MAX_RANK).and_then(|a| a.items());
                let inner = args.first().and_then(|f| f.global()).zip(inner);
                let Some((function, inner)) = inner else { return Ok(None) };
                (module, name, args) =
                    (function.module.to_string(), function.name.to_string(), inner.collect());
            }
            ("torch._utils" | "torch._tensor", other) if other.starts_with("_rebuild_") => {
                let kind = KINDS.iter().find(|(part, _)| other.contains(part)).map_or("", |(_, kind)| kind);
                let reason = format!("it was made by `{other}`, which is not supported{kind}");
                return Ok(Some(Found::Skipped(reason)));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

fn callee<'p, 'a>(call: &CallNode<'p, 'a>) -> (String, String, Vec<Node<'p, 'a>>) {
    (call.global.module.to_string(), call.global.name.to_string(), call.args.clone())
}

/// `_rebuild_tensor*(storage, offset, size, stride, requires_grad, hooks, [dtype,] metadata)`.
fn plain(name: &str, args: &[Node<'_, '_>], source: &Source<'_, '_>) -> Result<Found, FormatError> {
    let bad = || FormatError::from(StateError::BadTensor);
    let [id, offset, size, stride, rest @ ..] = args else { return Err(bad()) };
    let Some(storage) = source.storage(*id)? else {
        return Ok(Found::Skipped("its storage is not one that `torch.save` or `pickle` writes".into()));
    };
    let sizes = |node: &Node<'_, '_>| {
        let sizes = node.items().filter(|sizes| sizes.len() <= MAX_RANK)?;
        sizes.map(Node::as_usize).collect::<Option<Vec<_>>>()
    };
    let (shape, strides) = (sizes(size).ok_or_else(bad)?, sizes(stride).ok_or_else(bad)?);
    if shape.len() != strides.len() {
        return Err(bad());
    }
    let v3 = name == "_rebuild_tensor_v3";
    // Lazily conjugated or negated tensors say so in their metadata.
    let metadata = rest.get(if v3 { 3 } else { 2 }).filter(|m| m.size() <= MAX_RANK);
    let metadata = metadata.and_then(|m| m.entries()).unwrap_or_default();
    if metadata.iter().any(|(_, value)| value.as_bool() == Some(true)) {
        return Ok(Found::Skipped("it is a conjugated or negated view".into()));
    }
    let named = rest.get(2).filter(|_| v3).and_then(|d| d.global());
    let dtype = if v3 { named.and_then(named_dtype) } else { storage.dtype };
    let Some(dtype) = dtype else {
        let name = named.map_or(storage.type_name, |global| &global.name);
        return Ok(Found::Skipped(format!("its type (`{name}`) is not supported")));
    };
    let Place { bytes, len, swapped } = source.place(&storage)?;
    let offset = offset.as_usize().and_then(|o| o.checked_add(storage.offset)).ok_or_else(bad)?;
    if dtype.bytes_of(&shape).is_none_or(|wanted| wanted > len.max(MAX_EXPANDED)) {
        return Err(StateError::Expanded { shape, bytes: len }.into());
    }
    let extent = view::extent(&shape, offset, &strides).and_then(|n| n.checked_mul(dtype.size()));
    if extent.is_none_or(|extent| extent > len) {
        return Err(StateError::OutsideStorage { shape, strides, offset, bytes: len }.into());
    }
    let layout = if view::is_row_major(&shape, &strides) {
        Layout::Contiguous { offset: offset * dtype.size() }
    } else {
        Layout::Strided { offset, strides }
    };
    Ok(Found::Tensor(TensorSpec { dtype, shape, storage: bytes, layout, swapped }))
}

/// A storage that a tensor refers to, before its bytes are looked for: most tensors that are not read have none.
struct Named<'p> {
    dtype: Option<Dtype>,
    type_name: &'p str,
    /// First element, for the views of old files.
    offset: usize,
    from: From<'p>,
}

enum From<'p> {
    /// Beside the pickle, by its key.
    Key(&'p str),
    /// In it.
    Inside(Storage, usize),
}

/// Bytes of a storage.
struct Place {
    bytes: Storage,
    len: usize,
    /// Whether they are big-endian.
    swapped: bool,
}

impl Source<'_, '_> {
    /// The storage that a node names or holds; `None` where it does neither.
    fn storage<'p>(&self, node: Node<'p, '_>) -> Result<Option<Named<'p>>, FormatError> {
        if let Some(StorageRef { key, dtype, offset, type_name, .. }) = node.persistent().and_then(storage) {
            return Ok(Some(Named { dtype, type_name, offset, from: From::Key(key) }));
        }
        let inner = bytes::read(node, self.arrays)?;
        Ok(inner.map(|Inner { storage, len, about }| {
            let from = From::Inside(storage, len);
            Named { dtype: about.dtype, type_name: about.type_name, offset: 0, from }
        }))
    }

    fn place(&self, storage: &Named<'_>) -> Result<Place, FormatError> {
        match &storage.from {
            From::Inside(bytes, len) => Ok(Place { bytes: bytes.clone(), len: *len, swapped: false }),
            From::Key(key) => {
                let found = (self.locate)(key)?;
                let missing = || StateError::StorageMissing { key: (*key).to_owned() };
                let StorageBytes { range, swapped } = found.ok_or_else(missing)?;
                Ok(Place { len: range.len(), bytes: Storage::Raw(range), swapped })
            }
        }
    }
}

fn named_dtype(global: &Global<'_>) -> Option<Dtype> {
    DTYPES.iter().find(|(name, _)| global.module == "torch" && *name == global.name).map(|(_, dtype)| *dtype)
}
