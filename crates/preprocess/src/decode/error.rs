//! What can be wrong with a picture file.

use std::io;
use std::path::PathBuf;

use super::{Format, Limits};
use crate::names;

/// Why bytes are not a picture that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum DecodeError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not a picture format that is known.
    #[error("not a picture: it starts with `{}`; expected {}", .start.escape_ascii(), Format::LISTED)]
    UnknownFormat {
        /// The first bytes, eight at most.
        start: Vec<u8>,
    },
    /// A picture format that is not read.
    #[error("`{name}` is not supported; hint: convert it to {}", Format::LISTED)]
    OtherFormat { name: &'static str },
    /// Larger than the limits.
    #[error(
        "{width}x{height} pixels: the limits are {} pixels and {} along a side",
        .limits.max_pixels, .limits.max_side
    )]
    TooLarge {
        width: u32,
        height: u32,
        /// What was allowed.
        limits: Limits,
    },
    /// A side of zero pixels.
    #[error("{width}x{height} pixels: the picture has no area")]
    ZeroSize { width: u32, height: u32 },
    /// The file ends before its picture does.
    #[error("truncated {}: the file ends before the picture does", .format.name())]
    Truncated {
        /// What the file begins as.
        format: Format,
    },
    /// The file has its end, but not all that its header promises.
    #[error("incomplete {}: {missing}", .format.name())]
    Incomplete {
        /// What the file begins as.
        format: Format,
        missing: String,
    },
    /// A variant of the format that the decoder does not know.
    #[error("unsupported kind of {}: {feature}; hint: save it again as an ordinary JPEG or PNG", .format.name())]
    Unsupported {
        /// What the file begins as.
        format: Format,
        /// The variant, in the decoder's words.
        feature: String,
    },
    /// Broken in any other way.
    #[error("broken {}: {reason}", .format.name())]
    Corrupt {
        /// What the file begins as.
        format: Format,
        /// In the decoder's words.
        reason: String,
    },
}

/// Why a picture file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {reason}", names::of_path(.path))]
    Read { path: PathBuf, reason: io::Error },
    /// The file is not a usable picture.
    #[error("`{}`: {reason}", names::of_path(.path))]
    Decode { path: PathBuf, reason: DecodeError },
}
