//! What steps measured, read from the device, and whether the run is healthy.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::super::metrics::{Log, Meter, Progress};
use super::super::watchdog::{OnCollapse, Reading, Verdict};
use super::{Engine, event};
use crate::method::{Health, StepOutput};

/// The metrics of a step, on the device until somebody wants to see them.
pub(in super::super) struct Measured {
    names: Vec<&'static str>,
    /// One a name.
    values: Tensor,
    /// Where among them those are that the watchdog looks at.
    health: Option<Health<usize>>,
    lr: f64,
}

pub(super) fn measured(output: &StepOutput, lr: f64) -> Measured {
    let health = output.health.iter().flat_map(Health::named).map(|(name, t)| (name, t.detach()));
    let (names, values): (Vec<_>, Vec<Tensor>) = std::iter::once(("loss", output.loss.detach()))
        .chain(output.metrics.iter().map(|(name, t)| (*name, t.detach())))
        .chain(health)
        .unzip();
    let mut place = 1 + output.metrics.len();
    let health = output.health.as_ref().map(|h| {
        h.map(|_| {
            place += 1;
            place - 1
        })
    });
    Measured { names, values: Tensor::stack(&values, 0), health, lr }
}

impl Engine<'_> {
    /// Reads what was measured from the device, which waits for it, into the meters; the health of the last step.
    pub(super) fn settle(&mut self, stretch: &mut Meter) -> Result<Option<Health<f64>>> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        let all: Vec<&Tensor> = pending.iter().map(|m| &m.values).collect();
        // of all ranks, so that all of them read the same and come to the same conclusions
        let read = self.run.world.mean(&Tensor::cat(&all, 0), "metrics")?.to_device(Device::Cpu);
        let (mut at, mut last) = (0, None);
        for Measured { names, lr, health, .. } in &pending {
            let values =
                names.iter().zip(at..).map(|(name, i)| ((*name).to_owned(), read.double_value(&[i])));
            let named: Vec<(String, f64)> = values.chain([("lr".to_owned(), *lr)]).collect();
            last = health.as_ref().map(|h| h.map(|&i| named[i].1));
            at += names.len() as i64;
            stretch.add(&named);
            self.at.run.meter.add(&named);
        }
        Ok(last)
    }

    /// Shows the health of the last batch to the watchdog; the reason where the run has collapsed.
    pub(super) fn watch(
        &mut self,
        health: Option<Health<f64>>,
        log: &mut Log,
        progress: &Progress,
    ) -> Result<Option<String>> {
        let reading = Reading { finite: self.finite_so_far()?, health };
        let warned = !self.at.run.symptom.none();
        match self.watchdog.look(&mut self.at.run.symptom, self.at.step, reading) {
            Verdict::Fine => Ok(None),
            Verdict::Collapsed(why) if self.run.on_collapse != OnCollapse::Warn || !reading.finite => {
                Ok(Some(why))
            }
            Verdict::Warn(why) | Verdict::Collapsed(why) => {
                if !warned {
                    progress.say(&format!("warning: step {}: {why}", self.at.step));
                    log.write(&event("warning", self.at.epoch, self.at.step, &why))?;
                }
                Ok(None)
            }
        }
    }

    /// On all ranks.
    pub(super) fn finite_so_far(&self) -> Result<bool> {
        let here = self.finite.int64_value(&[]) != 0;
        Ok(!self.run.world.any(!here, "whether losses are finite")?)
    }

    /// Whether every loss was finite, and every number that a checkpoint would hold is.
    pub(super) fn healthy(&self) -> Result<bool> {
        let sums: Vec<Tensor> = self
            .method
            .state()
            .iter()
            .chain(&self.optimizer.state())
            .filter(|n| n.tensor.kind() == Kind::Float)
            .map(|n| n.tensor.detach().sum(Kind::Double))
            .collect();
        let here = self.finite.int64_value(&[]) != 0
            && Tensor::stack(&sums, 0).isfinite().all().int64_value(&[]) != 0;
        Ok(!self.run.world.any(!here, "whether weights are finite")?)
    }

    pub(super) fn verdict_of_infinity(&self) -> String {
        format!("the loss or a weight is not a finite number at step {}", self.at.step)
    }
}
