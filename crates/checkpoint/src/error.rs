//! What can go wrong, one variant per failure.

use std::io;
use std::path::PathBuf;

use occlude_encoder::layout::LayoutError;

use crate::encoder::{LoadReport, join};

/// Why a checkpoint could not be opened, loaded or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {reason}", path = path.display())]
    Io {
        /// `open`, `map`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The content is no checkpoint format that is read here.
    #[error("`{path}` is no checkpoint that can be read: {looks}", path = path.display())]
    Unrecognised {
        /// The file.
        path: PathBuf,
        /// What it looks like instead, with a hint where there is one.
        looks: &'static str,
    },
    /// A damaged or hostile safetensors file.
    #[error("`{path}` is not a valid safetensors file: {reason}", path = path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: SafetensorsError,
    },
    /// A tensor's bytes cannot be decoded.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// No encoder, or more than one, in the state dict.
    #[error("`{path}`: {reason}", path = path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: LayoutError,
    },
    /// The metadata names an architecture that does not exist here.
    #[error("`{path}`: {reason}; hint: name one with `--arch`", path = path.display())]
    Arch {
        /// The file.
        path: PathBuf,
        /// The name, and those that are known.
        reason: occlude_encoder::UnknownArch,
    },
    /// Parameters are missing or of the wrong shape.
    #[error(
        "`{path}` does not hold a complete {arch} below the prefix `{prefix}`: {report}; hint: name another architecture with `--arch` or another prefix with `--prefix`",
        path = path.display()
    )]
    Strict {
        /// The file.
        path: PathBuf,
        /// The architecture it was held against.
        arch: occlude_encoder::Arch,
        /// The prefix.
        prefix: String,
        /// What matched and what did not.
        report: Box<LoadReport>,
    },
    /// A file could not be written.
    #[error("cannot save `{path}`: {reason}", path = path.display())]
    Save {
        /// The target.
        path: PathBuf,
        /// What is wrong.
        reason: SaveError,
    },
}

/// What is wrong with a safetensors file.
///
/// The format: <https://github.com/huggingface/safetensors#format>
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsError {
    /// Shorter than its own header.
    #[error("the file has {got} bytes, its header alone needs {expected}: truncated")]
    Truncated {
        /// Bytes that the header asks for.
        expected: u64,
        /// Bytes of the file.
        got: u64,
    },
    /// The header is larger than any real one.
    #[error("the header claims {got} bytes, more than the {limit} that are accepted")]
    HeaderTooLarge {
        /// As claimed.
        got: u64,
        /// The cap.
        limit: u64,
    },
    /// The header is not the JSON it should be; also repeated names.
    #[error("bad header: {0}")]
    Header(serde_json::Error),
    /// A tensor's byte range and its shape disagree.
    #[error("tensor `{name}` of shape {shape:?} and type {dtype} cannot take the bytes {begin}..{end}")]
    Size {
        /// The tensor.
        name: String,
        /// As declared.
        dtype: String,
        /// As declared.
        shape: Vec<usize>,
        /// First byte.
        begin: u64,
        /// Byte behind the last.
        end: u64,
    },
    /// The tensors' ranges overlap or leave holes.
    #[error("tensor `{name}` begins at byte {got}, the one before it ends at {expected}")]
    Gap {
        /// The tensor.
        name: String,
        /// Where it should begin.
        expected: u64,
        /// Where it begins.
        got: u64,
    },
    /// The data part is shorter or longer than the tensors say.
    #[error("the tensors need {expected} bytes of data, the file has {got}")]
    DataLength {
        /// Bytes that the tensors take.
        expected: u64,
        /// Bytes behind the header.
        got: u64,
    },
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The operating system refused.
    #[error("{0}")]
    Io(io::Error),
    /// Two tensors of one name.
    #[error("two tensors are named `{0}`")]
    Duplicate(String),
    /// The name that safetensors keeps for itself.
    #[error("a tensor cannot be named `__metadata__`")]
    Reserved,
    /// The data is not as long as shape and type ask.
    #[error("tensor `{name}` of shape {shape:?} and type {dtype} cannot have {got} bytes")]
    Length {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its type.
        dtype: crate::Dtype,
        /// Bytes given.
        got: usize,
    },
    /// numpy has no such type.
    #[error("tensor `{name}`: numpy has no {dtype}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: crate::Dtype,
    },
}

impl std::fmt::Display for LoadReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} matched", self.matched)?;
        if !self.missing.is_empty() {
            write!(f, ", {} missing ({})", self.missing.len(), join(&self.missing))?;
        }
        if !self.mis_shaped.is_empty() {
            let names: Vec<_> = self
                .mis_shaped
                .iter()
                .map(|m| format!("{}: expected {:?}, got {:?}", m.name, m.expected, m.got))
                .collect();
            write!(f, ", {} of the wrong shape ({})", names.len(), join(&names))?;
        }
        if !self.unused.is_empty() {
            write!(f, ", {} unused ({})", self.unused.len(), join(&self.unused))?;
        }
        Ok(())
    }
}
