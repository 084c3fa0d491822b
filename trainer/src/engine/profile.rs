//! Where a step's time goes: the engine's own steps, watched.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use occlude_dataset::Dataset;
use occlude_torch_ext::{Counts, PeakMemory};
use serde_json::{Value, json};
use tch::{Cuda, Device};

use super::Run;
use super::training::Engine;
use crate::config::Config;
use crate::data::{Feed, Pictures, Store};
use crate::method;
use crate::phase::{Phase, Recorded, Recording, within};
use crate::teacher::Targets;

/// Steps whose operators are counted; augmentation and masks differ a little from step to step.
const COUNTED: u64 = 4;
/// Epoch of made-up pictures, in steps.
const SYNTHETIC_STEPS: usize = 1000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The data set; absent: random pixels that lie ready.
    pub data: Option<PathBuf>,
    /// Where to compute.
    pub device: Device,
    /// Convolutions and matrix products in bfloat16.
    pub bf16: bool,
    /// Threads that decode.
    pub workers: usize,
    /// Bytes of decoded pictures to keep in memory.
    pub cache_bytes: u64,
    /// Colour changes on the CPU with the operators that CUDA gets.
    pub as_on_cuda: bool,
    /// Steps that are not measured.
    pub warmup: u64,
    /// Steps that are measured.
    pub steps: u64,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Profile {
    plan: Plan,
    config: Config,
    /// Of the measured steps.
    time: Duration,
    waited: Duration,
    phases: Recorded,
    /// Of a few further steps.
    counted: Recorded,
    memory: PeakMemory,
}

/// Runs the steps of `pretrain`, as `config` says, and measures them. Nothing is written.
///
/// # Errors
/// Where the configuration cannot work, data cannot be read, or the device cannot be used.
pub fn profile(config: &Config, plan: &Plan) -> Result<Profile> {
    config.validate()?;
    let per_step = config.batch_size * config.accumulate;
    let pictures = match &plan.data {
        None => Pictures::Synthetic(SYNTHETIC_STEPS * per_step),
        Some(path) => {
            let dataset = Dataset::open(path, &crate::data::options())?;
            Pictures::Stored(Arc::new(Store::new(dataset, plan.cache_bytes)))
        }
    };
    ensure!(
        pictures.len() >= per_step,
        "{} pictures, fewer than the {per_step} of a step (`--batch-size` times `--accumulate`); hint: a smaller batch or more pictures",
        pictures.len()
    );
    let run = settings(plan);
    // a teacher has no part in a step
    let targets = Targets::made_up(config, pictures.len());
    let method = method::build(config, targets.as_ref(), plan.bf16, plan.device)?;
    let mut steps = Steps::new(Engine::new(config, &run, pictures, method), plan);
    for _ in 0..plan.warmup {
        steps.one()?;
    }
    synchronise(plan.device);
    PeakMemory::reset(plan.device)?;
    steps.waited = Duration::ZERO;
    let recording = Recording::start(plan.device, false)?;
    let began = Instant::now();
    for _ in 0..plan.steps {
        steps.one()?;
    }
    synchronise(plan.device);
    let (time, waited) = (began.elapsed(), steps.waited);
    let phases = recording.finish()?;
    let memory = PeakMemory::read(plan.device)?;
    let recording = Recording::start(plan.device, true)?;
    for _ in 0..COUNTED {
        steps.one()?;
    }
    let counted = recording.finish()?;
    Ok(Profile { plan: plan.clone(), config: config.clone(), time, waited, phases, counted, memory })
}

pub(super) fn settings(plan: &Plan) -> Run {
    let data = plan.data.clone().unwrap_or_default();
    let bare = Run::bare(data, plan.device, plan.workers);
    Run { bf16: plan.bf16, cache_bytes: plan.cache_bytes, ..bare }
}

fn synchronise(device: Device) {
    if let Device::Cuda(number) = device {
        Cuda::synchronize(number as i64);
    }
}

/// The steps of an engine, epoch after epoch.
pub(super) struct Steps<'a> {
    engine: Engine<'a>,
    feed: Option<Feed>,
    epoch: u64,
    waited: Duration,
}

impl<'a> Steps<'a> {
    pub(super) fn new(mut engine: Engine<'a>, plan: &Plan) -> Self {
        // pictures of the first step would be kept for a file
        engine.at.step = 1;
        if plan.as_on_cuda {
            engine.augmenters.as_elsewhere();
        }
        Self { engine, feed: None, epoch: 0, waited: Duration::ZERO }
    }

    pub(super) fn one(&mut self) -> Result<()> {
        let parts = self.engine.config.accumulate;
        for part in 1..=parts {
            let began = Instant::now();
            let batch = {
                let _wait = within(Phase::DataWait);
                self.batch()?
            };
            self.waited += began.elapsed();
            self.engine.batch(batch, part == parts, false)?;
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<crate::data::Fed> {
        // an epoch that is over leaves a feed that is empty
        for _ in 0..2 {
            if let Some(feed) = &mut self.feed
                && let Some(batch) = feed.next()
            {
                let Some(batch) = batch? else { bail!(self.engine.no_data()) };
                return Ok(batch);
            }
            let Engine { pictures, loader, run, .. } = &self.engine;
            self.feed = Some(pictures.feed(loader, (self.epoch, 0), None, run.device)?);
            self.epoch += 1;
        }
        unreachable!("an epoch has a batch at least")
    }
}

impl Profile {
    /// Images a second.
    fn rate(&self) -> f64 {
        self.plan.steps as f64 * self.images() as f64 / self.time.as_secs_f64().max(1e-9)
    }

    fn images(&self) -> usize {
        self.config.batch_size * self.config.accumulate
    }

    fn wait_share(&self) -> f64 {
        self.waited.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }

    /// Per step: milliseconds of the measured steps, operators of the counted ones.
    fn shares(&self) -> Vec<(Phase, f64, [f64; 3])> {
        let of =
            |recorded: &Recorded, phase: Phase| recorded.shares.iter().find(|s| s.phase == phase).copied();
        let both = |phase: Phase| {
            let (time, counts) = (of(&self.phases, phase), of(&self.counted, phase));
            (time.is_some() || counts.is_some()).then(|| {
                let milliseconds = time.map_or(0.0, |s| s.milliseconds) / self.plan.steps as f64;
                (phase, milliseconds, per_step(counts.map(|s| s.counts).unwrap_or_default()))
            })
        };
        Phase::ALL.into_iter().filter_map(both).collect()
    }

    /// Operators, kernels and reads a step.
    fn totals(&self) -> [f64; 3] {
        let mut all = Counts::default();
        self.counted.shares.iter().for_each(|s| all += s.counts);
        per_step(all)
    }

    /// Everything, for programs.
    pub fn json(&self) -> Value {
        let (plan, c) = (&self.plan, &self.config);
        let phase = |(phase, milliseconds, [operators, kernels, reads]): (Phase, f64, [f64; 3])| {
            json!({
                "name": phase.name(), "milliseconds": milliseconds, "operators": operators, "kernels": kernels,
                "host_reads": reads,
            })
        };
        let operator = |(name, counts): &(String, Counts)| {
            let [calls, kernels, reads] = per_step(*counts);
            json!({ "name": name, "calls": calls, "kernels": kernels, "host_reads": reads })
        };
        let [operators, kernels, reads] = self.totals();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "libtorch": occlude_torch_ext::torch_version(),
            "device": format!("{:?}", plan.device),
            "precision": if plan.bf16 { "bfloat16" } else { "float32" },
            "recipe": c.recipe.name(),
            "arch": c.arch,
            "image_size": c.image_size,
            "batch_size": c.batch_size,
            "accumulate": c.accumulate,
            "data": plan.data.as_ref().map_or_else(|| "synthetic".to_owned(), |p| p.display().to_string()),
            "workers": plan.workers,
            "threads": tch::get_num_threads(),
            "steps": plan.steps,
            "images_per_second": self.rate(),
            "milliseconds_per_step": self.time.as_secs_f64() * 1e3 / plan.steps as f64,
            "wait_share": self.wait_share(),
            "peak_memory_bytes": self.memory.used,
            "peak_reserved_bytes": self.memory.reserved,
            "operators_per_step": operators,
            "kernels_per_step": kernels,
            "host_reads_per_step": reads,
            "phases": self.shares().into_iter().map(phase).collect::<Vec<_>>(),
            "operators": self.counted.operators.iter().map(operator).collect::<Vec<_>>(),
        })
    }

    /// The table for people; `names`: so many of the operators that compute most often.
    pub fn table(&self, names: usize) -> String {
        let ms = self.time.as_secs_f64() * 1e3 / self.plan.steps as f64;
        let row = |name: &str, ms: f64, share: f64, [operators, kernels, reads]: [f64; 3]| {
            format!(
                "{name:<16} {ms:>10.2} {:>6.1} {operators:>10.0} {kernels:>8.0} {reads:>6.1}",
                share * 100.0
            )
        };
        let mut lines = vec![format!(
            "{:<16} {:>10} {:>6} {:>10} {:>8} {:>6}",
            "phase", "ms", "%", "operators", "kernels", "reads"
        )];
        let shares = self.shares();
        lines.extend(shares.iter().map(|&(phase, part, counts)| row(phase.name(), part, part / ms, counts)));
        lines.push(row("step", ms, 1.0, self.totals()));
        let mut most = self.counted.operators.clone();
        most.sort_by_key(|(_, c)| std::cmp::Reverse(c.kernels));
        lines.extend(most.iter().take(names).map(|(name, c)| row(name, 0.0, 0.0, per_step(*c))));
        lines.push(format!(
            "{:.1} images/s on {:?}, {:.1} % of the time waiting for data, peak memory {:.0} MiB",
            self.rate(),
            self.plan.device,
            100.0 * self.wait_share(),
            self.memory.used as f64 / f64::from(1 << 20)
        ));
        lines.join("\n")
    }
}

fn per_step(counts: Counts) -> [f64; 3] {
    [counts.calls, counts.kernels, counts.reads].map(|n| n as f64 / COUNTED as f64)
}
