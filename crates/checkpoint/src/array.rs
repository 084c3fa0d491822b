//! numpy arrays inside pickles.
//!
//! The state of an array is (version, shape, type, Fortran order, data):
//! <https://numpy.org/doc/stable/reference/generated/numpy.ndarray.__setstate__.html>

use std::cell::Cell;
use std::sync::Arc;

use occlude_pickle::{CallNode, Limits, Node, Value};

use crate::dtype::Dtype;
use crate::error::{FormatError, StateError};
use crate::flatten::{Found, TensorSpec};
use crate::stream::Stream;
use crate::view::{Layout, Storage};

/// More dimensions than numpy has.
const MAX_RANK: usize = 64;

/// Reads arrays whose data lies in one file.
pub(crate) struct Arrays<'f> {
    file: &'f [u8],
    /// Bytes of text that may still be scanned, and of decoded data that may still be copied. Every
    /// array has its own data, so both are as much as a file can need; a hostile one names the same
    /// data again and again.
    scan: Cell<usize>,
    copy: Cell<usize>,
}

/// What an array consists of, before anything is held against anything.
struct Parts<'p, 'a> {
    shape: Node<'p, 'a>,
    dtype: Node<'p, 'a>,
    fortran: bool,
    data: Node<'p, 'a>,
}

impl<'f> Arrays<'f> {
    pub(crate) fn new(file: &'f [u8]) -> Self {
        let scan = Cell::new(file.len().saturating_mul(2));
        Self { file, scan, copy: Cell::new(Limits::default().decoded_bytes) }
    }

    /// Reads a node as an array; `None` when it is something else.
    pub(crate) fn read(&self, node: Node<'_, '_>) -> Result<Option<Found>, FormatError> {
        let Some(call) = node.call() else { return Ok(None) };
        let Some(module) = call.global.module.strip_prefix("numpy.") else { return Ok(None) };
        let parts = match (module, &*call.global.name) {
            ("core.multiarray" | "_core.multiarray", "_reconstruct") => reconstructed(&call),
            ("core.numeric" | "_core.numeric", "_frombuffer") => from_buffer(&call),
            _ => return Ok(None),
        };
        match parts {
            Some(parts) => self.array(&parts).map(Some),
            None => Ok(Some(Found::Skipped("its state is not in the form that numpy writes".into()))),
        }
    }

    fn array(&self, parts: &Parts<'_, '_>) -> Result<Found, FormatError> {
        let skipped = |reason: &str| Ok(Found::Skipped(reason.to_owned()));
        let shape = parts.shape.items().filter(|s| s.len() <= MAX_RANK);
        let shape = shape.and_then(|s| s.map(Node::as_usize).collect::<Option<Vec<_>>>());
        let Some(shape) = shape else { return skipped("its shape is not a tuple of sizes") };
        let Some((dtype, swapped)) = dtype(parts.dtype) else { return skipped("its type is not supported") };
        let Some(data) = data(parts.data) else { return skipped("its data is not bytes") };
        let (storage, len) = match data {
            Data::Raw(bytes) => (self.raw(bytes)?, bytes.len()),
            Data::Text(text) => match self.latin1(text)? {
                Some(decoded) => decoded,
                None => return skipped("its data is not bytes"),
            },
        };
        if dtype.bytes_of(&shape) != Some(len) {
            return skipped("its data does not have the length that its shape requires");
        }
        let layout = layout(&shape, parts.fortran);
        Ok(Found::Tensor(TensorSpec { dtype, shape, storage, layout, swapped }))
    }

    /// Bytes that lie in the file become a range of it; the few that had to be decoded are copied.
    fn raw(&self, bytes: &[u8]) -> Result<Storage, FormatError> {
        if let Some(range) = range_in(self.file, bytes) {
            return Ok(Storage::Raw(range));
        }
        spend(&self.copy, bytes.len(), Limits::default().decoded_bytes)?;
        Ok(Storage::Owned(Arc::from(bytes)))
    }

    /// Bytes that a node holds as a stream of their own; `None` where it holds none.
    pub(crate) fn bytes<'s>(&self, node: Node<'s, '_>) -> Option<Result<Stream<'s>, FormatError>> {
        Some(self.stream(data(node)?))
    }

    fn stream<'s>(&self, data: Data<'s>) -> Result<Stream<'s>, FormatError> {
        let copied = |len| spend(&self.copy, len, Limits::default().decoded_bytes);
        match data {
            Data::Raw(bytes) => {
                let place = range_in(self.file, bytes);
                if place.is_none() {
                    copied(bytes.len())?;
                }
                Ok(Stream::Raw(bytes, place))
            }
            Data::Text(text) => {
                spend(&self.scan, text.len(), self.file.len().saturating_mul(2))?;
                if let Some(place) = range_in(self.file, text.as_bytes()) {
                    return Ok(Stream::Text(text, place));
                }
                copied(text.len())?;
                let bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(0)).collect();
                Ok(Stream::Decoded(bytes))
            }
        }
    }

    /// (storage, bytes it decodes to) of text with one code point per byte; `None` for other text.
    fn latin1(&self, text: &str) -> Result<Option<(Storage, usize)>, FormatError> {
        spend(&self.scan, text.len(), self.file.len().saturating_mul(2))?;
        let mut len = 0;
        for c in text.chars() {
            if u8::try_from(u32::from(c)).is_err() {
                return Ok(None);
            }
            len += 1;
        }
        if let Some(range) = range_in(self.file, text.as_bytes()) {
            return Ok(Some((Storage::Latin1 { range, len }, len)));
        }
        spend(&self.copy, len, Limits::default().decoded_bytes)?;
        let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
        Ok(bytes.map(|bytes| (Storage::Owned(bytes.into()), len)))
    }
}

/// Takes from a budget.
fn spend(budget: &Cell<usize>, bytes: usize, limit: usize) -> Result<(), FormatError> {
    let rest = budget.get().checked_sub(bytes);
    budget.set(rest.ok_or(StateError::TooLarge { what: "bytes of encoded arrays", limit })?);
    Ok(())
}

fn reconstructed<'p, 'a>(call: &CallNode<'p, 'a>) -> Option<Parts<'p, 'a>> {
    let state: Vec<_> = call.state?.items()?.take(MAX_RANK).collect();
    let [_version, shape, dtype, fortran, data] = *state.as_slice() else { return None };
    Some(Parts { shape, dtype, fortran: fortran.as_bool()?, data })
}

/// Protocol 5: `_frombuffer(buffer, dtype, shape, order)`.
fn from_buffer<'p, 'a>(call: &CallNode<'p, 'a>) -> Option<Parts<'p, 'a>> {
    let [data, dtype, shape, order] = *call.args.as_slice() else { return None };
    Some(Parts { shape, dtype, fortran: order.as_str()? == "F", data })
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
    let state: Vec<_> = call.state?.items()?.take(MAX_RANK).collect();
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
#[derive(Clone, Copy)]
enum Data<'p> {
    /// As they are.
    Raw(&'p [u8]),
    /// One code point each.
    Text(&'p str),
}

/// Bytes, Python 2's strings, and `_codecs.encode(text, 'latin1')`, by which Python 3 writes bytes in
/// protocols that have none.
fn data<'p>(node: Node<'p, '_>) -> Option<Data<'p>> {
    if let Some(bytes) = node.as_bytes() {
        return Some(Data::Raw(bytes));
    }
    let call = node.call()?;
    let (module, name) = (&*call.global.module, &*call.global.name);
    match (module, name, call.args.as_slice()) {
        ("_codecs", "encode", [text, codec]) if matches!(codec.as_str()?, "latin1" | "latin-1") => {
            match text.value() {
                Value::Str(text) => Some(Data::Text(text)),
                _ => None,
            }
        }
        // An empty array.
        ("builtins" | "__builtin__", "bytes" | "bytearray", []) => Some(Data::Raw(&[])),
        _ => None,
    }
}

/// Where a part of the file lies in it; `None` for bytes from elsewhere.
fn range_in(file: &[u8], part: &[u8]) -> Option<std::ops::Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(file.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= file.len()).then_some(start..end)
}
