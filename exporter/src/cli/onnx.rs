//! `occlude-export onnx`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use occlude_checkpoint::Checkpoint;
use occlude_contract::InputKind;
use occlude_encoder::Vit;
use occlude_saliency::{Making, MapRule};

use super::args::{ContractArgs, EncoderArgs, load};
use crate::calibrate::{Calibration, CalibrationOptions, Method, calibrate};
use crate::onnx::{
    ModelInfo, Network, OPSETS, OnnxModel, OnnxOptions, OutputKind, Pool, Precision, Projection,
    Quantization, data_file, model,
};
use crate::pictures::Pictures;
use crate::{Error, golden};

/// Cells along a side of a map, where the stage is not asked for.
const LEAST_SIDE: usize = 4;

/// The kinds of input, by what their numbers are.
fn input() -> impl TypedValueParser<Value = InputKind> {
    let value = |kind: InputKind| {
        PossibleValue::new(kind.element()).help(match kind {
            InputKind::Float => "`pixel_values`, float32 (N, 3, H, W), already normalised: what most tools supply",
            InputKind::Uint8 => {
                "`images`, uint8 (N, H, W, 3), resized and cropped RGB: a quarter of the bytes, normalised inside the model"
            }
        })
    };
    PossibleValuesParser::new(InputKind::ALL.map(value))
        .try_map(|text| InputKind::ALL.into_iter().find(|kind| kind.element() == text).ok_or("unknown input"))
}

#[derive(Debug, Args)]
pub(super) struct OnnxArgs {
    /// Checkpoint of any format
    pub(super) checkpoint: PathBuf,
    /// File to write
    pub(super) out: PathBuf,
    /// What the model takes as input: `float` is `pixel_values` (N,3,H,W), normalised; `uint8` is `images` (N,H,W,3),
    /// resized and cropped, normalised inside the model
    #[arg(long, value_parser = input(), default_value = InputKind::default().element())]
    pub(super) input: InputKind,
    /// Outputs of the model, in this order: embedding, saliency, saliency_sum, projection, alignment (of LEWEL),
    /// tokens (of a vision transformer), res2, res3, res4, res5; the server needs the first two
    #[arg(long, value_delimiter = ',', default_value = "embedding,saliency")]
    pub(super) outputs: Vec<OutputKind>,
    /// How the map `saliency` is made: `object` (what resembles the middle of the picture and not its
    /// border, in features and colours), `border` (what differs from the border in features), `sum`
    /// (of all channels, as published), `alignment` (the mean of LEWEL's alignment maps) or `attention` (what a
    /// vision transformer's class token looks at); default: `attention` of a vision transformer, else `object`
    #[arg(long, value_name = "RULE", value_parser = rule)]
    pub(super) saliency: Option<MapRule>,
    /// Stage that the map is made from, 2 to 5; default: 3 for `object`, 4 for `border`, 5 for the others, or the one
    /// before if that has fewer than 4x4 cells
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=5))]
    pub(super) saliency_stage: Option<u8>,
    /// What the map is made from, by name: res2 to res5, or of a vision transformer with N blocks block0 (patches) or
    /// attention0 to blockN-1 or attentionN-1; default: the last of them
    #[arg(long, value_name = "TAP", conflicts_with = "saliency_stage")]
    pub(super) saliency_tap: Option<String>,
    /// Which tokens of a vision transformer make the embedding
    #[arg(long, value_enum, default_value_t)]
    pub(super) pool: Pool,
    #[command(flatten)]
    pub(super) encoder: EncoderArgs,
    /// Leave embeddings as they are instead of scaling them to length one
    #[arg(long)]
    pub(super) no_normalize: bool,
    /// Keep BatchNormalization nodes instead of folding them into the convolutions
    #[arg(long)]
    pub(super) no_fold: bool,
    /// Version of the operator set
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(OPSETS))]
    pub(super) opset: u32,
    /// Licence of the weights, kept in the file's metadata
    #[arg(long, value_name = "L")]
    pub(super) licence: Option<String>,
    /// Accept pictures of any size; default: only the contract's
    #[arg(long)]
    pub(super) dynamic_size: bool,
    /// Write the weights to OUT.onnx.data; models above 2 GiB always do
    #[arg(long)]
    pub(super) external_data: bool,
    /// Replace OUT, and OUT.onnx.data if it is written, where they exist; never the checkpoint or a picture
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    pub(super) precision: PrecisionArgs,
    #[command(flatten)]
    pub(super) contract: ContractArgs,
}

/// `--precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PrecisionName {
    /// 32-bit floats
    #[default]
    Fp32,
    /// 16-bit floats for GPUs; preprocessing, pooling and normalisation stay in 32 bits
    Fp16,
    /// 8-bit integers for CPUs, with the ranges that `--calibrate` finds
    Int8,
}

/// Parts of an int8 model that stay in floating point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The first convolution, or a vision transformer's first block
    First,
    /// The last block
    Last,
    /// Nothing
    None,
}

/// Numbers that the model computes with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Precision")]
pub(super) struct PrecisionArgs {
    /// Numbers that the encoder computes with; inputs and outputs are the same in all
    #[arg(long, value_enum, default_value_t)]
    precision: PrecisionName,
    /// Pictures like those that the model will see, or folders of them; int8 needs some
    #[arg(long, value_name = "PICTURES", num_args = 1.., required_if_eq("precision", "int8"))]
    pub(super) calibrate: Vec<PathBuf>,
    /// int8: how ranges are derived from values: min-max, entropy, or percentile:P, which cuts off the share outside P
    /// per cent at each end; default: min-max
    #[arg(long, value_name = "M")]
    pub(super) calibration: Option<Method>,
    /// int8: maximum number of pictures taken from each folder, spread evenly; 0 takes all; default: 128
    #[arg(long, value_name = "N")]
    calibration_limit: Option<usize>,
    /// int8: parts of the model that stay in floating point; default: none
    #[arg(long, value_enum, value_delimiter = ',')]
    keep_float: Vec<Part>,
    /// int8: weights of 7 bits, for x86 processors without VNNI, whose 8-bit products overflow
    #[arg(long)]
    reduce_range: bool,
}

impl PrecisionArgs {
    /// The first flag that would be without effect in this precision; clap has no word for a flag that wants another
    /// one's value.
    pub(super) fn idle(&self) -> Option<&'static str> {
        let given = [
            ("--calibrate", !self.calibrate.is_empty()),
            ("--calibration", self.calibration.is_some()),
            ("--calibration-limit", self.calibration_limit.is_some()),
            ("--keep-float", !self.keep_float.is_empty()),
            ("--reduce-range", self.reduce_range),
        ];
        let idle =
            given.into_iter().find(|(_, given)| *given).filter(|_| self.precision != PrecisionName::Int8);
        idle.map(|(flag, _)| flag)
    }

    fn resolve(&self, network: Network<'_>, input: InputKind) -> anyhow::Result<Precision> {
        Ok(match self.precision {
            PrecisionName::Fp32 => Precision::Fp32,
            PrecisionName::Fp16 => Precision::Fp16,
            PrecisionName::Int8 => Precision::Int8(Quantization {
                calibration: self.run_calibration(network, input)?,
                keep_first: self.keep_float.contains(&Part::First),
                keep_last: self.keep_float.contains(&Part::Last),
                reduce_range: self.reduce_range,
            }),
        })
    }

    fn run_calibration(&self, network: Network<'_>, input: InputKind) -> anyhow::Result<Calibration> {
        let limit = self.calibration_limit.unwrap_or(CALIBRATION_LIMIT);
        let options = CalibrationOptions {
            pictures: self.calibrate.clone(),
            limit: (limit > 0).then_some(limit),
            method: self.calibration.unwrap_or(Method::MinMax),
        };
        calibrated(network, input, &options)
    }
}

/// Calibrates, and tells the user how far it is.
pub(super) fn calibrated(
    network: Network<'_>,
    input: InputKind,
    options: &CalibrationOptions,
) -> anyhow::Result<Calibration> {
    let live = std::io::stderr().is_terminal();
    let calibration = calibrate(network, input, options, &mut |done, all| {
        if live {
            eprint!("\rcalibrating: {done}/{all}");
        }
    })?;
    let start = if live { "\r" } else { "" };
    let Calibration { pictures, skipped, method, .. } = &calibration;
    eprintln!("{start}calibrated on {pictures} pictures, {method}, {skipped} skipped");
    calibration.notes.iter().for_each(|note| eprintln!("{note}"));
    Ok(calibration)
}

/// Pictures taken from each folder for calibration, where nothing else is asked for.
pub(super) const CALIBRATION_LIMIT: usize = 128;

/// Runs the command.
pub(super) fn run(args: OnnxArgs) -> anyhow::Result<ExitCode> {
    let target = Target::of(&args)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let source = load(&checkpoint, args.encoder, args.contract)?;
    let outputs = distinct(args.outputs);
    let aligned = args.saliency == Some(MapRule::Alignment) || outputs.contains(&OutputKind::Alignment);
    let projection = match aligned || outputs.contains(&OutputKind::Projection) {
        true => Some(Projection::find(&checkpoint, &source.encoder)?),
        false => None,
    };
    let network =
        Network { encoder: &source.encoder, contract: &source.contract, projection: projection.as_ref() };
    let saliency = match source.encoder.arch.vit() {
        Some(vit) => of_blocks(vit, args.saliency, args.saliency_stage, args.saliency_tap.as_deref())?,
        None => {
            let rule = args.saliency.unwrap_or_default();
            let tap = args.saliency_tap.as_deref().map(stage_of).transpose()?;
            making(rule, tap.or(args.saliency_stage), network)
        }
    };
    let options = OnnxOptions {
        input: args.input,
        outputs,
        saliency,
        pool: args.pool,
        normalize: !args.no_normalize,
        fold: !args.no_fold,
        opset: args.opset,
        dynamic_size: args.dynamic_size,
        precision: args.precision.resolve(network, args.input)?,
    };
    let info = ModelInfo {
        fingerprint: source.fingerprint,
        checkpoint: file_name(&args.checkpoint),
        method: source.method,
        licence: args.licence,
    };
    let mut model = model(network, &options, &info)?;
    model.doubts().iter().for_each(|doubt| eprintln!("warning: {doubt}"));
    add_golden(network, &options, &mut model)?;
    if args.external_data || model.needs_external_data() {
        target.check_data()?;
        let data = model.save_external(&args.out)?;
        eprintln!("wrote `{}` and its weights, `{}`", args.out.display(), data.display());
    } else {
        model.save(&args.out)?;
        eprintln!("wrote `{}`: {} bytes, {}", args.out.display(), model.byte_len(), options.precision.name());
    }
    eprintln!("fingerprint {}", info.fingerprint);
    eprintln!("identity {}", model.identity());
    Ok(ExitCode::SUCCESS)
}

/// What is written, and what must not be.
struct Target {
    out: PathBuf,
    data: PathBuf,
    inputs: Vec<PathBuf>,
    force: bool,
}

impl Target {
    /// Checks what can be checked before the work.
    fn of(args: &OnnxArgs) -> Result<Self, Error> {
        let data = data_file(&args.out);
        let mut inputs = vec![args.checkpoint.clone()];
        inputs.extend(Pictures::at_risk(&args.precision.calibrate, &[&args.out, &data], args.force)?);
        let target = Self { out: args.out.clone(), data, inputs, force: args.force };
        occlude_output::check(&[&target.out], &target.inputs(), target.force)?;
        if args.external_data {
            target.check_data()?;
        }
        Ok(target)
    }

    fn inputs(&self) -> Vec<&Path> {
        self.inputs.iter().map(PathBuf::as_path).collect()
    }

    /// The file of the weights, which large models have without being asked.
    fn check_data(&self) -> Result<(), Error> {
        let mut inputs = self.inputs();
        inputs.push(&self.out);
        Ok(occlude_output::check(&[&self.data], &inputs, self.force)?)
    }
}

/// A rule of features, or that of a projection head.
fn rule(text: &str) -> Result<MapRule, String> {
    if text == MapRule::Alignment.name() {
        return Ok(MapRule::Alignment);
    }
    text.parse().map_err(|error| format!("{error}, alignment"))
}

/// The stage of a tap's name.
fn stage_of(tap: &str) -> Result<u8, Error> {
    let stage = tap.strip_prefix("res").and_then(|n| n.parse().ok()).filter(|n| (2..=5).contains(n));
    let reason = "`--saliency-tap` of a ResNet must be one of res2, res3, res4, res5";
    stage.ok_or(Error::Options { reason })
}

/// The rule on the block of a vision transformer that is asked for, else on the last one.
fn of_blocks(vit: Vit, rule: Option<MapRule>, stage: Option<u8>, tap: Option<&str>) -> Result<Making, Error> {
    let refuse = |reason| Err(Error::Options { reason });
    if stage.is_some() {
        return refuse("a vision transformer has no stages; hint: `--saliency-tap` takes one of its blocks");
    }
    let rule = rule.unwrap_or(match tap {
        Some(tap) if tap.starts_with("block") => MapRule::default(),
        _ => MapRule::Attention,
    });
    let word = if rule == MapRule::Attention { "attention" } else { "block" };
    let block = match tap {
        None => vit.depth - 1,
        Some(tap) => match tap.strip_prefix(word).and_then(|n| n.parse().ok()) {
            Some(block) if block < vit.depth => block,
            _ => {
                return refuse(
                    "`--saliency-tap` of a vision transformer must be attention0 .. with the rule `attention`, and block0 .. with others, up to its last block",
                );
            }
        },
    };
    Ok(Making::of_block(rule, block))
}

/// The map of a model for which nothing is asked.
pub(super) fn usual_map(network: Network<'_>) -> Result<Making, Error> {
    match network.encoder.arch.vit() {
        Some(vit) => of_blocks(vit, None, None, None),
        None => Ok(making(MapRule::default(), None, network)),
    }
}

/// The rule on the stage asked for, else on its usual one, or the last before it whose map has cells enough.
fn making(rule: MapRule, stage: Option<u8>, network: Network<'_>) -> Making {
    let usual = Making::of(rule);
    let (arch, crop) = (network.encoder.arch, network.contract.crop as usize);
    let fine = |stage: &usize| {
        matches!(rule, MapRule::Sum | MapRule::Alignment) || arch.feature_side(*stage, crop) >= LEAST_SIDE
    };
    let stage = stage.map(usize::from).or_else(|| (2..=usual.stage).rev().find(fine));
    Making { stage: stage.unwrap_or(2), ..usual }
}

/// A model that cannot answer here is written nevertheless: it may be for another machine. One that answers with what
/// is no number is not.
pub(super) fn add_golden(
    network: Network<'_>,
    options: &OnnxOptions,
    model: &mut OnnxModel<'_>,
) -> Result<(), Error> {
    let without = "the file has no golden picture, so the server cannot check its outputs at start";
    match golden::of(network, options, model) {
        Ok(Some(golden)) => model.set_golden(&golden),
        Ok(None) => eprintln!("note: {without}: it has no output `embedding`"),
        Err(error @ Error::Activation { .. }) => return Err(error),
        Err(error) => eprintln!("warning: {without}: {error}"),
    }
    Ok(())
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Each output once, in the order of the first mention.
fn distinct(outputs: Vec<OutputKind>) -> Vec<OutputKind> {
    let mut seen = Vec::new();
    for kind in outputs {
        if !seen.contains(&kind) {
            seen.push(kind);
        }
    }
    seen
}
