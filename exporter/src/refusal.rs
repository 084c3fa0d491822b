//! Why a model of another project cannot be taken over exactly.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Operator sets that can be taken: what is added is of all of them, and ONNX Runtime 1.23 runs the last.
pub(crate) const OPSETS: RangeInclusive<i64> = 11..=23;

/// What is in the way; each says what was expected, what was found and what to do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Refusal {
    /// It has a contract already.
    #[error("it is a model of Occlude already; hint: `occlude-serve --model` takes it as it is")]
    Ours,
    /// No contract, neither given nor found.
    #[error(
        "nothing says how its pictures are prepared: expected `preprocessor_config.json` beside it; hint: `--contract` takes a file, or a name"
    )]
    NoContract,
    /// A filter that would have to be inside the graph.
    #[error(
        "its contract has a high-pass filter, which is part of models that Occlude writes and not of this one; hint: `--contract` without one"
    )]
    HighPass,
    /// An operator set that is too old or too new.
    #[error(
        "operator set {found}: expected {} to {}; hint: export it with `opset_version=17`", OPSETS.start(), OPSETS.end()
    )]
    Opset { found: i64 },
    /// Not one input.
    #[error(
        "it takes {found}: expected one picture alone; hint: export the image encoder by itself (`vision_model.onnx` of CLIP and SigLIP)"
    )]
    Inputs { found: String },
    /// An input that is no picture.
    #[error("its input `{name}` is {found}: expected float (N, 3, {crop}, {crop}); hint: {hint}")]
    Input { name: String, found: String, crop: u32, hint: &'static str },
    /// Outputs of which none is the embedding without doubt.
    #[error("the embedding could be {candidates}; hint: `--output` names one{pool}")]
    Ambiguous {
        candidates: String,
        /// What `--pool` could say instead.
        pool: &'static str,
    },
    /// An output that is not there.
    #[error("it has no output `{name}`: found {found}; hint: `--output` names one of these")]
    NoOutput { name: String, found: String },
    /// An output that is no embedding, or not with this pooling.
    #[error("its output `{name}` is {found}: expected {expected}; hint: {hint}")]
    Output { name: String, found: String, expected: &'static str, hint: &'static str },
    /// A name that a model of ours needs for something else.
    #[error(
        "it calls a value `{name}`, which is the name of {what} in models of Occlude; hint: rename it in the graph"
    )]
    Name { name: &'static str, what: &'static str },
    /// Weights beside the file that are not there.
    #[error(
        "the values of `{tensor}` are in `{}`: {reason}; hint: put that file beside the model, under this name",
        .file.display()
    )]
    External { tensor: String, file: PathBuf, reason: String },
    /// Weights beside the file that cannot be moved.
    #[error("{0}; hint: save it again with `onnx.save`, its weights inside or in one file beside it")]
    Weights(String),
    /// It does not run on what the contract makes.
    #[error(
        "it does not run on {pictures} of {crop}x{crop} pixels, as its contract has them: {reason}; hint: {hint}"
    )]
    Run { pictures: String, crop: u32, reason: String, hint: &'static str },
    /// An answer that depends on the other pictures of a batch.
    #[error(
        "a picture's answer changes within a batch of {batch} (cosine {cosine:.6}, expected 1); hint: {hint}"
    )]
    Batch { batch: usize, cosine: f64, hint: &'static str },
    /// An answer that is none.
    #[error("its embedding of the golden picture is {found}; hint: {hint}")]
    Answer { found: String, hint: &'static str },
}
