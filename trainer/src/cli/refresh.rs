//! `bn-refresh`: other running statistics for a checkpoint.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use occlude_distributed::World;

use super::Machine;
use crate::engine::{self, Allow, BATCHES, OnCollapse, Run};

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
    let run = Run {
        data: args.data,
        out: PathBuf::new(),
        device,
        bf16: false,
        workers: args.machine.workers(),
        save_every: usize::MAX,
        save_interval: Duration::MAX,
        log_every: usize::MAX,
        cache_bytes: 0,
        teacher_cache: None,
        resume: None,
        allow: Allow::default(),
        on_collapse: OnCollapse::Warn,
        max_drop: None,
        online: None,
        bn_refresh: args.batches as usize,
        world: World::single(),
        stop_after: None,
    };
    let batches = engine::refresh(&args.checkpoint, &args.out, &run)?;
    tell!("running statistics re-estimated over {batches} batches of unmasked views");
    answer!("{}", args.out.display());
    Ok(ExitCode::SUCCESS)
}
