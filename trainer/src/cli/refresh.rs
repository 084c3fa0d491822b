//! `bn-refresh`: other running statistics for a checkpoint.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::Machine;
use crate::engine::{self, BATCHES, Run};

/// Flags of `bn-refresh`.
#[derive(Args, Debug)]
pub(super) struct RefreshArgs {
    /// Checkpoint of `pretrain`
    checkpoint: PathBuf,
    /// The pictures that it was trained on: folder, list or shards
    data: PathBuf,
    /// The checkpoint to write: the same with new running statistics; those of training are kept beside them for
    /// `--resume`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Batches of views, as large as the run's, at most an epoch of them
    #[arg(long, default_value_t = BATCHES as u64, value_parser = clap::value_parser!(u64).range(1..))]
    batches: u64,
    /// Replace an existing file of that name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Writes the file and prints its path.
pub(super) fn run(args: RefreshArgs) -> Result<ExitCode> {
    occlude_output::check(&[&args.out], &[&args.checkpoint], args.force)?;
    let device = args.machine.device.resolve()?;
    args.machine.apply();
    let bare = Run::bare(args.data, device, args.machine.workers());
    let run = Run { bn_refresh: args.batches as usize, ..bare };
    let batches = engine::refresh(&args.checkpoint, &args.out, &run)?;
    tell!("running statistics re-estimated over {batches} batches of unmasked views");
    answer!("{}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
