//! What `torch.save` writes, both formats.

mod archive;
mod bytes;
mod legacy;
mod rebuild;
mod write;

pub(crate) use archive::{damaged as damaged_records, read as read_zip};
pub(crate) use bytes::Stream;
pub(crate) use legacy::{looks_like as looks_legacy, read as read_legacy};
pub(crate) use rebuild::tensor;
pub use write::{TorchOuter, TorchValue, save_torch};

/// The record of Occlude's metadata: a JSON object of strings. PyTorch reads the records that it
/// knows and no others.
const METADATA_RECORD: &str = "extra/occlude.json";
