//! Storages by their names.

use std::ops::Range;

use occlude_pickle::Node;

use crate::dtype::Dtype;

/// Where the bytes of a storage lie in the file.
#[derive(Clone, Debug)]
pub(crate) struct StorageBytes {
    pub(super) range: Range<usize>,
    /// Whether they are big-endian.
    pub(super) swapped: bool,
}

/// A storage as the pickle names it.
pub(super) struct StorageRef<'p> {
    pub(super) key: &'p str,
    /// `None` for types that are not read here, and for untyped storages.
    pub(super) dtype: Option<Dtype>,
    /// Bytes of one element, also of types that are not read here.
    pub(super) element_size: usize,
    /// Elements.
    pub(super) numel: usize,
    /// First element, for the views of old files.
    pub(super) offset: usize,
    pub(super) type_name: &'static str,
}

/// (class, type, bytes of an element)
const STORAGES: [(&str, Option<Dtype>, usize); 18] = [
    ("DoubleStorage", Some(Dtype::F64), 8),
    ("FloatStorage", Some(Dtype::F32), 4),
    ("HalfStorage", Some(Dtype::F16), 2),
    ("BFloat16Storage", Some(Dtype::BF16), 2),
    ("LongStorage", Some(Dtype::I64), 8),
    ("IntStorage", Some(Dtype::I32), 4),
    ("ShortStorage", Some(Dtype::I16), 2),
    ("CharStorage", Some(Dtype::I8), 1),
    ("ByteStorage", Some(Dtype::U8), 1),
    ("BoolStorage", Some(Dtype::Bool), 1),
    ("UntypedStorage", None, 1),
    ("ComplexDoubleStorage", None, 16),
    ("ComplexFloatStorage", None, 8),
    ("QInt32Storage", None, 4),
    ("QInt8Storage", None, 1),
    ("QUInt8Storage", None, 1),
    ("QUInt4x2Storage", None, 1),
    ("QUInt2x4Storage", None, 1),
];

/// Parts of a persistent id: six, and the view of old files.
const MAX_ID: usize = 8;
/// Bytes of a storage's key: a number, or an address.
pub(super) const MAX_KEY: usize = 256;

/// Reads `('storage', class, key, location, elements, view)`.
pub(super) fn storage<'p>(id: Node<'p, '_>) -> Option<StorageRef<'p>> {
    let parts: Vec<_> = id.items().filter(|parts| parts.len() <= MAX_ID)?.collect();
    let [kind, class, key, _location, numel, rest @ ..] = parts.as_slice() else { return None };
    let class = class.global()?;
    if kind.as_str() != Some("storage") || !matches!(&*class.module, "torch" | "torch.cuda" | "torch.storage")
    {
        return None;
    }
    let &(type_name, dtype, element_size) = STORAGES.iter().find(|(name, ..)| *name == class.name)?;
    // A view of old files is (key of the view, first element, elements).
    let view = rest.first().and_then(|v| v.items()).and_then(|mut v| v.nth(1)?.as_usize());
    let (key, numel) = (key.as_str().filter(|key| key.len() <= MAX_KEY)?, numel.as_usize()?);
    Some(StorageRef { key, dtype, element_size, numel, offset: view.unwrap_or(0), type_name })
}
