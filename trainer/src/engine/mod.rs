//! The training loop: data, step, schedule, metrics, checkpoints. It knows methods through their trait only.

mod metrics;
mod picture;
mod schedule;
pub mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use occlude_preprocess::files;
use serde_json::{Map, Value, json};
use tch::{Device, Tensor};

use crate::augment::Augmenter;
use crate::config::Config;
use crate::data::{Batch, Loader, LoaderSpec, Store, ViewSpec};
use crate::method::{Method, Moco, Step, StepOutput};
use crate::model::Optimizer;
use crate::rng::seed_device;
use metrics::{Log, Meter, Progress};
pub use schedule::Schedule;
use snapshot::Position;

/// What a run is told besides its [`Config`]; none of it changes what is computed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Folder of pictures.
    pub data: PathBuf,
    /// Folder of the run.
    pub out: PathBuf,
    /// Where to compute.
    pub device: Device,
    /// Convolutions and matrix products in bfloat16.
    pub bf16: bool,
    /// Threads that decode.
    pub workers: usize,
    /// Epochs between checkpoints; the last epoch always has one.
    pub save_every: usize,
    /// Steps between metric lines.
    pub log_every: usize,
    /// Bytes of decoded pictures to keep in memory.
    pub cache_bytes: u64,
    /// Checkpoint to go on from.
    pub resume: Option<PathBuf>,
    /// Steps after which to stop early, for tests of resuming.
    pub stop_after: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// All epochs done.
    Finished,
    /// A signal of that number, or `stop_after` (0), ended it after a checkpoint.
    Interrupted(usize),
}

/// Trains.
///
/// # Errors
/// Anything wrong with flags, data or files, before any work starts; a loss that is not a number;
/// a file that cannot be written.
pub fn pretrain(config: &Config, run: &Run) -> Result<End> {
    config.validate()?;
    let resume = run.resume.as_deref().map(snapshot::locate).transpose()?;
    let listing = files::list(&run.data)?;
    let n = listing.samples.len();
    ensure!(
        config.batch_size <= n,
        "`{}` has {n} pictures, fewer than `--batch-size {}`; hint: a smaller batch or more pictures",
        run.data.display(),
        config.batch_size
    );
    let store = Arc::new(Store::new(listing, run.cache_bytes));
    let method = Moco::new(config, run.bf16, run.device)?;
    prepare_folder(run)?;
    let mut engine = Engine::new(config, run, store, Box::new(method));
    if let Some(path) = resume {
        engine.at = snapshot::load(&path, config, engine.method.as_mut(), &engine.optimizer)?;
        eprintln!("resuming `{}` at step {} of {}", path.display(), engine.at.step, engine.schedule.total());
    }
    write_config(config, run)?;
    engine.train()
}

fn prepare_folder(run: &Run) -> Result<()> {
    let out = &run.out;
    if run.resume.is_none() {
        ensure!(
            !out.join("last").exists(),
            "`{}` already holds a run; hint: `--resume` goes on with it, another `--out` starts anew",
            out.display()
        );
    }
    std::fs::create_dir_all(out).with_context(|| format!("cannot create `{}`", out.display()))
}

fn write_config(config: &Config, run: &Run) -> Result<()> {
    let path = run.out.join("config.json");
    let text = serde_json::to_string_pretty(config)?;
    occlude_checkpoint::atomic::write(&path, |w| writeln!(w, "{text}"))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

struct Engine<'a> {
    config: &'a Config,
    run: &'a Run,
    store: Arc<Store>,
    method: Box<dyn Method>,
    optimizer: Optimizer,
    schedule: Schedule,
    augmenter: Augmenter,
    loader: LoaderSpec,
    at: Position,
}

impl<'a> Engine<'a> {
    fn new(config: &'a Config, run: &'a Run, store: Arc<Store>, method: Box<dyn Method>) -> Self {
        let o = &config.optimizer;
        let view = ViewSpec { size: config.image_size, augment: config.augment.clone() };
        Self {
            optimizer: Optimizer::new(method.trainable(), o),
            schedule: Schedule::new(o, store.len() / config.batch_size, config.epochs),
            augmenter: Augmenter::new(
                &config.preprocess(),
                config.image_size,
                config.augment.blur_sigma[1],
                run.device,
            ),
            loader: LoaderSpec {
                batch_size: config.batch_size,
                views: 2,
                keep_last: false,
                view,
                seed: config.seed,
                workers: run.workers,
            },
            at: Position::default(),
            config,
            run,
            store,
            method,
        }
    }

    fn train(&mut self) -> Result<End> {
        let signal = signals()?;
        let mut log = Log::open(&self.run.out.join("metrics.jsonl"))?;
        let progress = Progress::new(self.schedule.total(), self.at.step, self.config.epochs);
        let steps = (self.schedule.total() / self.config.epochs as u64) as usize;
        while self.at.epoch < self.config.epochs as u64 {
            let epoch = self.at.epoch as usize;
            let first = (self.at.step - self.at.epoch * steps as u64) as usize;
            let loader = Loader::start(&self.store, &self.loader, self.at.epoch, first);
            let mut meter = Meter::start();
            let mut stretch = Meter::start();
            let mut waiting = Instant::now();
            for batch in loader {
                let Some(batch) = batch else {
                    bail!(
                        "no picture in `{}` can be read; hint: the warnings above say why",
                        self.run.data.display()
                    );
                };
                let waited = waiting.elapsed().as_secs_f64();
                let log_now = (batch.step + 1).is_multiple_of(self.run.log_every) || batch.step + 1 == steps;
                let values = self.step(&batch, log_now || batch.step == first)?;
                for m in [&mut meter, &mut stretch] {
                    m.step(self.config.batch_size, waited);
                    if let Some(values) = &values {
                        m.add(values);
                    }
                }
                progress.step();
                if log_now {
                    log.write(&line("step", epoch, self.at.step, stretch.fields()))?;
                    progress.show(epoch, &meter);
                    stretch = Meter::start();
                }
                let stop = signal.load(Ordering::Relaxed);
                if stop != 0 || self.run.stop_after.is_some_and(|n| self.at.step >= n) {
                    progress.finish();
                    return self.interrupt(stop, steps);
                }
                waiting = Instant::now();
            }
            self.at.epoch += 1;
            self.end_epoch(epoch, &meter, &mut log, &progress)?;
        }
        progress.finish();
        Ok(End::Finished)
    }

    /// One optimiser step; metrics are read from the device only when asked, because that waits for it.
    fn step(&mut self, batch: &Batch, read: bool) -> Result<Option<Vec<(String, f64)>>> {
        let number = self.at.step;
        let step = Step { number, epoch: self.schedule.epoch(number), preview: number == 0 };
        seed_device(self.config.seed, number);
        let views = tch::no_grad(|| [0, 1].map(|v| self.augmenter.apply(&batch.views[v], batch.size)));
        let output = self.method.step(&views, step)?;
        self.optimizer.zero_grad();
        output.loss.f_backward()?;
        let lr = self.schedule.lr(number);
        self.optimizer.step(lr)?;
        self.method.after_step(step)?;
        self.at.step += 1;
        if let Some(preview) = &output.preview {
            let path = self.run.out.join("first_batch.png");
            let titles = picture::write(&path, preview, &self.config.preprocess())?;
            eprintln!("first batch in `{}`: {}", path.display(), titles.join(" | "));
        }
        if !read {
            return Ok(None);
        }
        let mut values = read_metrics(&output);
        let loss = values[0].1;
        ensure!(
            loss.is_finite(),
            "the loss is {loss} at step {number}: training has diverged; hint: a smaller `--lr`, `--precision fp32`, or resume from an earlier checkpoint with another `--lr`"
        );
        values.push(("lr".into(), lr));
        Ok(Some(values))
    }

    fn end_epoch(&mut self, epoch: usize, meter: &Meter, log: &mut Log, progress: &Progress) -> Result<()> {
        let mut fields = meter.fields();
        let broken = self.store.broken();
        if broken > 0 {
            fields.insert("broken_files".into(), json!(broken));
        }
        self.at.metrics = Value::Object(fields.clone());
        log.write(&line("epoch", epoch, self.at.step, fields))?;
        progress.epoch(epoch, meter);
        let last = epoch + 1 == self.config.epochs;
        if last || (epoch + 1).is_multiple_of(self.run.save_every) {
            let path = self.run.out.join(format!("checkpoint_{epoch:04}.safetensors"));
            self.save(&path)?;
            if last {
                eprintln!("saved `{}`", path.display());
            }
        }
        Ok(())
    }

    fn interrupt(&mut self, signal: usize, steps: usize) -> Result<End> {
        self.at.epoch = self.at.step / steps as u64;
        let path = self.run.out.join("interrupted.safetensors");
        self.save(&path)?;
        eprintln!("stopped after step {}, saved `{}`; `--resume` goes on", self.at.step, path.display());
        Ok(End::Interrupted(signal))
    }

    fn save(&self, path: &Path) -> Result<()> {
        snapshot::save(path, self.config, self.method.as_ref(), &self.optimizer, &self.at)
    }
}

fn read_metrics(output: &StepOutput) -> Vec<(String, f64)> {
    let read = |t: &Tensor| t.double_value(&[]);
    let mut values = vec![("loss".to_owned(), read(&output.loss))];
    values.extend(output.metrics.iter().map(|(name, t)| ((*name).to_owned(), read(t))));
    values
}

fn line(kind: &str, epoch: usize, step: u64, fields: Map<String, Value>) -> Value {
    let mut out = json!({ "kind": kind, "epoch": epoch, "step": step });
    if let Some(map) = out.as_object_mut() {
        map.extend(fields);
    }
    out
}

/// The number of the last SIGINT or SIGTERM; 0 before any. A second one ends the process at once.
fn signals() -> Result<Arc<AtomicUsize>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let seen = Arc::new(AtomicUsize::new(0));
    let armed = Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // the order matters: leave if armed, then arm
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&armed))?;
        signal_hook::flag::register(signal, Arc::clone(&armed))?;
        signal_hook::flag::register_usize(signal, Arc::clone(&seen), signal as usize)?;
    }
    Ok(seen)
}
