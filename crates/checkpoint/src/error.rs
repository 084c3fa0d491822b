//! What can go wrong, one variant per failure.

use std::io;
use std::path::PathBuf;

use occlude_encoder::layout::LayoutError;

use crate::format::Format;
use crate::report::{LoadReport, join};

/// Why a checkpoint could not be opened, loaded or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} `{path}`: {reason}", path = path.display())]
    Io {
        /// `open`, `map`, `write`.
        action: &'static str,
        path: PathBuf,
        reason: io::Error,
    },
    /// The content is no checkpoint format that is read here.
    #[error("cannot read `{path}` as a checkpoint: {looks}", path = path.display())]
    Unrecognised {
        path: PathBuf,
        /// What it looks like instead, with a hint where there is one.
        looks: &'static str,
    },
    /// A damaged, hostile or unsupported file of a known format.
    #[error("cannot read `{path}` as {format}: {reason}", path = path.display())]
    Damaged {
        path: PathBuf,
        /// What its first bytes say it is.
        format: Format,
        reason: FormatError,
    },
    /// A tensor's bytes cannot be decoded.
    #[error("tensor `{name}`: {reason}")]
    Tensor { name: String, reason: &'static str },
    /// A value that no network can compute with.
    #[error(
        "`{path}`: `{name}` holds {value} ({count} such values, the first at {at}): {reason}",
        path = path.display()
    )]
    Value {
        path: PathBuf,
        /// The tensor, as the file names it.
        name: String,
        /// The first such value, in single precision.
        value: f32,
        /// Its position, row-major.
        at: usize,
        /// How many there are in the tensor.
        count: usize,
        reason: BadValue,
    },
    /// No encoder, or more than one, in the state dict.
    #[error("`{path}`: {reason}", path = path.display())]
    Layout { path: PathBuf, reason: LayoutError },
    /// The configuration beside the file is of a network that only looks like one of ours.
    #[error(
        "`{path}` has `{setting}`: {what}, which is not supported and does not show in the weights alone",
        path = path.display()
    )]
    Setting {
        /// The configuration.
        path: PathBuf,
        /// The setting, with its value.
        setting: String,
        /// What it means.
        what: &'static str,
    },
    /// The metadata names an architecture that does not exist here.
    #[error("`{path}`: {reason}; hint: name one with `--arch`", path = path.display())]
    Arch {
        path: PathBuf,
        /// The name, and those that are known.
        reason: occlude_encoder::UnknownArch,
    },
    /// Parameters are missing or of the wrong shape, or the file has more than the architecture.
    #[error(
        "`{path}` does not hold a {arch} below the prefix `{prefix}`: {report}; hint: name another architecture with `--arch` or another prefix with `--prefix`",
        path = path.display()
    )]
    Strict {
        path: PathBuf,
        /// The architecture it was held against.
        arch: occlude_encoder::Arch,
        prefix: String,
        /// What matched and what did not.
        report: Box<LoadReport>,
    },
    /// The file says that its embeddings are whitened, and has not what that takes.
    #[error(
        "`{path}` says that its embeddings are whitened, but {reason}; hint: make it again with `occlude-train whiten`",
        path = path.display()
    )]
    Whitening {
        path: PathBuf,
        /// What is missing or does not fit.
        reason: String,
    },
    /// A file could not be written.
    #[error("cannot save `{path}`: {reason}", path = path.display())]
    Save {
        /// The target.
        path: PathBuf,
        reason: SaveError,
    },
}

/// What is wrong with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Infinite or no number, in single precision.
    #[error(
        "everything computed from it would be NaN or infinite; hint: the training has diverged or the file is damaged, use an earlier checkpoint"
    )]
    NotFinite,
    /// A running variance below zero.
    #[error(
        "a variance is never negative; hint: the file is damaged, or its statistics were rounded below zero: set those to 0 in PyTorch and save it again"
    )]
    Negative,
}

/// What is wrong with a file, by the layer that found it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum FormatError {
    /// In a safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// In a zip archive.
    #[error(transparent)]
    Zip(#[from] ZipError),
    /// In a pickle.
    #[error("{part}: {reason}")]
    Pickle {
        /// Which one of the file.
        part: &'static str,
        reason: occlude_pickle::Error,
    },
    /// In what the pickle describes.
    #[error(transparent)]
    State(#[from] StateError),
}

impl FormatError {
    pub(crate) fn pickle(reason: occlude_pickle::Error, part: &'static str) -> Self {
        Self::Pickle { part, reason }
    }
}

/// What is wrong with a zip archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ZipError {
    /// No directory at the end: nearly always a download that stopped.
    #[error("the zip archive has no directory at its end: truncated; hint: download the file again")]
    NoDirectory,
    /// Fields that contradict each other.
    #[error("the zip archive is damaged in {0}")]
    Damaged(&'static str),
    /// More records than any checkpoint has.
    #[error("the zip archive claims {got} records, more than the {limit} that are accepted")]
    TooManyRecords {
        /// As claimed.
        got: u64,
        limit: u64,
    },
    /// Two records of one name, about which readers disagree.
    #[error("the zip archive has two records named `{0}`")]
    Duplicate(String),
    /// A record that PyTorch does not write so.
    #[error(
        "record `{name}` is compressed (method {method}), which `torch.save` never does; hint: unzip the archive and zip it with `zip -0`"
    )]
    Compressed {
        name: String,
        /// zip's number of the method.
        method: u16,
    },
    /// Two records that share bytes.
    #[error("record `{0}` overlaps the one before it, which `torch.save` never writes")]
    Overlap(String),
    /// A record that would be unpacked somewhere else.
    #[error("record `{0}` points outside the archive")]
    Path(String),
    /// A record with a password.
    #[error("record `{0}` is encrypted")]
    Encrypted(String),
    /// A record that does not lie in the file.
    #[error("record `{0}` extends past its place in the file or has no header: truncated or damaged")]
    Outside(String),
    /// A zip archive of something else.
    #[error("the zip archive has no `data.pkl`, so `torch.save` did not write it")]
    NoPickle,
    /// Several checkpoints in one archive.
    #[error("the zip archive has several records `data.pkl`")]
    TwoPickles,
}

/// What is wrong with the objects that a pickle describes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum StateError {
    /// Nothing in it is a tensor.
    #[error("no tensors found: the file holds {holds}{}", referring(globals))]
    NoTensors {
        /// The kind of the outermost object.
        holds: &'static str,
        /// Classes and functions that it refers to.
        globals: Vec<String>,
    },
    /// A compiled program.
    #[error(
        "it is a TorchScript archive; hint: save its weights with `torch.save(torch.jit.load(FILE).state_dict(), OUT)`"
    )]
    TorchScript,
    /// A `byteorder` record that is neither `little` nor `big`.
    #[error("unknown byte order `{0}`")]
    ByteOrder(String),
    /// Occlude's own metadata is not the JSON it should be.
    #[error("bad metadata: {0}")]
    Metadata(serde_json::Error),
    /// A legacy stream whose parts contradict each other.
    #[error("the legacy stream is damaged: {0}")]
    Legacy(&'static str),
    /// A tensor whose storage is not in the file.
    #[error("storage `{key}` is not in the file, or not all of it: truncated")]
    StorageMissing {
        /// Its key.
        key: String,
    },
    /// A tensor that reaches past its storage.
    #[error(
        "a tensor of shape {shape:?}, strides {strides:?} and offset {offset} reaches past its storage of {bytes} bytes"
    )]
    OutsideStorage {
        /// Its shape.
        shape: Vec<usize>,
        /// Its strides, in elements.
        strides: Vec<usize>,
        /// Its first element.
        offset: usize,
        /// Bytes of the storage.
        bytes: usize,
    },
    /// A tensor that repeats a small storage into something huge.
    #[error("a tensor of shape {shape:?} would expand a storage of {bytes} bytes")]
    Expanded {
        /// Its shape.
        shape: Vec<usize>,
        /// Bytes of the storage.
        bytes: usize,
    },
    /// A tensor whose description has the wrong form.
    #[error("a tensor is not described the way `torch.save` does it")]
    BadTensor,
    /// More than any checkpoint has.
    #[error("the file has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        limit: usize,
    },
}

fn referring(globals: &[String]) -> String {
    if globals.is_empty() { String::new() } else { format!(" and refers to {}", join(globals)) }
}

/// What is wrong with a safetensors file.
///
/// The format: <https://github.com/huggingface/safetensors#format>
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
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
        limit: u64,
    },
    /// The header is not the JSON it should be; also repeated names.
    #[error("bad header: {0}")]
    Header(serde_json::Error),
    /// A tensor's byte range and its shape disagree.
    #[error("tensor `{name}` of shape {shape:?} and type {dtype} cannot occupy the bytes {begin}..{end}")]
    Size {
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
#[allow(missing_docs, reason = "the messages say what the fields are")]
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
        name: String,
        /// Its type.
        dtype: crate::Dtype,
    },
}

#[cfg(test)]
mod tests;
