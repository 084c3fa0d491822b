//! numpy arrays inside pickles.
//!
//! The state of an array is (version, shape, type, Fortran order, data):
//! <https://numpy.org/doc/stable/reference/generated/numpy.ndarray.__setstate__.html>

use std::sync::Arc;

use occlude_pickle::{CallNode, Limits, Node, Value, decode};

use crate::checkpoint::Index;
use crate::dtype::Dtype;
use crate::error::FormatError;
use crate::flatten::{Found, TensorSpec, flatten};
use crate::view::{Layout, Storage};

/// Reads a pickle of numpy arrays.
pub(crate) fn read_pickle(file: &[u8]) -> Result<Index, FormatError> {
    let pickle = decode(file, &Limits::default()).map_err(|e| FormatError::pickle(e, "the pickle"))?;
    flatten(&pickle, &|node| Ok(read(node, file)))
}

/// What an array consists of, before anything is held against anything.
struct Parts<'p, 'a> {
    shape: Node<'p, 'a>,
    dtype: Node<'p, 'a>,
    fortran: bool,
    data: Node<'p, 'a>,
}

/// Reads a node as an array whose data lies in `file`; `None` when it is something else.
pub(crate) fn read(node: Node<'_, '_>, file: &[u8]) -> Option<Found> {
    let call = node.call()?;
    let module = call.global.module.strip_prefix("numpy.")?;
    match (module, &*call.global.name) {
        ("core.multiarray" | "_core.multiarray", "_reconstruct") => Some(array(file, reconstructed(&call))),
        ("core.numeric" | "_core.numeric", "_frombuffer") => Some(array(file, from_buffer(&call))),
        _ => None,
    }
}

fn reconstructed<'p, 'a>(call: &CallNode<'p, 'a>) -> Option<Parts<'p, 'a>> {
    let state: Vec<_> = call.state?.items()?.collect();
    let [_version, shape, dtype, fortran, data] = *state.as_slice() else { return None };
    Some(Parts { shape, dtype, fortran: fortran.as_bool()?, data })
}

/// Protocol 5: `_frombuffer(buffer, dtype, shape, order)`.
fn from_buffer<'p, 'a>(call: &CallNode<'p, 'a>) -> Option<Parts<'p, 'a>> {
    let [data, dtype, shape, order] = *call.args.as_slice() else { return None };
    Some(Parts { shape, dtype, fortran: order.as_str()? == "F", data })
}

fn array(file: &[u8], parts: Option<Parts<'_, '_>>) -> Found {
    let skipped = |reason: &str| Found::Skipped(reason.to_owned());
    let Some(parts) = parts else { return skipped("its state is not one that numpy writes") };
    let shape = parts.shape.items().and_then(|s| s.map(Node::as_usize).collect::<Option<Vec<_>>>());
    let Some(shape) = shape else { return skipped("its shape is no tuple of sizes") };
    let Some((dtype, swapped)) = dtype(parts.dtype) else { return skipped("its type is not read here") };
    let Some(bytes) = data(parts.data) else { return skipped("its data is no bytes") };
    if dtype.bytes_of(&shape) != Some(bytes.len()) {
        return skipped("its data is not as long as its shape asks");
    }
    let Some(storage) = storage(file, &bytes) else { return skipped("its data is no bytes") };
    let layout = layout(&shape, parts.fortran);
    Found::Tensor(TensorSpec { dtype, shape, storage, layout, swapped })
}

/// Fortran order is column-major.
fn layout(shape: &[usize], fortran: bool) -> Layout {
    if !fortran || shape.len() < 2 {
        return Layout::Contiguous { offset: 0 };
    }
    let mut next = 1usize;
    let mut strides = Vec::with_capacity(shape.len());
    for &len in shape {
        strides.push(next);
        next = next.saturating_mul(len);
    }
    Layout::Strided { offset: 0, strides }
}

/// (type, big-endian) of `dtype('f4', ...)` with the state (version, byte order, sub-type, names, ...).
fn dtype(node: Node<'_, '_>) -> Option<(Dtype, bool)> {
    let call = node.call()?;
    if (&*call.global.module, &*call.global.name) != ("numpy", "dtype") {
        return None;
    }
    let code = call.args.first()?.as_str()?;
    let state: Vec<_> = call.state?.items()?.collect();
    let [_version, order, sub_type, names, ..] = state.as_slice() else { return None };
    if !(sub_type.is_none() && names.is_none()) {
        return None;
    }
    let dtype = match code {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        _ => return None,
    };
    Some((dtype, order.as_str()? == ">"))
}

/// Bytes as the pickle holds them.
enum Bytes<'p> {
    /// As they are.
    Raw(&'p [u8]),
    /// One code point each: (text, bytes it decodes to).
    Latin1(&'p str, usize),
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Raw(bytes) => bytes.len(),
            Self::Latin1(_, len) => *len,
        }
    }
}

/// Bytes, Python 2's strings, and `_codecs.encode(text, 'latin1')`, by which Python 3 writes bytes in
/// protocols that have none.
fn data<'p>(node: Node<'p, '_>) -> Option<Bytes<'p>> {
    if let Some(bytes) = node.as_bytes() {
        return Some(Bytes::Raw(bytes));
    }
    let call = node.call()?;
    let (module, name) = (&*call.global.module, &*call.global.name);
    match (module, name, call.args.as_slice()) {
        ("_codecs", "encode", [text, codec]) if matches!(codec.as_str()?, "latin1" | "latin-1") => {
            let Value::Str(text) = text.value() else { return None };
            let mut len = 0;
            for c in text.chars() {
                u8::try_from(u32::from(c)).ok()?;
                len += 1;
            }
            Some(Bytes::Latin1(text, len))
        }
        // An empty array.
        ("builtins" | "__builtin__", "bytes" | "bytearray", []) => Some(Bytes::Raw(&[])),
        _ => None,
    }
}

/// Turns bytes that lie in the file into a range of it; copies the few that had to be decoded.
fn storage(file: &[u8], bytes: &Bytes<'_>) -> Option<Storage> {
    Some(match bytes {
        Bytes::Raw(raw) => match range_in(file, raw) {
            Some(range) => Storage::Raw(range),
            None => Storage::Owned(Arc::from(*raw)),
        },
        Bytes::Latin1(text, len) => match range_in(file, text.as_bytes()) {
            Some(range) => Storage::Latin1 { range, len: *len },
            None => {
                let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
                Storage::Owned(bytes?.into())
            }
        },
    })
}

/// Where a part of the file lies in it; `None` for bytes from elsewhere.
fn range_in(file: &[u8], part: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= file.len()).then_some(start..end)
}
