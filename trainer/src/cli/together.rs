//! Commands that several processes can do together.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use occlude_distributed::{Place, World};
use tch::Device;

use super::Machine;
use crate::device::Choice;
use crate::ranks;
use crate::selftest::{self, Stage};

/// How processes work together.
#[derive(Args, Debug, Clone)]
pub(super) struct RankArgs {
    /// Maximum seconds that processes which work together (torchrun, srun) wait for each other; a process that stalls
    /// for longer ends the command (docs/cluster.md)
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    dist_timeout: u64,
}

impl RankArgs {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.dist_timeout)
    }
}

/// Where a process works, and with whom.
pub(super) struct Here {
    pub(super) world: World,
    pub(super) device: Device,
    /// Threads that decode.
    pub(super) workers: usize,
}

impl Here {
    /// Makes sure that all processes do the same.
    ///
    /// # Errors
    /// Where they do not.
    pub(super) fn same(&self, what: &str, text: &str) -> Result<()> {
        let device = if self.device.is_cuda() { "cuda" } else { "cpu" };
        let version = env!("CARGO_PKG_VERSION");
        let texts = [("the program's version", version), (what, text), ("the kind of device", device)];
        ranks::same(&self.world, &texts)
    }
}

/// Does `job` with the processes that were started together, of which one speaks; or alone.
///
/// # Errors
/// Where they cannot be joined; those of the job.
pub(super) fn together(
    machine: &Machine,
    args: &RankArgs,
    job: impl FnOnce(&Here) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let place = Place::from_env()?;
    machine.apply();
    let workers = machine.workers_beside(place.as_ref().map_or(1, |place| place.local_size));
    let (world, device) = join(place, machine.device, args)?;
    let here = Here { world, device, workers };
    ended(&here.world, job(&here))
}

/// Meets the others, where there are any, each with the device of its number.
fn join(place: Option<Place>, choice: Choice, args: &RankArgs) -> Result<(World, Device)> {
    let Some(place) = place else { return Ok((World::single(), choice.resolve()?)) };
    let device = choice.of_rank(place.local_rank).resolve()?;
    Ok((World::join(place, args.timeout(), device)?, device))
}

fn ended(world: &World, done: Result<ExitCode>) -> Result<ExitCode> {
    match done {
        Err(error) if !world.is_single() => ranks::end(world, &error),
        done => done,
    }
}

/// `selftest`: of one process all parts, of several what they do together.
pub(super) fn selftest(choice: Choice, args: &RankArgs, only: &[Stage]) -> Result<ExitCode> {
    let (world, device) = join(Place::from_env()?, choice, args)?;
    let stages = match only {
        [] if world.is_single() => Stage::value_variants(),
        [] => &[Stage::Collectives],
        only => only,
    };
    if !world.is_single() && stages != [Stage::Collectives] {
        tell!(
            "error: {} processes check `collectives` alone; hint: run the other parts in one process",
            world.size()
        );
        return Ok(ExitCode::from(2));
    }
    ended(&world, selftest::run(&world, device, stages))
}
