//! The part of zip that `torch.save` writes: stored records, also beyond 4 GiB.
//!
//! The format: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>

mod read;
mod write;

pub(crate) use read::Archive;
pub(crate) use write::{Record, ZipWriter};

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR64: &[u8; 4] = b"PK\x06\x07";
const LOCAL_LEN: usize = 30;

/// What a 32-bit size or offset says when the real one is in the zip64 extra field.
const IN_EXTRA: u64 = 0xffff_ffff;
