//! What can go wrong.

use std::io;
use std::path::{Path, PathBuf};

use occlude_contract::GoldenError;
use occlude_preprocess::{AllBroken, ContractError, ContractFileError, files::ListError};

use occlude_onnxruntime::LibraryError;

use crate::refusal::Refusal;

/// Why an export, a verification or an inspection failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The checkpoint cannot be opened, or holds no complete encoder.
    #[error(transparent)]
    Checkpoint(#[from] occlude_checkpoint::Error),
    /// The encoder was loaded without this parameter.
    #[error("the encoder has no `{name}`; hint: load it without `partial`")]
    MissingWeight {
        /// torchvision's name.
        name: String,
    },
    /// The preprocessing contract in a file, or the one that the flags make, is invalid.
    #[error("{origin}: {reason}")]
    Contract {
        /// Where it comes from.
        origin: String,
        reason: ContractError,
    },
    /// The weights are not those that the checkpoint was saved with.
    #[error(
        "`{}` says fingerprint {stored}, but its weights and contract have {computed}; hint: the file was changed after it was saved",
        .path.display()
    )]
    Fingerprint {
        path: PathBuf,
        /// In its metadata.
        stored: String,
        /// Of what is in it.
        computed: String,
    },
    /// A value that is no number, or became infinite when it was converted.
    #[error(
        "`{name}` would hold {value} in the model, and everything after it would be NaN or infinite; hint: `occlude-export inspect` shows the checkpoint's values, and `--no-fold` keeps batch normalisation separate"
    )]
    NotFinite {
        /// The initialiser, named like the parameter.
        name: String,
        value: f32,
    },
    /// A weight that fp16 cannot hold.
    #[error(
        "`{name}` holds {value}, but the largest number of fp16 is {limit}; hint: `--precision fp32`",
        limit = half::f16::MAX
    )]
    HalfOverflow {
        /// The initialiser, named like the parameter.
        name: String,
        value: f32,
    },
    /// A layer whose output is too large for the model's numbers.
    #[error("`{layer}` gives {value} for the golden picture{}", too_large(*limit))]
    Activation {
        /// The first such layer.
        layer: String,
        /// Its largest value.
        value: f32,
        /// The largest number of the precision.
        limit: f32,
    },
    /// A map that cannot be shown on its picture.
    #[error("cannot show the map of `{path}`: {reason}")]
    Map { path: String, reason: String },
    /// A file that must not be written.
    #[error(transparent)]
    Output(#[from] occlude_output::Refused),
    /// An output file cannot be written.
    #[error("cannot write `{}`: {reason}{}", .path.display(), folder_hint(.path))]
    Write { path: PathBuf, reason: io::Error },
    /// A file of a preprocessing contract.
    #[error("{0}; hint: `--contract` takes a file, or one of {names}", names = occlude_preprocess::Preprocess::NAMES.join(", "))]
    ContractFile(ContractFileError),
    /// Options that exclude each other.
    #[error("{reason}")]
    Options {
        /// What does not go together, and what does.
        reason: &'static str,
    },
    /// No projection head that can be read.
    #[error("cannot read the projection head of `{}`: {reason}", .path.display())]
    Projection {
        path: PathBuf,
        /// Where it was looked for, or what is wrong with it.
        reason: String,
    },
    /// A calibration of another architecture.
    #[error("the calibration has no range for `{node}`; hint: calibrate with the same architecture")]
    NotCalibrated {
        /// Node of the encoder's graph.
        node: String,
    },
    /// An ONNX file cannot be read.
    #[error("cannot read `{}`: {reason}", .path.display())]
    Read { path: PathBuf, reason: io::Error },
    /// A file that is not an ONNX model.
    #[error("`{}` is not an ONNX model: {reason}", .path.display())]
    NotOnnx {
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// Another project's model that cannot be taken over exactly.
    #[error("cannot take over `{}`: {reason}", .path.display())]
    Adopt { path: PathBuf, reason: Box<Refusal> },
    /// An ONNX model without something that every model of ours has.
    #[error(
        "`{}` has no {what}; hint: only models written by `occlude-export onnx` or `adopt` can be verified",
        .path.display()
    )]
    Foreign { path: PathBuf, what: &'static str },
    /// The golden data of an ONNX model is broken.
    #[error("golden data of `{}`: {reason}; hint: export the model again", .path.display())]
    Golden { path: PathBuf, reason: GoldenError },
    /// No usable ONNX Runtime library.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A runtime refused the model or failed on it.
    #[error("{runtime} cannot {action}: {reason}")]
    Runtime {
        /// `ONNX Runtime` or `tract`.
        runtime: &'static str,
        /// `load the model` or `run it`.
        action: &'static str,
        /// Its words.
        reason: String,
    },
    /// Not one picture can be used.
    #[error(transparent)]
    Pictures(#[from] AllBroken),
    /// A folder of pictures cannot be used.
    #[error(transparent)]
    Folder(#[from] ListError),
}

/// By hand, because a derived one would make it the source, too, and its words would be said twice.
impl From<ContractFileError> for Error {
    fn from(reason: ContractFileError) -> Self {
        Self::ContractFile(reason)
    }
}

impl Error {
    pub(crate) fn refused(path: &Path, reason: Refusal) -> Self {
        Self::Adopt { path: path.to_owned(), reason: Box::new(reason) }
    }
}

/// What to say where the folder of an output is the trouble.
fn folder_hint(path: &Path) -> &'static str {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    if folder.is_some_and(|p| !p.is_dir()) { "; hint: create the folder first" } else { "" }
}

/// Why a value is too large, and what to do.
fn too_large(limit: f32) -> String {
    if limit < f32::MAX {
        format!(", but the largest number of fp16 is {limit}; hint: `--precision fp32`")
    } else {
        ": the weights do not work with this preprocessing; hint: check --mean and --std, and whether this is the right checkpoint".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contract_that_cannot_be_read_is_told_once() {
        let reason = ContractFileError::Contract {
            path: "preprocessor_config.json".into(),
            reason: ContractError::Foreign("`do_pad` is true".to_owned()),
        };
        let said = format!("{:#}", anyhow::Error::from(Error::from(reason)));
        assert_eq!(said.matches("`do_pad` is true").count(), 1, "{said}");
        assert!(said.contains("hint: `--contract` takes a file, or one of imagenet"), "{said}");
    }
}
