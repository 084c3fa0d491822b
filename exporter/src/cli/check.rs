//! `occlude-export verify` and `inspect`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::EXIT_DIFFERENT;
use super::args::EncoderArgs;
use crate::pictures::Pictures;
use crate::{VerifyOptions, inspect, verify};

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Model that `occlude-export onnx` or `adopt` wrote
    onnx: PathBuf,
    /// Checkpoint that it was written from; for a model that was taken over, the original ONNX file
    checkpoint: PathBuf,
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub(super) images: Vec<PathBuf>,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Largest difference of the cosine from 1; in fp32 also of an embedding's value, and of a map's
    /// value as a share of its largest; default: 0.0001, for int8 0.01
    #[arg(long, value_name = "X")]
    pub(super) tolerance: Option<f64>,
    /// Maximum number of pictures taken from each folder, spread evenly; 0 takes all
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub(super) limit: usize,
    /// Pictures to look for neighbours in, for models in fp16 or int8; default: the other pictures
    #[arg(long, value_name = "DIR")]
    gallery: Vec<PathBuf>,
    /// Write a PNG with each picture, its saliency map and the reference's side by side
    #[arg(long, value_name = "FILE")]
    pub(super) maps: Option<PathBuf>,
    /// Overwrite that PNG
    #[arg(long, requires = "maps")]
    force: bool,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Checkpoint of any format, or ONNX model
    file: PathBuf,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs `verify`.
pub(super) fn run_verify(args: VerifyArgs) -> anyhow::Result<ExitCode> {
    let options = VerifyOptions {
        load: args.encoder.options(),
        limit: (args.limit > 0).then_some(args.limit),
        gallery: args.gallery,
        maps: args.maps,
    };
    if let Some(maps) = &options.maps {
        let pictures = [&args.images[..], &options.gallery[..]].concat();
        let pictures = Pictures::at_risk(&pictures, &[maps], args.force)?;
        let inputs = [&args.onnx, &args.checkpoint].into_iter().chain(&pictures);
        occlude_output::check(&[maps], &inputs.map(PathBuf::as_path).collect::<Vec<_>>(), args.force)?;
    }
    let comparison = verify(&args.onnx, &args.checkpoint, &args.images, &options)?;
    comparison.notes.iter().for_each(|note| eprintln!("{note}"));
    if comparison.skipped > 0 {
        eprintln!("{} pictures skipped", comparison.skipped);
    }
    let tolerance = args.tolerance.unwrap_or_else(|| comparison.usual_tolerance());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison.json(tolerance))?);
    } else {
        println!("{comparison}");
    }
    if comparison.passes(tolerance) {
        return Ok(ExitCode::SUCCESS);
    }
    if !comparison.answers_golden() {
        eprintln!(
            "error: the model does not reproduce the outputs of its golden picture; hint: export the model again"
        );
    } else if comparison.same_fingerprint() {
        let hint = match comparison.precision.as_str() {
            "int8" if !comparison.adopted => {
                "; hint: for an x86 processor without VNNI export with `--reduce-range`"
            }
            _ => "",
        };
        eprintln!("error: differences above the tolerance of {tolerance}{hint}");
    } else {
        let from = if comparison.adopted { "file" } else { "checkpoint" };
        eprintln!("error: the model was not written from this {from}; hint: export it again");
    }
    Ok(ExitCode::from(EXIT_DIFFERENT))
}

/// Runs `inspect`.
pub(super) fn run_inspect(args: InspectArgs) -> anyhow::Result<ExitCode> {
    let found = inspect(&args.file, &args.encoder.options())?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(found.json())?);
    } else {
        print!("{found}");
    }
    Ok(ExitCode::SUCCESS)
}
