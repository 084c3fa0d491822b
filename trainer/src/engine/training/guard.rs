//! Keeps a run from ending with a worse encoder than it had.

use anyhow::Result;
use occlude_preprocess::Preprocess;

use super::{Engine, event, line};
use crate::engine::metrics::{Log, Progress};
use crate::engine::online::{Found, Online};
use crate::engine::watchdog::OnCollapse;
use crate::model::{Encoder, Statistics};
use crate::signals::Interrupt;

/// What was measured after an epoch.
#[derive(Default)]
pub(super) struct Worth {
    /// Accuracy by nearest neighbours.
    pub(super) found: Option<Found>,
    /// Share of the neighbours that are those of the start.
    pub(super) kept: Option<f64>,
}

impl Engine<'_> {
    /// Measures what the encoder is worth before the first step, where that was learnt by another run or is to be held; the
    /// signal that came before it was done.
    ///
    /// # Errors
    /// Where the measurement fails or cannot be written.
    pub(super) fn measure_start(
        &mut self,
        signals: &Interrupt,
        log: &mut Log,
        progress: &Progress,
    ) -> Result<std::result::Result<(), usize>> {
        // a run that is held only since it was resumed has nothing to go back to
        let held = self.run.max_drop.is_some();
        let unknown = self.at.run.best.is_none() || (held && !self.saves.good().exists());
        // the file may not be everywhere yet: it is rank 0 that looks
        let world = &self.run.world;
        let unknown = world.any(unknown && world.is_main(), "whether the start is known")?;
        let wanted = unknown && (held || self.config.beginning.is_some());
        let Some(online) = self.online.as_ref().filter(|_| wanted) else { return Ok(Ok(())) };
        let measure = |encoder: &Encoder, contract: &Preprocess| online.measure(encoder, contract, self.run);
        let found = match self.measure(measure, None, signals)? {
            Ok(found) => found,
            Err(signal) => return Ok(Err(signal)),
        };
        let epoch = self.at.epoch as usize;
        progress.say(&format!("at the start: kNN {:.1} % (k {})", 100.0 * found.top1, found.k));
        log.write(&line("knn", epoch, self.at.step, found.fields()))?;
        self.at.run.best = Some(found.top1);
        let path = self.saves.latest(&self.state())?;
        if held {
            self.saves.keep_good(&path)?;
        }
        Ok(Ok(()))
    }

    /// What is to be measured after an epoch, where anything is: accuracy by nearest neighbours, or how many of them are those of
    /// the start; the signal that came before it was done.
    ///
    /// # Errors
    /// Where a measurement fails.
    pub(super) fn measure_epoch(
        &self,
        last: bool,
        refreshed: Option<&Statistics>,
        signals: &Interrupt,
    ) -> Result<std::result::Result<Worth, usize>> {
        let due = |online: &&Online| last || online.due(self.at.epoch as usize);
        // one of them at most: where there are classes, nobody asks how many neighbours stayed
        if let Some(online) = self.online.as_ref().filter(due) {
            let measure =
                |encoder: &Encoder, contract: &Preprocess| online.measure(encoder, contract, self.run);
            return Ok(self
                .measure(measure, refreshed, signals)?
                .map(|found| Worth { found: Some(found), kept: None }));
        }
        let Some(kept) = &self.kept else { return Ok(Ok(Worth::default())) };
        let measure =
            |encoder: &Encoder, contract: &Preprocess| kept.measure(encoder, contract, self.run.workers);
        Ok(self.measure(measure, refreshed, signals)?.map(|kept| Worth { found: None, kept: Some(kept) }))
    }

    /// Why the run has to go back, where what was just measured lies too far under the best.
    ///
    /// # Errors
    /// Where a warning cannot be written.
    pub(super) fn fallen(
        &mut self,
        found: &Found,
        log: &mut Log,
        progress: &Progress,
    ) -> Result<Option<String>> {
        let best = self.at.run.best.unwrap_or(found.top1);
        self.at.run.best = Some(best.max(found.top1));
        let Some(limit) = self.run.max_drop.filter(|limit| best - found.top1 > *limit) else {
            return Ok(None);
        };
        let why = format!(
            "kNN {:.1} % is more than {:.1} points below the best, {:.1} %",
            100.0 * found.top1,
            100.0 * limit,
            100.0 * best
        );
        if self.run.on_collapse != OnCollapse::Warn {
            return Ok(Some(why));
        }
        progress.say(&format!("warning: step {}: {why}", self.at.step));
        log.write(&event("warning", self.at.epoch, self.at.step, &why))?;
        Ok(None)
    }
}
