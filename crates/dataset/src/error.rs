//! What can be wrong with a data set.

use std::io;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::ListError;
use occlude_preprocess::{DecodeError, names};

/// Why a data set cannot be opened, read or prepared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// A folder that is missing, no folder, unreadable, or without pictures.
    #[error(transparent)]
    Folder(#[from] ListError),
    /// Neither a folder, nor a list, nor a shard.
    #[error("`{}` is not a data set; hint: name a folder of pictures, a list (*.txt), a shard (*.tar), or a folder of shards", .path.display())]
    NotADataset { path: PathBuf },
    /// A file or folder that cannot be read.
    #[error("cannot read `{name}`: {reason}")]
    Read {
        /// The file, or `shard.tar:key.jpg`.
        name: String,
        reason: io::Error,
    },
    /// A bucket that is out of reach, or no longer what it was: that says nothing about a picture.
    #[error("cannot read `{name}` from its bucket: {reason}")]
    Store {
        /// The address, with the picture's name where it is one.
        name: String,
        reason: io::Error,
    },
    /// A bucket that cannot be used.
    #[cfg(feature = "buckets")]
    #[error(transparent)]
    Objects(#[from] occlude_objects::Error),
    /// A file or folder that cannot be written.
    #[error("cannot write `{}`: {reason}", .path.display())]
    Write {
        /// The target.
        path: PathBuf,
        reason: io::Error,
    },
    /// A file that is larger than any picture.
    #[error("`{name}` has {bytes} bytes: pictures may have at most {}", crate::limits::MAX_PICTURE_BYTES)]
    TooLarge {
        /// The file, or `shard.tar:key.jpg`.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// A file that is no usable picture.
    #[error("`{name}`: {reason}")]
    Decode {
        /// The file, or `shard.tar:key.jpg`.
        name: String,
        reason: DecodeError,
    },
    /// A tar file whose structure is broken.
    #[error("`{}` is not a valid tar file: {reason}{}", .path.display(), tar_hint(.reason))]
    Tar {
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A list or a shard without a picture.
    #[error("no pictures in `{}`; hint: {hint}", .path.display())]
    Empty {
        /// The list or shard.
        path: PathBuf,
        /// What is looked for.
        hint: &'static str,
    },
    /// A line of a text file that makes no sense.
    #[error("`{}`, line {line}: {reason}", .path.display())]
    Line {
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong, what was expected.
        reason: String,
    },
    /// A class that the names of the classes do not know.
    #[error("`{}`: the class `{label}` is neither a name in `{}` nor a number below {classes}", .path.display(), .names.display())]
    UnknownClass {
        /// The list or folder of shards.
        path: PathBuf,
        label: String,
        /// The file of names.
        names: PathBuf,
        /// How many names that has.
        classes: usize,
    },
    /// A class number that no data set has.
    #[error("`{}`: class number {label} is too large; expected less than {}", .path.display(), crate::limits::MAX_CLASSES)]
    ClassNumber {
        /// The list or folder of shards.
        path: PathBuf,
        label: String,
    },
    /// Names longer than 4 GiB in all.
    #[error("`{}` holds too many pictures for one data set; hint: split it", .path.display())]
    TooMany {
        /// The data set.
        path: PathBuf,
    },
    /// The target of a command is there already.
    #[error("`{}` exists and is not empty; hint: use another name, or remove it", .path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// What was given to a command does not fit.
    #[error("{what}; hint: {hint}")]
    Unsuitable {
        /// What, with names.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// An XML annotation that tells no class.
    #[error("cannot read a class from `{}`: {reason}", .path.display())]
    Annotation { path: PathBuf, reason: String },
    /// Worker threads could not be started.
    #[error("cannot start worker threads: {reason}")]
    Threads { reason: String },
}

/// What to do about a tar file, unless the reason says it.
fn tar_hint(reason: &str) -> &'static str {
    if reason.contains("hint:") { "" } else { "; hint: shards are plain, uncompressed tar files" }
}

impl Error {
    /// A failure to read the file at `path`.
    pub(crate) fn read(path: &Path, reason: io::Error) -> Self {
        Self::Read { name: names::of_path(path), reason }
    }

    /// A failure to write the file at `path`.
    pub(crate) fn write(path: &Path, reason: io::Error) -> Self {
        Self::Write { path: path.to_owned(), reason }
    }
}
