//! What `torch.save` writes, both formats.

mod archive;
mod bytes;
mod legacy;
mod rebuild;
mod storage;
mod write;

pub(crate) use archive::{damaged as damaged_records, read as read_zip};
pub(crate) use legacy::{looks_like as looks_legacy, read as read_legacy};
pub(crate) use rebuild::tensor;
pub use write::{TorchOuter, TorchValue, save_torch};

/// How a stream of PyTorch before 1.6 begins: 0x1950a86a20f9469cfc6c, as bytes of a Python integer, and its protocol.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// The record of Occlude's metadata: a JSON object of strings. PyTorch reads the records that it
/// knows and no others.
const METADATA_RECORD: &str = "extra/occlude.json";
