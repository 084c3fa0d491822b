//! What `torch.save` writes, both formats.

mod archive;
mod legacy;
mod rebuild;

pub(crate) use archive::{damaged as damaged_records, read as read_zip};
pub(crate) use legacy::{looks_like as looks_legacy, read as read_legacy};
