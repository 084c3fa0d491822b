//! The training loop: data, step, schedule, metrics, checkpoints.

mod estimate;
mod guard;
mod health;
mod recover;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};
use occlude_dataset::is_address;
use occlude_distributed::Reducer;
use occlude_preprocess::Preprocess;
use serde_json::{Map, Value, json};
use tch::Tensor;

use super::kept::Kept;
use super::metrics::{Log, Meter, Progress};
use super::online::Online;
use super::position::Position;
use super::saves::Saves;
use super::snapshot::State;
use super::watchdog::{OnCollapse, Watchdog};
use super::{End, Run, Schedule, picture};
use crate::augment::Augmenters;
use crate::config::Config;
use crate::data::{Fed, LoaderSpec, Pictures, ViewSpec};
use crate::method::{Method, Step, Views};
use crate::model::{ENCODERS, Encoder, Optimizer, Rate, Statistics};
use crate::phase::{Phase, within};
use crate::rng::seed_device;
use crate::share::Share;
use crate::signals::Interrupt;
use estimate::describe;
use guard::Worth;
use health::{Measured, measured};
use recover::Loss;

#[cfg(test)]
pub(super) use recover::ROLLBACKS;

/// A run under way.
pub(super) struct Engine<'a> {
    pub(super) config: &'a Config,
    pub(super) run: &'a Run,
    pub(super) pictures: Pictures,
    pub(super) method: Box<dyn Method>,
    pub(super) optimizer: Optimizer,
    /// Averages gradients, where several processes train together.
    pub(super) reducer: Option<Reducer>,
    pub(super) schedule: Schedule,
    pub(super) augmenters: Augmenters,
    pub(super) loader: LoaderSpec,
    pub(super) saves: Saves,
    watchdog: Watchdog,
    pub(super) online: Option<Online>,
    /// The neighbours at the start of a run from another encoder, where nobody knows classes.
    pub(super) kept: Option<Kept>,
    pub(super) at: Position,
    /// What was not as the resumed checkpoint said.
    changes: Vec<String>,
    /// Metrics that were computed and not yet read.
    pending: Vec<Measured>,
    /// Whether every loss since the last look was a finite number; on the device, so that nothing waits for it.
    finite: Tensor,
}

/// How an epoch ended.
enum Epoch {
    Done,
    /// By a signal, after a whole step or within one.
    Stop {
        signal: usize,
        whole: bool,
    },
    /// To go back from, and why.
    Lost(Loss, String),
}

impl<'a> Engine<'a> {
    pub(super) fn new(config: &'a Config, run: &'a Run, pictures: Pictures, method: Box<dyn Method>) -> Self {
        let o = &config.optimizer;
        let views = ViewSpec::of(config);
        let steps = pictures.len() / (config.batch_size * config.accumulate);
        Self {
            optimizer: Optimizer::with_rates(method.trainable(), o, rates(config, method.as_ref())),
            reducer: None,
            schedule: Schedule::new(o, steps, config.epochs),
            augmenters: Augmenters::new(&config.preprocess(), &views, run.device),
            loader: LoaderSpec {
                batch_size: config.batch_size,
                share: Share::ALL,
                views,
                keep_last: false,
                seed: config.seed,
                workers: run.workers,
            },
            saves: Saves::new(&run.out, run.save_interval, run.world.is_main()),
            watchdog: Watchdog::new(config.batch_size, steps as u64),
            online: None,
            kept: None,
            at: Position::default(),
            changes: Vec::new(),
            pending: Vec::new(),
            finite: Tensor::from(true).to(run.device),
            config,
            run,
            pictures,
            method,
        }
    }

    /// Trains to the end, or to a stop.
    ///
    /// # Errors
    /// Where data vanish or a file cannot be written.
    pub(super) fn train(&mut self) -> Result<End> {
        let signals = Interrupt::register()?;
        signals.hold();
        let mut log = if self.run.world.is_main() {
            Log::open(&self.run.out, self.at.step)?
        } else {
            Log::silent(&self.run.out)
        };
        if self.run.resume.is_some() {
            log.write(&event("resumed", self.at.epoch, self.at.step, &self.run.data.display().to_string()))?;
        }
        for change in &self.changes {
            log.write(&event("changed", self.at.epoch, self.at.step, change))?;
        }
        let mut progress = Progress::new(self.total(), self.at.step, self.config.epochs);
        if let Err(signal) = self.measure_start(&signals, &mut log, &progress)? {
            progress.finish();
            return self.leave(signal, true, &mut log);
        }
        while self.at.epoch < self.config.epochs as u64 {
            match self.epoch(&signals, &mut log, &mut progress)? {
                Epoch::Done => {}
                Epoch::Stop { signal, whole } => {
                    progress.finish();
                    return self.leave(signal, whole, &mut log);
                }
                Epoch::Lost(loss, why) => {
                    if !self.roll_back(loss, &why, &mut log, &mut progress)? {
                        progress.finish();
                        log.report();
                        return Ok(End::Collapsed);
                    }
                }
            }
        }
        progress.finish();
        self.saves.drop_good();
        Ok(End::Finished)
    }

    /// The rest of an epoch.
    fn epoch(&mut self, signals: &Interrupt, log: &mut Log, progress: &mut Progress) -> Result<Epoch> {
        let (epoch, steps) = (self.at.epoch, self.schedule.steps_per_epoch());
        let (number, per_step) = (epoch as usize, self.config.accumulate);
        let first = (self.at.step - self.at.course.began) as usize;
        if first as u64 == steps {
            // it was interrupted between its last step and its end
            return self.end_epoch(signals, log, progress);
        }
        // several ranks stop together, between steps
        let signal = self.run.world.is_single().then(|| signals.flag());
        let feed = self.pictures.feed(&self.loader, (epoch, first * per_step), signal, self.run.device)?;
        self.pending.clear();
        let mut stretch = Meter::default();
        let (mut began, mut waited) = (Instant::now(), 0.0);
        let (mut waiting, mut parts) = (Instant::now(), 0);
        for batch in feed.take((steps as usize - first) * per_step) {
            let Some(batch) = batch? else { bail!(self.no_data()) };
            let part = batch.step();
            waited += waiting.elapsed().as_secs_f64();
            let last_of_step = (part + 1).is_multiple_of(per_step);
            parts = if last_of_step { 0 } else { parts + 1 };
            let log_now = last_of_step && self.log_now(part / per_step);
            let measured = self.batch(batch, last_of_step, log_now || part == 0)?;
            self.pending.extend(measured);
            if last_of_step {
                let seconds = began.elapsed().as_secs_f64();
                for meter in [&mut stretch, &mut self.at.run.meter] {
                    meter.count(self.config.batch_size * per_step, seconds, waited);
                }
                (began, waited) = (Instant::now(), 0.0);
                progress.at(self.at.step);
                if log_now {
                    let health = self.settle(&mut stretch)?;
                    log.write(&line("step", number, self.at.step, stretch.fields()))?;
                    progress.show(number, &self.at.run.meter);
                    if let Some(why) = self.watch(health, log, progress)? {
                        return Ok(Epoch::Lost(Loss::Collapse, why));
                    }
                    stretch = Meter::default();
                }
                let (stop, due) = self.decide(signals)?;
                if let Some(signal) = stop {
                    self.settle(&mut stretch)?;
                    return Ok(Epoch::Stop { signal, whole: true });
                }
                if due && self.trusted() && self.healthy()? {
                    self.settle(&mut stretch)?;
                    self.saves.latest(&self.state())?;
                    began = Instant::now();
                }
            }
            waiting = Instant::now();
        }
        if self.at.step - self.at.course.began < steps {
            self.settle(&mut stretch)?;
            return self.ended_early(parts, signals);
        }
        self.end_epoch(signals, log, progress)
    }

    /// Whether a checkpoint may replace the last good one: a rollback goes back to before the first symptom.
    fn trusted(&self) -> bool {
        self.at.run.symptom.none() || self.run.on_collapse == OnCollapse::Warn
    }

    /// Whether metrics are read and written after that step of the epoch.
    fn log_now(&self, step: usize) -> bool {
        (step + 1).is_multiple_of(self.run.log_every) || step as u64 + 1 == self.schedule.steps_per_epoch()
    }

    pub(super) fn no_data(&self) -> String {
        let data = self.run.data.display();
        let last = self.run.out.display();
        if let Pictures::Stored(store) = &self.pictures
            && let Some(reason) = store.lost()
        {
            return format!("{reason}; hint: `--resume` continues from the last checkpoint in `{last}`");
        }
        let why = match &self.pictures {
            Pictures::Stored(store) if self.run.data.exists() || is_address(&self.run.data) => {
                store.all_broken().to_string()
            }
            _ => format!("no picture of `{data}` is left"),
        };
        format!(
            "{why}; hint: restore the data, then `--resume` continues from the last checkpoint in `{last}`"
        )
    }

    /// Forward and backward of one batch, and the optimiser's step after the last one of a step. Metrics are computed
    /// only when asked, and stay on the device.
    pub(super) fn batch(
        &mut self,
        batch: Fed,
        last_of_step: bool,
        measure: bool,
    ) -> Result<Option<Measured>> {
        let parts = self.config.accumulate;
        let part = batch.step() % parts;
        let number = self.at.step * parts as u64 + part as u64;
        let time = self.time();
        let step = Step { number, epoch: self.schedule.epoch(time), preview: number == 0, measure };
        seed_device(self.config.seed, number);
        let (indices, placed) = (batch.indices().to_vec(), batch.placed());
        let views = tch::no_grad(|| batch.views(&self.augmenters))?;
        if number == 0 {
            self.note_start(&indices, &views)?;
        }
        let views = Views::new(views, &indices)?.placed_at(placed)?;
        self.run.world.at_step(self.at.step + 1);
        if let Some(reducer) = &self.reducer {
            reducer.forward()?;
        }
        let output = self.method.step(&views, step)?;
        if part == 0 {
            let _optimiser = within(Phase::Optimiser);
            self.optimizer.zero_grad();
        }
        let _ = self.finite.logical_and_(&output.loss.detach().isfinite());
        {
            let _backward = within(Phase::Backward);
            let loss = if parts == 1 { output.loss.shallow_clone() } else { &output.loss / parts as f64 };
            if let Some(reducer) = self.reducer.as_ref().filter(|_| last_of_step) {
                reducer.backward(&loss)?;
            }
            loss.f_backward().map_err(|error| self.failed_backward(error))?;
        }
        if let Some(preview) = output.preview.as_ref().filter(|_| self.run.world.is_main()) {
            let path = self.run.out.join("first_batch.png");
            let titles = picture::write(&path, preview, &self.config.preprocess())?;
            tell!("first batch in `{}`: {}", path.display(), titles.join(" | "));
        }
        let lr = self.schedule.lr(time) * self.at.run.lr_scale;
        if last_of_step {
            {
                let _optimiser = within(Phase::Optimiser);
                let decay = self.schedule.weight_decay(time);
                let waiting = self.config.beginning.as_ref();
                let encoder =
                    waiting.map_or(1.0, |b| b.share(step.epoch, self.config.optimizer.warmup_epochs));
                self.optimizer.step_of(lr, decay, encoder)?;
            }
            self.average_statistics()?;
            self.method.after_step(step)?;
            self.at.step += 1;
        }
        Ok(measure.then(|| measured(&output, lr)))
    }

    /// The step of the schedule: as many as lead here on the data as they are now. The same as the steps done, unless the
    /// data changed.
    fn time(&self) -> u64 {
        self.at.epoch * self.schedule.steps_per_epoch() + (self.at.step - self.at.course.began)
    }

    /// What follows the last step of an epoch: measuring, telling, saving.
    fn end_epoch(&mut self, signals: &Interrupt, log: &mut Log, progress: &Progress) -> Result<Epoch> {
        if !self.healthy()? {
            return Ok(Epoch::Lost(Loss::Collapse, self.verdict_of_infinity()));
        }
        let epoch = self.at.epoch as usize;
        let last = epoch + 1 == self.config.epochs;
        let refreshed = match if last { self.refresh(signals)? } else { Ok(None) } {
            Ok(refreshed) => refreshed,
            Err(signal) => return Ok(Epoch::Stop { signal, whole: true }),
        };
        let Worth { found, kept } = match self.measure_epoch(last, refreshed.as_ref(), signals)? {
            Ok(measured) => measured,
            Err(signal) => return Ok(Epoch::Stop { signal, whole: true }),
        };
        let meter = std::mem::take(&mut self.at.run.meter);
        let mut fields = meter.fields();
        let broken = self.broken()?;
        if broken > 0 {
            fields.insert("broken_files".into(), json!(broken));
        }
        if let Some(share) = kept {
            fields.insert("neighbours_kept".into(), json!(share));
        }
        (self.at.epoch, self.at.course.began) = (self.at.epoch + 1, self.at.step);
        self.at.metrics = Value::Object(fields.clone());
        log.write(&line("epoch", epoch, self.at.step, fields))?;
        progress.epoch(epoch, &meter);
        if let Some(share) = kept {
            progress.say(&format!(
                "epoch {}: {:.1} % of the nearest neighbours are the same as at the start",
                epoch + 1,
                100.0 * share
            ));
        }
        if let Some(refreshed) = &refreshed {
            progress.say(&describe(refreshed));
            log.write(&event("refreshed", epoch as u64, self.at.step, &describe(refreshed)))?;
        }
        if let Some(found) = &found {
            progress.say(&format!("epoch {}: kNN {:.1} % (k {})", epoch + 1, 100.0 * found.top1, found.k));
            log.write(&line("knn", epoch, self.at.step, found.fields()))?;
            log.picture("neighbours.png", self.at.step)?;
            if let Some(why) = self.fallen(found, log, progress)? {
                return Ok(Epoch::Lost(Loss::Accuracy, why));
            }
        }
        if epoch == 0 {
            log.picture("first_batch.png", 0)?;
        }
        log.report();
        let saved = self.save_epoch(epoch, last, refreshed.as_ref())?;
        if let (Some(path), true) = (&saved, found.is_some() && self.run.max_drop.is_some()) {
            self.saves.keep_good(path)?;
        }
        Ok(Epoch::Done)
    }

    /// What `measure` finds of the encoder, or the signal that came before. Nothing can break off a wait for one of its pictures,
    /// so that the epoch is saved first and a signal ends the process at once.
    fn measure<T>(
        &self,
        measure: impl FnOnce(&Encoder, &Preprocess) -> Result<T>,
        refreshed: Option<&Statistics>,
        signals: &Interrupt,
    ) -> Result<std::result::Result<T, usize>> {
        if self.trusted() {
            self.saves.latest(&self.state())?;
        }
        // several ranks measure together, and stop together afterwards
        if self.run.world.is_single() {
            signals.leave_at_once();
            if let Some(signal) = signals.seen() {
                return Ok(Err(signal));
            }
        }
        let encoder = self.method.encoder();
        let of_training = refreshed.map(|r| r.exchange(encoder));
        let found = measure(encoder, &self.config.preprocess());
        of_training.iter().for_each(|r| drop(r.exchange(encoder)));
        let found = found?;
        signals.hold();
        Ok(Ok(found))
    }

    fn save_epoch(
        &self,
        epoch: usize,
        last: bool,
        refreshed: Option<&Statistics>,
    ) -> Result<Option<PathBuf>> {
        if !last && !self.trusted() {
            return Ok(None);
        }
        if last || (epoch + 1).is_multiple_of(self.run.save_every) {
            let path = self.saves.kept(epoch, &State { refreshed, ..self.state() })?;
            if last {
                tell!("saved `{}`", path.display());
            }
            return Ok(Some(path));
        }
        self.saves.latest(&self.state()).map(Some)
    }

    pub(super) fn state(&self) -> State<'_> {
        State {
            config: self.config,
            method: self.method.as_ref(),
            optimizer: &self.optimizer,
            at: &self.at,
            refreshed: None,
        }
    }
}

/// What layers have for a learning rate: all the same, unless the run goes on from another encoder.
fn rates<'a>(config: &'a Config, method: &dyn Method) -> impl Fn(&str) -> Rate + use<'a> {
    let arch = method.encoder().arch();
    let beginning = config.beginning.as_ref();
    move |name| {
        let inner = ENCODERS.iter().find_map(|prefix| name.strip_prefix(prefix));
        match (beginning, inner) {
            (Some(beginning), Some(inner)) => Rate { scale: beginning.scale(arch, inner), encoder: true },
            _ => Rate::default(),
        }
    }
}

fn line(kind: &str, epoch: usize, step: u64, fields: Map<String, Value>) -> Value {
    let mut out = json!({ "kind": kind, "epoch": epoch, "step": step });
    if let Some(map) = out.as_object_mut() {
        map.extend(fields);
    }
    out
}

fn event(name: &str, epoch: u64, step: u64, message: &str) -> Value {
    json!({ "kind": "event", "event": name, "epoch": epoch, "step": step, "message": message })
}
