//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use occlude_checkpoint::{Checkpoint, Encoder, LoadOptions, load_encoder, meta};
use occlude_encoder::Arch;
use occlude_preprocess::{HighPass, Interpolation, Preprocess};

use crate::onnx::{self, InputKind, ModelInfo, OPSETS, OnnxOptions, OutputKind};
use crate::{ContractOverrides, Error, VerifyOptions, contract_of, inspect, verify, write_safetensors};

/// Exit code of a verification that found differences past the tolerance.
pub const EXIT_DIFFERENT: u8 = 3;

/// Converts encoder checkpoints to ONNX, verifies the result on real pictures, and shows what is in
/// checkpoints and ONNX files.
///
/// Reads safetensors, torch (zip and legacy) and Detectron2 pickles, told apart by content; needs
/// neither PyTorch nor Python. Data goes to stdout, messages to stderr. Exit codes: 0 done,
/// 1 failed, 2 wrong usage, 3 verification past the tolerance.
#[derive(Debug, Parser)]
#[command(name = "occlude-export", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write an ONNX model with the outputs `embedding` and `saliency`
    Onnx(OnnxArgs),
    /// Run an ONNX model on pictures in ONNX Runtime and tract, and compare both with the checkpoint
    Verify(VerifyArgs),
    /// Show what is in a checkpoint or an ONNX file
    Inspect(InspectArgs),
    /// Write the bare encoder as safetensors under torchvision's names
    Safetensors(SafetensorsArgs),
}

/// Which encoder of a checkpoint.
#[derive(Debug, Args)]
struct EncoderArgs {
    /// What the encoder's keys begin with, such as `encoder_k`; default: found in the file
    #[arg(long, value_name = "P")]
    prefix: Option<String>,
    /// Architecture: resnet18, resnet34, resnet50 or resnet101; default: as the file says or its
    /// shapes tell
    #[arg(long, value_name = "A")]
    arch: Option<Arch>,
}

impl EncoderArgs {
    fn options(self) -> LoadOptions {
        LoadOptions { arch: self.arch, prefix: self.prefix, partial: false }
    }
}

/// Preprocessing of checkpoints that say nothing about it.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Preprocessing (default: the checkpoint's contract, else ImageNet's at 224 pixels)"
)]
struct ContractArgs {
    /// Side of the centre crop in pixels; the resize keeps its proportion to it
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<u32>,
    /// Length of the short side before the crop, in pixels
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    /// Kernel of the resize: bilinear or bicubic
    #[arg(long, value_name = "KERNEL", value_parser = parse_interpolation)]
    interpolation: Option<Interpolation>,
    /// Channel means on the 0..1 scale
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    mean: Option<[f32; 3]>,
    /// Channel standard deviations on the 0..1 scale
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    std: Option<[f32; 3]>,
    /// High-pass filter of encoders trained with one, as `KERNEL,SIGMA` (saliency masking: 11,5), or
    /// `none`
    #[arg(long, value_name = "K,S", value_parser = parse_high_pass)]
    high_pass: Option<FilterArg>,
}

/// A filter, or none: clap would take an `Option` for an optional flag.
#[derive(Clone, Copy, Debug, PartialEq)]
struct FilterArg(Option<HighPass>);

impl ContractArgs {
    fn overrides(self) -> ContractOverrides {
        ContractOverrides {
            image_size: self.image_size,
            resize: self.resize,
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            high_pass: self.high_pass.map(|f| f.0),
        }
    }
}

#[derive(Debug, Args)]
struct OnnxArgs {
    /// Checkpoint of any format
    checkpoint: PathBuf,
    /// File to write
    out: PathBuf,
    /// What the model takes: `float` is `pixel_values` (N,3,H,W), normalised; `uint8` is `images`
    /// (N,H,W,3), resized and cropped, normalised inside the model
    #[arg(long, value_enum, default_value_t)]
    input: InputKind,
    /// What the model gives, in this order: embedding, saliency, res2, res3, res4, res5; the server
    /// needs the first two
    #[arg(long, value_delimiter = ',', default_value = "embedding,saliency")]
    outputs: Vec<OutputKind>,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Leave embeddings as they are instead of scaling them to length one
    #[arg(long)]
    no_normalize: bool,
    /// Keep BatchNormalization nodes instead of folding them into the convolutions
    #[arg(long)]
    no_fold: bool,
    /// Version of the operator set
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = clap::value_parser!(u32).range(OPSETS))]
    opset: u32,
    /// Licence of the weights, kept in the file's metadata
    #[arg(long, value_name = "L")]
    licence: Option<String>,
    #[command(flatten)]
    contract: ContractArgs,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// Model that `occlude-export onnx` wrote
    onnx: PathBuf,
    /// Checkpoint that it was written from
    checkpoint: PathBuf,
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    images: Vec<PathBuf>,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Largest difference of an embedding's value, of a saliency value as a share of the map's
    /// largest, and of the cosine from 1
    #[arg(long, value_name = "X", default_value_t = 1e-4)]
    tolerance: f64,
    /// Most pictures taken from each folder, spread evenly; 0 takes all
    #[arg(long, value_name = "N", default_value_t = 16)]
    limit: usize,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// Checkpoint of any format, or ONNX model
    file: PathBuf,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SafetensorsArgs {
    /// Checkpoint of any format
    checkpoint: PathBuf,
    /// File to write
    out: PathBuf,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    contract: ContractArgs,
}

fn parse_triple(text: &str) -> Result<[f32; 3], String> {
    let values: Vec<f32> = text
        .split(',')
        .map(|v| v.trim().parse().map_err(|_| format!("`{v}` is no number")))
        .collect::<Result<_, _>>()?;
    values.try_into().map_err(|v: Vec<f32>| format!("expected three numbers, got {}", v.len()))
}

fn parse_interpolation(text: &str) -> Result<Interpolation, String> {
    match text {
        "bilinear" => Ok(Interpolation::Bilinear),
        "bicubic" => Ok(Interpolation::Bicubic),
        _ => Err("expected `bilinear` or `bicubic`".to_owned()),
    }
}

fn parse_high_pass(text: &str) -> Result<FilterArg, String> {
    if text == "none" {
        return Ok(FilterArg(None));
    }
    let parts =
        text.split_once(',').and_then(|(k, s)| Some((k.trim().parse().ok()?, s.trim().parse().ok()?)));
    let (kernel, sigma) = parts.ok_or("expected KERNEL,SIGMA such as `11,5`, or `none`")?;
    Ok(FilterArg(Some(HighPass { kernel, sigma })))
}

/// Runs the command line; wrong usage exits with 2 before anything is read.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::try_parse_from(args).unwrap_or_else(|e| e.exit());
    let result = match cli.command {
        Command::Onnx(args) => run_onnx(args),
        Command::Verify(args) => run_verify(args),
        Command::Inspect(args) => run_inspect(args),
        Command::Safetensors(args) => run_safetensors(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// A loaded encoder and how its pictures are prepared.
struct Source {
    encoder: Encoder,
    contract: Preprocess,
    fingerprint: String,
    method: Option<String>,
}

/// Loads an encoder, tells the user what was found, and holds its fingerprint against the file's.
fn load(path: &Path, encoder: EncoderArgs, contract: ContractArgs) -> anyhow::Result<Source> {
    let checkpoint = Checkpoint::open(path)?;
    let overrides = contract.overrides();
    let (contract, note) = contract_of(&checkpoint, &overrides)?;
    let encoder = load_encoder(&checkpoint, &encoder.options())?;
    eprintln!("{} from {}: {}", encoder.arch, encoder.layout, encoder.report);
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
    let fingerprint = encoder.fingerprint(&contract.to_json());
    check_fingerprint(&checkpoint, &encoder, &contract, &fingerprint)?;
    let method = checkpoint.metadata().get(meta::METHOD).cloned();
    Ok(Source { encoder, contract, fingerprint, method })
}

/// The stored fingerprint is the query encoder's with the stored contract; nothing else can be held
/// against it.
fn check_fingerprint(
    checkpoint: &Checkpoint,
    encoder: &Encoder,
    contract: &Preprocess,
    computed: &str,
) -> Result<(), Error> {
    let stored = checkpoint.metadata().get(meta::FINGERPRINT);
    let same_contract = crate::contract::stored(checkpoint)?.as_ref() == Some(contract);
    match stored {
        Some(stored) if same_contract && encoder.layout.prefix == "encoder_q." && stored != computed => {
            Err(Error::Fingerprint {
                path: checkpoint.path().to_owned(),
                stored: stored.clone(),
                computed: computed.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn run_onnx(args: OnnxArgs) -> anyhow::Result<ExitCode> {
    let source = load(&args.checkpoint, args.encoder, args.contract)?;
    let mut outputs = args.outputs;
    let mut seen = Vec::new();
    outputs.retain(|kind| {
        !seen.contains(kind) && {
            seen.push(*kind);
            true
        }
    });
    let options = OnnxOptions {
        input: args.input,
        outputs,
        normalize: !args.no_normalize,
        fold: !args.no_fold,
        opset: args.opset,
    };
    let file_name = args.checkpoint.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let info = ModelInfo {
        fingerprint: source.fingerprint,
        checkpoint: file_name,
        method: source.method,
        licence: args.licence,
    };
    let model = onnx::model(&source.encoder, &source.contract, &options, &info)?;
    model.save(&args.out)?;
    eprintln!("wrote `{}`: {} bytes, fingerprint {}", args.out.display(), model.byte_len(), info.fingerprint);
    Ok(ExitCode::SUCCESS)
}

fn run_verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let options =
        VerifyOptions { load: args.encoder.options(), limit: (args.limit > 0).then_some(args.limit) };
    let comparison = verify(&args.onnx, &args.checkpoint, &args.images, &options)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison.json(args.tolerance))?);
    } else {
        println!("{comparison}");
    }
    if comparison.passes(args.tolerance) {
        return Ok(ExitCode::SUCCESS);
    }
    if comparison.same_fingerprint() {
        eprintln!("error: differences past the tolerance of {}", args.tolerance);
    } else {
        eprintln!("error: the model was not written from this checkpoint; hint: export it again");
    }
    Ok(ExitCode::from(EXIT_DIFFERENT))
}

fn run_inspect(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let found = inspect(&args.file, &args.encoder.options())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(found.json())?);
    } else {
        print!("{found}");
    }
    Ok(ExitCode::SUCCESS)
}

fn run_safetensors(args: SafetensorsArgs) -> anyhow::Result<ExitCode> {
    let source = load(&args.checkpoint, args.encoder, args.contract)?;
    write_safetensors(&args.out, &source.encoder, &source.contract)
        .with_context(|| format!("cannot export `{}`", args.checkpoint.display()))?;
    eprintln!("wrote `{}`: fingerprint {}", args.out.display(), source.fingerprint);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("occlude-export").chain(line.split_whitespace()))
    }

    fn onnx_args(flags: &str) -> OnnxArgs {
        match parse(&format!("onnx in.pth out.onnx {flags}")).expect("valid").command {
            Command::Onnx(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn onnx_flags() {
        let plain = onnx_args("");
        assert_eq!(
            (plain.input, plain.opset, plain.no_fold, plain.no_normalize),
            (InputKind::Float, 17, false, false)
        );
        assert_eq!(plain.outputs, [OutputKind::Embedding, OutputKind::Saliency]);
        assert_eq!(onnx_args("--input uint8").input, InputKind::Uint8);
        assert_eq!(
            onnx_args("--outputs res4,embedding").outputs,
            [OutputKind::Stage(4), OutputKind::Embedding]
        );
        assert!(onnx_args("--no-normalize").no_normalize);
        assert!(onnx_args("--no-fold").no_fold);
        assert_eq!(onnx_args("--opset 20").opset, 20);
        assert_eq!(onnx_args("--licence MIT").licence.as_deref(), Some("MIT"));
        assert_eq!(onnx_args("--prefix encoder_k").encoder.prefix.as_deref(), Some("encoder_k"));
        assert_eq!(onnx_args("--arch resnet34").encoder.arch, Some(Arch::ResNet34));
    }

    #[test]
    fn contract_flags() {
        let overrides = |flags| onnx_args(flags).contract.overrides();
        assert_eq!(overrides(""), ContractOverrides::default());
        let set = overrides(
            "--image-size 64 --resize 70 --interpolation bicubic --mean 0.5,0.4,0.3 --std 1,1,2 --high-pass 11,5",
        );
        assert_eq!(
            (set.image_size, set.resize, set.interpolation),
            (Some(64), Some(70), Some(Interpolation::Bicubic))
        );
        assert_eq!((set.mean, set.std), (Some([0.5, 0.4, 0.3]), Some([1.0, 1.0, 2.0])));
        assert_eq!(set.high_pass, Some(Some(HighPass { kernel: 11, sigma: 5.0 })));
        assert_eq!(overrides("--high-pass none").high_pass, Some(None));
    }

    #[test]
    fn verify_and_inspect_flags() {
        let Command::Verify(v) =
            parse("verify a.onnx b.pth x.jpg y --tolerance 1e-3 --limit 0 --json").expect("valid").command
        else {
            panic!("verify")
        };
        assert_eq!((v.images.len(), v.tolerance, v.limit, v.json), (2, 1e-3, 0, true));
        assert!(parse("verify a.onnx b.pth").is_err(), "no pictures");
        assert!(parse("inspect a --json").is_ok());
        assert!(parse("safetensors a b --prefix x").is_ok());
    }

    #[test]
    fn wrong_usage_is_refused() {
        for flags in [
            "--opset 16",
            "--opset 23",
            "--input int8",
            "--outputs logits",
            "--mean 1,2",
            "--std a,b,c",
            "--high-pass 11",
            "--arch vgg",
            "--interpolation nearest",
        ] {
            let error = parse(&format!("onnx a b {flags}")).expect_err(flags);
            assert_eq!(error.exit_code(), 2, "{flags}");
        }
    }
}
