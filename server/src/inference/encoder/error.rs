//! Why models cannot be served.

use std::path::PathBuf;

use occlude_contract::GoldenError;
use occlude_onnxruntime::LibraryError;
use occlude_onnxruntime::encoder::Mismatch;
use occlude_preprocess::ContractError;

use crate::inference::encode::EncodeError;

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum LoadError {
    /// No ONNX Runtime.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// No such file.
    #[error("no model at `{}`{read}; hint: write one with `occlude-export onnx CHECKPOINT {}`", .path.display(), .path.display())]
    Missing {
        path: PathBuf,
        /// What else may have been meant.
        read: String,
    },
    /// Something else than a model.
    #[error("`{}` is {what}, not an ONNX file; hint: {hint}", .path.display())]
    NoModel { path: PathBuf, what: &'static str, hint: String },
    /// What was asked for to run the model cannot.
    #[error("`--provider {provider}` cannot run: {reason}; hint: {hint}")]
    Provider {
        /// As the flag has it.
        provider: &'static str,
        reason: String,
        hint: &'static str,
    },
    /// ONNX Runtime does not take the file.
    #[error("cannot load `{}`: {reason}", .path.display())]
    Session { path: PathBuf, reason: String },
    /// Metadata that every file of the exporter has is missing.
    #[error("`{}` has no metadata `{key}`; hint: export it with `occlude-export onnx`, which writes the preprocessing contract and the fingerprint into the file", .path.display())]
    Metadata { path: PathBuf, key: &'static str },
    /// The contract in the metadata is unusable.
    #[error("`{}`: {source}", .path.display())]
    Contract { path: PathBuf, source: ContractError },
    /// The metadata about the saliency are unusable.
    #[error("`{}`: metadata `saliency`: {reason}; hint: export the model again with `occlude-export onnx`", .path.display())]
    Rule { path: PathBuf, reason: String },
    /// An input or output is missing, or is not what the contract makes of a picture.
    #[error("`{}`: {mismatch}; hint: export it with `occlude-export onnx`", .path.display())]
    Shape { path: PathBuf, mismatch: Mismatch },
    /// The golden data in the metadata is unusable.
    #[error("golden data of `{}`: {source}; hint: export the model again with `occlude-export onnx`", .path.display())]
    GoldenData { path: PathBuf, source: GoldenError },
    /// The model computes something else than it did where it was exported.
    #[error(
        "`{}` does not reproduce the outputs of its golden picture here: cosine {cosine:.6} of the {output} on {provider} {place}, expected at least {least}; hint: check the file with `occlude-export verify`, and whether `--provider cpu` reproduces them",
        .path.display()
    )]
    Golden {
        path: PathBuf,
        /// `embedding` or `saliency`.
        output: &'static str,
        /// Between the answer and the stored one.
        cosine: f64,
        /// What the file's precision allows.
        least: f64,
        /// Execution provider that ran it.
        provider: String,
        /// `alone` or `at position i of n`.
        place: String,
    },
    /// The first run failed.
    #[error("`{}` loads but does not run: {source}", .path.display())]
    Warm { path: PathBuf, source: EncodeError },
}
