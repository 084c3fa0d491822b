//! The zip format as `torch.save` writes it, such that `torch.load(weights_only=True)` reads it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use occlude_pickle::Encoder;
use sha2::{Digest, Sha256};

use super::METADATA_RECORD;
use crate::dtype::Dtype;
use crate::error::{Error, SaveError};
use crate::out::{TensorOut, check};
use crate::view::row_major;
use crate::zip::{Record, ZipWriter};

/// The folder that all records are in; `torch.save` into memory names it so, too.
const ROOT: &str = "archive";
/// PyTorch's own version of the format, the one since 1.6.
const VERSION: &[u8] = b"3\n";

/// What a torch file holds around and beside its tensors.
#[derive(Clone, Debug, Default)]
pub struct TorchOuter {
    /// `None`: the state dict is the whole file. Otherwise the file is a dictionary of these values,
    /// in order, and `state_dict`.
    pub beside: Option<Vec<(String, TorchValue)>>,
    /// Kept in a record of its own, where PyTorch does not look and
    /// [`Checkpoint::metadata`](crate::Checkpoint::metadata) does: further keys in the state dict
    /// would not survive a strict load.
    pub metadata: BTreeMap<String, String>,
}

/// A value beside the state dict.
#[derive(Clone, Debug, PartialEq)]
pub enum TorchValue {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// Text.
    Str(String),
}

/// Writes a `.pth` that `torch.load` reads, also with `weights_only=True` and `mmap=True`, and
/// replaces the target atomically. PyTorch 1.6 and later read it.
///
/// The state dict is an `OrderedDict` in the order given. Every tensor has a storage of its own,
/// stored (not compressed) and aligned to 64 bytes, little-endian. The data is streamed as it is
/// given; the same input gives the same bytes.
///
/// # Errors
/// [`Error::Save`] for repeated names, data of the wrong length, and whatever the operating system
/// refuses.
pub fn save_torch(path: &Path, tensors: &[TensorOut<'_>], outer: &TorchOuter) -> Result<(), Error> {
    let fail = |reason| Error::Save { path: path.to_owned(), reason };
    check(tensors).map_err(fail)?;
    let pickle = pickle(tensors, outer).map_err(|e| fail(SaveError::Io(e)))?;
    let metadata = serde_json::to_vec(&outer.metadata).map_err(|e| fail(SaveError::Io(e.into())))?;
    let records = records(tensors, outer, &pickle, &metadata);
    let id = serialization_id(&records);
    occlude_output::write(path, |out| {
        let mut zip = ZipWriter::new(out);
        records.iter().try_for_each(|record| zip.write(record))?;
        zip.write(&record(".data/serialization_id", id.as_bytes()))?;
        zip.finish().map(drop)
    })
    .map_err(|e| fail(SaveError::Io(e)))
}

fn record<'a>(name: &str, data: &'a [u8]) -> Record<'a> {
    Record::new(format!("{ROOT}/{name}"), data)
}

/// Every record but the last. PyTorch takes the folder's name from the first one.
fn records<'a>(
    tensors: &'a [TensorOut<'_>],
    outer: &TorchOuter,
    pickle: &'a [u8],
    metadata: &'a [u8],
) -> Vec<Record<'a>> {
    let mut records = vec![record("data.pkl", pickle), record("byteorder", b"little")];
    if !outer.metadata.is_empty() {
        records.push(record(METADATA_RECORD, metadata));
    }
    records.extend(tensors.iter().enumerate().map(|(i, t)| record(&format!("data/{i}"), &t.data)));
    records.push(record("version", VERSION));
    records
}

/// Forty digits that tell files apart; PyTorch logs them and does not check them.
fn serialization_id(records: &[Record<'_>]) -> String {
    let mut hash = Sha256::new();
    for record in records {
        hash.update(record.name.as_bytes());
        hash.update((record.data.len() as u64).to_le_bytes());
        hash.update(record.crc.to_le_bytes());
    }
    let digest = hash.finalize();
    let (halves, _) = digest.as_slice().as_chunks::<8>();
    halves.iter().take(2).map(|half| format!("{:020}", u64::from_le_bytes(*half))).collect()
}

/// `data.pkl`: protocol 2, the one that the restricted reader accepts without a warning.
fn pickle(tensors: &[TensorOut<'_>], outer: &TorchOuter) -> io::Result<Vec<u8>> {
    let mut pickle = Encoder::protocol2(Vec::new())?;
    match &outer.beside {
        None => state_dict(&mut pickle, tensors)?,
        Some(beside) => {
            pickle.dict_start()?;
            for (key, value) in beside {
                pickle.str(key)?;
                match value {
                    TorchValue::Int(n) => pickle.int(*n)?,
                    TorchValue::Float(x) => pickle.float(*x)?,
                    TorchValue::Str(text) => pickle.str(text)?,
                }
            }
            pickle.str("state_dict")?;
            state_dict(&mut pickle, tensors)?;
            pickle.dict_end()?;
        }
    }
    pickle.finish()
}

fn ordered_dict<W: Write>(pickle: &mut Encoder<W>) -> io::Result<()> {
    pickle.global("collections", "OrderedDict")?;
    pickle.tuple_start()?;
    pickle.tuple_end()?;
    pickle.reduce()
}

fn state_dict<W: Write>(pickle: &mut Encoder<W>, tensors: &[TensorOut<'_>]) -> io::Result<()> {
    ordered_dict(pickle)?;
    pickle.entries_start()?;
    for (i, tensor) in tensors.iter().enumerate() {
        pickle.str(&tensor.name)?;
        self::tensor(pickle, tensor, &i.to_string())?;
    }
    pickle.dict_end()
}

/// `_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`.
fn tensor<W: Write>(pickle: &mut Encoder<W>, tensor: &TensorOut<'_>, key: &str) -> io::Result<()> {
    let elements = tensor.data.len() / tensor.dtype.size();
    pickle.global("torch._utils", "_rebuild_tensor_v2")?;
    pickle.tuple_start()?;
    pickle.tuple_start()?;
    pickle.str("storage")?;
    pickle.global("torch", storage_class(tensor.dtype))?;
    pickle.str(key)?;
    pickle.str("cpu")?;
    pickle.int(i64::try_from(elements).map_err(io::Error::other)?)?;
    pickle.tuple_end()?;
    pickle.persistent()?;
    pickle.int(0)?;
    pickle.sizes(&tensor.shape)?;
    pickle.sizes(&row_major(&tensor.shape))?;
    pickle.bool(false)?;
    ordered_dict(pickle)?;
    pickle.tuple_end()?;
    pickle.reduce()
}

fn storage_class(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F64 => "DoubleStorage",
        Dtype::F32 => "FloatStorage",
        Dtype::F16 => "HalfStorage",
        Dtype::BF16 => "BFloat16Storage",
        Dtype::I64 => "LongStorage",
        Dtype::I32 => "IntStorage",
        Dtype::I16 => "ShortStorage",
        Dtype::I8 => "CharStorage",
        Dtype::U8 => "ByteStorage",
        Dtype::Bool => "BoolStorage",
    }
}
