//! A run: what it is told, how it starts, how it ends. The engine knows methods through their trait only.

mod begin;
mod course;
mod environment;
mod kept;
mod metrics;
mod online;
mod picture;
mod position;
mod profile;
mod refresh;
mod saves;
mod schedule;
pub mod snapshot;
mod start;
mod together;
mod training;
mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::Checkpoint;
use occlude_dataset::{Dataset, Identity};
use occlude_distributed::{Compression, World};
use tch::Device;

use crate::config::{Config, Teacher};
use crate::data::{Pictures, Store};
use crate::lock::Lock;
use crate::method;
use crate::ranks;
use crate::teacher::{self, Targets};
pub use course::Allow;
use kept::Kept;
use online::Online;
pub use online::OnlineKnn;
pub use position::Course;
pub use profile::{Plan, Profile, profile};
pub use refresh::{BATCHES, refresh};
pub use schedule::Schedule;
use training::Engine;
pub use watchdog::OnCollapse;

/// What a run is told besides its [`Config`]; none of it changes what is trained, as long as nothing collapses.
#[derive(Clone, Debug)]
pub struct Run {
    /// The data set: a folder, a list or shards.
    pub data: PathBuf,
    /// Folder of the run.
    pub out: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// Convolutions and matrix products in bfloat16.
    pub bf16: bool,
    /// Threads that decode.
    pub workers: usize,
    /// Epochs between the checkpoints that are kept; the last epoch always has one.
    pub save_every: usize,
    /// Longest time between checkpoints to resume from; every epoch ends with one.
    pub save_interval: Duration,
    /// Steps between metric lines.
    pub log_every: usize,
    /// Bytes of decoded pictures to keep in memory.
    pub cache_bytes: u64,
    /// Folder of what teachers said of pictures; absent: one beside the indices of data sets, or else in the run's folder.
    pub teacher_cache: Option<PathBuf>,
    /// Checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// What may have changed since.
    pub allow: Allow,
    /// What to do when training has collapsed, or the accuracy has fallen.
    pub on_collapse: OnCollapse,
    /// How far, from 0 to 1, accuracy by nearest neighbours may fall under its best; absent: as far as it likes.
    pub max_drop: Option<f64>,
    /// Nearest-neighbour accuracy along the way.
    pub online: Option<OnlineKnn>,
    /// Batches of unmasked views over which the running statistics of the finished encoder are estimated anew.
    pub bn_refresh: usize,
    /// The processes that train together.
    pub world: World,
    /// How gradients travel between them.
    pub compression: Compression,
    /// Steps after which to stop early, for tests of resuming.
    pub stop_after: Option<u64>,
}

impl Run {
    /// A run over `data` without checkpoints on the way, lines of metrics, watching or a folder of its own: what others start
    /// from.
    pub(crate) fn bare(data: PathBuf, device: Device, workers: usize) -> Self {
        Self {
            data,
            out: PathBuf::new(),
            device,
            bf16: false,
            compression: Compression::None,
            workers,
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
            bn_refresh: 0,
            world: World::single(),
            stop_after: None,
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All epochs done.
    Finished,
    /// A signal of that number, or `stop_after` (0), ended it after a checkpoint.
    Interrupted(usize),
    /// Training collapsed, and the run was not to go on.
    Collapsed,
}

/// Trains.
///
/// # Errors
/// Anything wrong with flags, data or files, before any work starts; data that vanish; a file that cannot be written.
pub fn pretrain(config: &Config, run: &Run) -> Result<End> {
    let world = &run.world;
    let resumed = ranks::agreed(world, checked(config, run), "the configuration")?;
    let dataset = ranks::first(world, "opening the data", || Ok(crate::data::open(&run.data)?))?;
    let n = dataset.len();
    let identity = ranks::agreed(world, dataset.identity().map_err(Into::into), "the data")?;
    let online = ranks::agreed(world, usable(config, run, n), "the data")?;
    together::same(config, run, &identity)?;
    let (config, targets) = ranks::first(world, "the teacher", || {
        taught(config, run, (&dataset, &identity), resumed.as_deref())
    })?;
    let config = &config;
    let store = Arc::new(Store::new(dataset, run.cache_bytes));
    let made = || -> Result<_> {
        let method = method::build(config, targets.as_ref(), run.bf16, run.device)?;
        Ok((world.is_main().then(|| prepare_folder(run)).transpose()?, method))
    };
    let (_lock, method) = ranks::agreed(world, made(), "the method")?;
    let mut engine = Engine::new(config, run, Pictures::Stored(store), method);
    engine.online = online;
    engine.join()?;
    let ready = prepare(&mut engine, identity).and_then(|()| {
        if !world.is_main() {
            return Ok(());
        }
        write_config(config, run)?;
        environment::write(&run.out.join("environment.json"), run, n)
    });
    ranks::agreed(world, ready, "the beginning")?;
    match engine.train() {
        Err(error) if !world.is_single() => ranks::end(world, &error),
        ended => ended,
    }
}

/// The checkpoint to go on from.
fn checked(config: &Config, run: &Run) -> Result<Option<PathBuf>> {
    config.validate()?;
    together::divides(config, &run.world)?;
    run.resume.as_deref().map(snapshot::locate).transpose()
}

/// Whether a run can begin with `pictures` of the data; what accuracy is measured on.
fn usable(config: &Config, run: &Run, pictures: usize) -> Result<Option<Online>> {
    let batch = config.batch_size * config.accumulate;
    ensure!(
        batch <= pictures,
        "`{}` has {pictures} pictures, fewer than the {batch} of a step (`--batch-size` times `--accumulate`); hint: a smaller batch or more pictures",
        run.data.display(),
    );
    let online = run.online.as_ref().map(|o| Online::open(o, &run.data)).transpose()?;
    match unused(run) {
        Err(used) if run.world.is_main() => {
            // a run that goes on is told with its process, wherever it has got to
            drop(Lock::take(&run.out)?);
            Err(used)
        }
        _ => Ok(online),
    }
}

/// Puts the engine where the run begins or goes on.
fn prepare(engine: &mut Engine<'_>, identity: Identity) -> Result<()> {
    let (config, run) = (engine.config, engine.run);
    // one process is enough to look at neighbours, and to write them
    let watched = (config.beginning.is_some() && run.online.is_none() && run.world.is_main())
        .then(|| crate::data::open(&run.data).map(|data| (data, identity.hash())))
        .transpose()?;
    let neighbours = run.out.join("start_neighbours.json");
    // again, because another process may have written until now
    let resume = run.resume.as_deref().map(snapshot::locate).transpose()?;
    let changed = match resume {
        Some(path) => {
            engine.kept = watched.map(|data| Kept::open(data, &neighbours)).transpose()?.flatten();
            engine.resume(&path, &identity)?
        }
        None => {
            config.beginning.as_ref().map_or(Ok(()), |b| begin::load(engine.method.as_ref(), b))?;
            let encoder = (engine.method.encoder(), &config.preprocess());
            engine.kept =
                watched.map(|data| Kept::begin(data, &neighbours, encoder, run.workers)).transpose()?;
            engine.begin(identity);
            false
        }
    };
    if changed || !run.out.join("last").exists() {
        // something to roll back to, and a test of the disk before the work
        engine.saves.latest(&engine.state())?;
    }
    Ok(())
}

/// Makes the folder and keeps other processes from it.
fn prepare_folder(run: &Run) -> Result<Lock> {
    let out = &run.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))?;
    let lock = Lock::take(out)?;
    unused(run)?;
    Ok(lock)
}

/// Refuses to begin a run where there is one.
fn unused(run: &Run) -> Result<()> {
    ensure!(
        run.resume.is_some() || !run.out.join("last").exists(),
        "`{}` already holds a run; hint: `--resume` continues it, another `--out` starts a new one",
        run.out.display()
    );
    Ok(())
}

/// What a teacher says of the pictures, where there is one; and the configuration with the numbers that became known by it.
fn taught(
    config: &Config,
    run: &Run,
    (data, identity): (&Dataset, &Identity),
    resumed: Option<&Path>,
) -> Result<(Config, Option<Targets>)> {
    let Some(teacher) = config.method.teacher() else { return Ok((config.clone(), None)) };
    let resumed = resumed.map(Checkpoint::open).transpose()?;
    let before = resumed.as_ref().map(|c| same_teacher(c, teacher)).transpose()?;
    let beside = || occlude_dataset::default_cache_folder().map(|folder| folder.join("teacher"));
    let cache = run.teacher_cache.clone().or_else(beside).unwrap_or_else(|| run.out.join("teacher"));
    let place = teacher::Place { cache: &cache, workers: run.workers, device: run.device };
    let (mut config, targets) = teacher::targets(config, data, identity, resumed.as_ref(), place)?;
    if let (Some(before), Some(settings)) = (before, config.method.distill_mut()) {
        // wherever the file is now
        settings.teacher = Some(Teacher { dim: targets.as_ref().map(Targets::of_dim), ..before });
    }
    Ok((config, targets))
}

/// The teacher of the run that is resumed.
fn same_teacher(checkpoint: &Checkpoint, now: &Teacher) -> Result<Teacher> {
    let path = checkpoint.path();
    let was = snapshot::describe(path, checkpoint)?.config.method.teacher().cloned();
    let was = was.with_context(|| {
        format!(
            "`{}` is from a run without a teacher; hint: resume with the flags of the first run",
            path.display()
        )
    })?;
    ensure!(
        was.identity == now.identity,
        "`{}` is from a run that learns from `{}` (fingerprint {}), and `{}` is another teacher (fingerprint {}); hint: use the first one again",
        path.display(),
        was.path.display(),
        was.fingerprint,
        now.path.display(),
        now.fingerprint
    );
    Ok(was)
}

fn write_config(config: &Config, run: &Run) -> Result<()> {
    let path = run.out.join("config.json");
    let text = serde_json::to_string_pretty(&config.resolved()?)?;
    occlude_output::write(&path, |w| writeln!(w, "{text}"))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

#[cfg(test)]
mod reads;
#[cfg(test)]
mod tests;
