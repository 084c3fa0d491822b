//! `occlude-export safetensors` and `torch`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use occlude_checkpoint::Checkpoint;
use occlude_output::check;

use super::args::{ContractArgs, EncoderArgs, load};
use crate::{TorchLayout, TorchOptions, write_safetensors, write_torch};

#[derive(Debug, Args)]
pub(super) struct SafetensorsArgs {
    /// Checkpoint of any format
    checkpoint: PathBuf,
    /// File to write
    out: PathBuf,
    /// Replace OUT where it exists; never the checkpoint
    #[arg(long)]
    pub(super) force: bool,
    /// Write the whitening of a whitened checkpoint as well, as `whiten.weight` and `whiten.bias`: Occlude's tools
    /// then read the file whitened, and strict loaders refuse it. Without this flag: the encoder alone
    #[arg(long)]
    keep_whitening: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    contract: ContractArgs,
}

#[derive(Debug, Args)]
pub(super) struct TorchArgs {
    /// Checkpoint of any format
    checkpoint: PathBuf,
    /// File to write
    out: PathBuf,
    /// What the file looks like to the script that loads it
    #[arg(long, value_enum, default_value_t)]
    pub(super) layout: TorchLayout,
    /// Also write a classifier of zeros with this many classes, so that an unchanged torchvision model loads strictly;
    /// it has to be trained; 1 to 250000
    #[arg(long, value_name = "CLASSES", value_parser = RangedU64ValueParser::<usize>::new().range(CLASSES))]
    pub(super) fc: Option<usize>,
    /// Replace OUT where it exists; never the checkpoint
    #[arg(long)]
    pub(super) force: bool,
    /// Write the whitening of a whitened checkpoint as well, as `whiten.weight` and `whiten.bias`: Occlude's tools
    /// then read the file whitened, and strict loaders refuse it. Without this flag: the encoder alone
    #[arg(long)]
    keep_whitening: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    contract: ContractArgs,
}

/// Classes that a classifier may have: its weights are made in memory, and take up to 8 KiB for each.
const CLASSES: RangeInclusive<u64> = 1..=250_000;

/// Runs `safetensors`.
pub(super) fn run_safetensors(args: SafetensorsArgs) -> anyhow::Result<ExitCode> {
    check(&[&args.out], &[&args.checkpoint], args.force)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let source = load(&checkpoint, args.encoder, args.contract)?.bare(!args.keep_whitening);
    write_safetensors(&args.out, &source.encoder, &source.contract)?;
    eprintln!("wrote `{}`: fingerprint {}", args.out.display(), source.fingerprint);
    Ok(ExitCode::SUCCESS)
}

/// Runs `torch`.
pub(super) fn run_torch(args: TorchArgs) -> anyhow::Result<ExitCode> {
    check(&[&args.out], &[&args.checkpoint], args.force)?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let source = load(&checkpoint, args.encoder, args.contract)?.bare(!args.keep_whitening);
    // MoCo's own files say `epoch`, ours `occlude.epoch`.
    let said = |key: &str| checkpoint.metadata().get(key).and_then(|epoch| epoch.parse().ok());
    let epoch = said("occlude.epoch").or_else(|| said("epoch")).unwrap_or(0);
    let options = TorchOptions { layout: args.layout, epoch, fc_classes: args.fc };
    write_torch(&args.out, &source.encoder, &options, &source.contract)?;
    eprintln!("wrote `{}`: fingerprint {}", args.out.display(), source.fingerprint);
    Ok(ExitCode::SUCCESS)
}
