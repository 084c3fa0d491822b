//! safetensors: a length, a JSON header, the tensors' bytes.
//!
//! The format: <https://github.com/huggingface/safetensors#format>

mod header;
mod read;
mod write;

pub(crate) use read::{looks_like, read};
pub use write::save_safetensors;

/// Bytes of the length that a file begins with.
const LENGTH_BYTES: usize = 8;

/// Larger headers are refused. Real ones take about 120 bytes a tensor; parsing this much of a
/// hostile one stays below 200 MB of memory.
const MAX_HEADER: u64 = 32 << 20;

/// The key of the header that is no tensor.
const METADATA_KEY: &str = "__metadata__";
