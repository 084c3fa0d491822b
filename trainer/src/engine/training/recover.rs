//! How a run begins again, and how it leaves: resumed, rolled back, stopped.

use std::path::Path;

use anyhow::{Result, bail};
use occlude_checkpoint::Checkpoint;
use occlude_dataset::Identity;
use tch::Tensor;

use super::{Engine, Epoch, event};
use crate::engine::End;
use crate::engine::course::Now;
use crate::engine::metrics::{Log, Progress};
use crate::engine::position::Course;
use crate::engine::snapshot;
use crate::engine::watchdog::{OnCollapse, Symptom};
use crate::signals::Interrupt;

/// Rollbacks after which a run gives up.
pub(in crate::engine) const ROLLBACKS: u32 = 3;
/// Factor on the learning rate at each rollback.
const ROLLBACK_LR: f64 = 0.5;

/// Why a run goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Training has collapsed, or diverged.
    Collapse,
    /// The encoder is worth less than it was.
    Accuracy,
}

impl Loss {
    /// The event's name, what happened in words, and what to do about it.
    fn told(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Collapse => (
                "collapse",
                "collapsed",
                "hint: a smaller `--lr`, a longer `--warmup-epochs`, other negatives (docs/recipes.md)",
            ),
            Self::Accuracy => (
                "fall",
                "fell",
                "hint: a smaller `--lr` or `--layer-decay`, a longer `--head-warmup`, a larger `--max-drop` (docs/runs.md)",
            ),
        }
    }
}

impl Engine<'_> {
    /// Begins a run on these pictures.
    pub(in crate::engine) fn begin(&mut self, data: Identity) {
        let steps_per_epoch = self.schedule.steps_per_epoch();
        self.at.course = Course { data, steps_per_epoch, began: 0 };
    }

    /// Takes the state of a checkpoint; tells what is not as it was when that was written, and returns whether anything is.
    ///
    /// # Errors
    /// Where the checkpoint does not fit, or something differs that is not allowed to.
    pub(in crate::engine) fn resume(&mut self, path: &Path, data: &Identity) -> Result<bool> {
        let checkpoint = Checkpoint::open(path)?;
        let now = Now {
            config: self.config,
            data: &self.run.data,
            identity: data,
            steps_per_epoch: self.schedule.steps_per_epoch(),
            allow: self.run.allow,
        };
        let resumed = now.resume(path, snapshot::describe(path, &checkpoint)?)?;
        snapshot::load(path, &checkpoint, self.method.as_mut(), &self.optimizer)?;
        (self.at, self.changes) = (resumed.at, resumed.changes);
        tell!("resuming `{}` at step {} of {}", path.display(), self.at.step, self.total());
        self.changes.iter().for_each(|change| tell!("{change}"));
        Ok(!self.changes.is_empty())
    }

    /// Steps over the whole run: those done, the rest of this epoch, and whole ones to the end.
    pub(super) fn total(&self) -> u64 {
        let epochs = (self.config.epochs as u64).saturating_sub(self.at.epoch);
        self.at.course.began + self.schedule.steps_per_epoch() * epochs
    }

    /// Leaves because of a signal: saves where that can be done, and says what is left behind.
    ///
    /// # Errors
    /// Where the checkpoint cannot be written.
    pub(super) fn leave(&mut self, signal: usize, whole: bool, log: &mut Log) -> Result<End> {
        let step = self.at.step;
        if !whole {
            tell!(
                "stopped within step {}, whose pictures did not arrive, without saving; `--resume` continues from the last checkpoint",
                step + 1
            );
        } else if self.healthy()? {
            let path = self.saves.latest(&self.state())?;
            tell!("stopped after step {step}, saved `{}`; `--resume` continues the run", path.display());
        } else {
            let why = self.verdict_of_infinity();
            tell!("stopped without saving: {why}; `--resume` continues from the last good checkpoint");
        }
        log.write(&event("interrupted", self.at.epoch, step, "stopped by a signal"))?;
        log.report();
        Ok(End::Interrupted(signal))
    }

    /// What it means that batches ended before the epoch did, `parts` of a step having been worked on.
    ///
    /// # Errors
    /// Where no signal was the reason.
    pub(super) fn ended_early(&self, parts: usize, signals: &Interrupt) -> Result<Epoch> {
        let done = self.at.step - self.at.course.began;
        match signals.seen() {
            Some(signal) => Ok(Epoch::Stop { signal, whole: parts == 0 }),
            None => bail!(
                "epoch {} ended after {done} of {} steps, because the threads that read pictures did; hint: their messages are above; `--resume` continues from the last checkpoint",
                self.at.epoch,
                self.schedule.steps_per_epoch()
            ),
        }
    }

    /// Goes back to the last good checkpoint with a lower learning rate; `false` where the run is to stop.
    pub(super) fn roll_back(
        &mut self,
        loss: Loss,
        why: &str,
        log: &mut Log,
        progress: &mut Progress,
    ) -> Result<bool> {
        let (epoch, step) = (self.at.epoch, self.at.step);
        let (name, happened, hint) = loss.told();
        log.write(&event(name, epoch, step, why))?;
        let good = match loss {
            Loss::Collapse => snapshot::locate(&self.run.out)?,
            Loss::Accuracy => self.saves.good(),
        };
        let spent = self.at.run.rollbacks >= ROLLBACKS;
        if self.run.on_collapse != OnCollapse::Rollback || spent {
            let tried = if spent { format!(" {ROLLBACKS} rollbacks did not help.") } else { String::new() };
            progress.say(&format!(
                "{happened} at step {step}: {why}.{tried} The last good checkpoint is `{}`; {hint}",
                good.display()
            ));
            log.write(&event("stopped", epoch, step, &format!("training {happened}")))?;
            if loss == Loss::Accuracy {
                // what was saved since has fallen, too
                self.go_back(&good)?;
                self.saves.latest(&self.state())?;
            }
            return Ok(false);
        }
        let (scale, rollbacks) = (self.at.run.lr_scale * ROLLBACK_LR, self.at.run.rollbacks + 1);
        self.go_back(&good)?;
        (self.at.run.lr_scale, self.at.run.rollbacks) = (scale, rollbacks);
        self.at.run.symptom = Symptom::default();
        self.finite = Tensor::from(true).to(self.run.device);
        // a run that dies before its next checkpoint must not try the same again
        self.saves.latest(&self.state())?;
        let message = format!(
            "{happened} at step {step}: {why}. Back to step {} (`{}`) with {scale} times the learning rate",
            self.at.step,
            good.display()
        );
        progress.say(&message);
        progress.at(self.at.step);
        log.write(&event("rollback", self.at.epoch, self.at.step, &message))?;
        Ok(true)
    }

    /// Takes the state of an earlier checkpoint of this run.
    fn go_back(&mut self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::open(path)?;
        self.at = snapshot::describe(path, &checkpoint)?.at;
        snapshot::load(path, &checkpoint, self.method.as_mut(), &self.optimizer)?;
        // nobody may replace the file before all have read it
        Ok(self.run.world.barrier("going back")?)
    }
}
