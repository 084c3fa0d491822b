//! What can be chosen about an export.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use occlude_checkpoint::{Encoder, Whitening};
use occlude_contract::{InputKind, key, output};
use occlude_preprocess::Preprocess;
use occlude_saliency::Making;

use super::quantized::Quantization;

/// The opset versions that can be written: the operations used mean the same in all of them.
pub const OPSETS: RangeInclusive<i64> = 17..=22;

/// What the model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// `embedding` (N, D).
    Embedding,
    /// `saliency` (N, h, w): the map that [`OnnxOptions::saliency`] says.
    Saliency,
    /// `saliency_sum` (N, h, w): channel sum of the last feature map.
    SaliencySum,
    /// `res2` .. `res5` (N, C, h, w): output of a residual stage, 2 to 5.
    Stage(u8),
    /// `projection` (N, P): output of the projection head.
    Projection,
    /// `alignment` (N, h, w): mean of the alignment maps, of a method that makes them.
    Alignment,
    /// `tokens` (N, T, D): a vision transformer's normalised tokens, the class token first, registers, patches.
    Tokens,
}

/// What of a vision transformer's tokens the embedding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pool {
    /// The class token
    #[default]
    #[value(name = "cls")]
    Class,
    /// The mean of the patches
    Mean,
    /// Both, one after the other
    #[value(name = "cls+mean")]
    Both,
}

impl Pool {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Class, Self::Mean, Self::Both];

    /// As flags and metadata have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Class => "cls",
            Self::Mean => "mean",
            Self::Both => "cls+mean",
        }
    }
}

impl fmt::Display for OutputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str(output::EMBEDDING),
            Self::Saliency => f.write_str(output::SALIENCY),
            Self::SaliencySum => f.write_str(output::SALIENCY_SUM),
            Self::Stage(stage) => f.write_str(&output::stage(*stage)),
            Self::Projection => f.write_str(output::PROJECTION),
            Self::Alignment => f.write_str(output::ALIGNMENT),
            Self::Tokens => f.write_str(output::TOKENS),
        }
    }
}

impl FromStr for OutputKind {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let stages = (2..=5).map(Self::Stage);
        let all: Vec<_> = [
            Self::Embedding,
            Self::Saliency,
            Self::SaliencySum,
            Self::Projection,
            Self::Alignment,
            Self::Tokens,
        ]
        .into_iter()
        .chain(stages)
        .collect();
        let known = || all.iter().map(Self::to_string).collect::<Vec<_>>().join(", ");
        all.iter()
            .copied()
            .find(|kind| kind.to_string() == s)
            .ok_or_else(|| format!("unknown output `{s}`: expected one of {}", known()))
    }
}

/// Numbers that the encoder computes with; inputs and outputs are the same in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    Fp32,
    /// 16-bit floats; preprocessing, pooling and normalisation stay in 32 bits.
    Fp16,
    /// 8-bit integers, statically quantised.
    Int8(Quantization),
}

impl Precision {
    /// As flags and metadata have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8(_) => "int8",
        }
    }
}

/// Shape of the graph.
#[derive(Clone, Debug, PartialEq)]
pub struct OnnxOptions {
    /// What the model takes.
    pub input: InputKind,
    /// What it gives, in this order, each at most once.
    pub outputs: Vec<OutputKind>,
    /// How the map is made.
    pub saliency: Making,
    /// What the embedding of a vision transformer is.
    pub pool: Pool,
    /// Scale embeddings to length one.
    pub normalize: bool,
    /// Fold batch normalisation into the convolutions before it.
    pub fold: bool,
    /// Version of the operator set, within [`OPSETS`].
    pub opset: u32,
    /// Pictures of any size, beside the contract's.
    pub dynamic_size: bool,
    /// Numbers that the encoder computes with; the others than `Fp32` fold batch normalisation.
    pub precision: Precision,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            input: InputKind::Float,
            outputs: vec![OutputKind::Embedding, OutputKind::Saliency],
            saliency: Making::default(),
            pool: Pool::default(),
            normalize: true,
            fold: true,
            opset: 17,
            dynamic_size: false,
            precision: Precision::Fp32,
        }
    }
}

/// Where the weights come from: what goes into the file's `metadata_props` beside the contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// SHA-256 over weights and contract, hexadecimal.
    pub fingerprint: String,
    /// File name of the checkpoint.
    pub checkpoint: String,
    /// Pretraining method, where the checkpoint says it.
    pub method: Option<String>,
    /// Licence of the weights, where the user says it.
    pub licence: Option<String>,
}

impl ModelInfo {
    /// The properties in the order in which they are written.
    pub(super) fn properties(
        &self,
        encoder: &Encoder<'_>,
        contract: &Preprocess,
        options: &OnnxOptions,
    ) -> Vec<(String, String)> {
        let pairs = [
            (key::PREPROCESS, Some(contract.to_json())),
            (key::ENCODER, Some(encoder.arch.name())),
            (key::METHOD, self.method.clone()),
            (key::FINGERPRINT, Some(self.fingerprint.clone())),
            (key::CHECKPOINT, Some(self.checkpoint.clone())),
            (key::LICENCE, self.licence.clone()),
            (key::NORMALIZED, Some(options.normalize.to_string())),
            (key::WHITENING, encoder.whitening.as_ref().map(whitening)),
            (key::PRECISION, Some(options.precision.name().to_owned())),
            (key::QUANTIZATION, quantization(&options.precision)),
            (key::SALIENCY, making(options)),
            (key::POOL, encoder.arch.vit().map(|_| options.pool.name().to_owned())),
            (key::VERSION, Some(env!("CARGO_PKG_VERSION").to_owned())),
        ];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// What the embeddings go through, for those who find the file.
fn whitening(whitening: &Whitening) -> String {
    let info = whitening.info();
    let json = serde_json::json!({
        "from": whitening.inputs(),
        "to": whitening.outputs(),
        "center_only": whitening.weight().is_none(),
        "pictures": info.pictures,
        "variance": info.variance,
    });
    json.to_string()
}

/// How the map is made, where there is one.
fn making(options: &OnnxOptions) -> Option<String> {
    options.outputs.contains(&OutputKind::Saliency).then(|| serde_json::json!(options.saliency).to_string())
}

/// How the integers came about, for those who find the file.
fn quantization(precision: &Precision) -> Option<String> {
    let Precision::Int8(q) = precision else { return None };
    let mut json = serde_json::json!({
        "calibration": q.calibration.method.to_string(),
        "pictures": q.calibration.pictures,
        "keep_first": q.keep_first,
        "keep_last": q.keep_last,
        "weight_bits": if q.reduce_range { 7 } else { 8 },
    });
    if !q.calibration.coarse.is_empty() {
        json["float"] = q.calibration.coarse.keys().cloned().collect();
    }
    Some(json.to_string())
}
