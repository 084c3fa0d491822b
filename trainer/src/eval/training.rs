//! The loop that trains a classifier: saved every epoch, stopped by signals, resumed to the bit.

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tch::{Kind, Tensor};

use super::classifier::{Classifier, Learner};
use super::folder::{Folder, Position};
use super::protocol::Protocol;
use super::source::Source;
use crate::model::{Named, find};
use crate::signals::Interrupt;

/// The sum of an epoch's losses so far, in a saved state.
const LOSS: &str = "epoch.loss";

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// All epochs done; the mean loss of the last one.
    Finished(f64),
    /// A signal of that number, or the steps that it was told to stop after (0), ended it.
    Interrupted(usize),
}

/// What a training is told besides what it learns from.
pub(super) struct Plan<'a> {
    /// Settings.
    pub protocol: &'a Protocol,
    /// Where to save; nowhere: an interrupted training is lost.
    pub folder: Option<&'a Folder>,
    /// Signals to obey; `None` leaves them alone.
    pub interrupt: Option<&'a Interrupt>,
    /// Steps after which to stop, for tests of resuming.
    pub stop_after: Option<u64>,
    /// Whether to tell of every epoch on stderr.
    pub verbose: bool,
}

impl Plan<'_> {
    fn stop(&self, step: u64) -> Option<usize> {
        let signal = self.interrupt.and_then(Interrupt::seen).unwrap_or(0);
        (signal != 0 || self.stop_after.is_some_and(|n| step >= n)).then_some(signal)
    }

    fn save(&self, learner: &Learner<'_>, loss: &Tensor, at: &Position) -> Result<()> {
        let Some(folder) = self.folder else { return Ok(()) };
        let mut state = learner.state();
        state.push(Named::new(LOSS, loss));
        folder.save(&state, at)
    }

    fn load(&self, learner: &mut Learner<'_>, loss: &mut Tensor) -> Result<Position> {
        let Some((mut state, at)) = self.folder.map(Folder::load).transpose()?.flatten() else {
            return Ok(Position::default());
        };
        loss.copy_(find(&state, LOSS)?);
        state.retain(|n| n.name != LOSS);
        learner.load_state(&state).context("the saved state does not fit; hint: use another `--out`")?;
        Ok(at)
    }
}

/// Trains `learner`, from the beginning or from where the folder says it was. After every epoch `validate` may tell the
/// top-1 accuracy, which is logged and decides nothing.
///
/// # Errors
/// Where no picture can be read, the loss is not a number, or the state cannot be saved.
pub(super) fn train(
    learner: &mut Learner<'_>,
    source: &dyn Source,
    plan: &Plan<'_>,
    validate: impl Fn(&Classifier) -> Option<f64>,
) -> Result<End> {
    let (steps, epochs) = (source.steps() as u64, plan.protocol.epochs as u64);
    let device = learner.classifier().named()[0].tensor.device();
    let mut loss = Tensor::zeros([0i64; 0], (Kind::Float, device));
    let mut at = plan.load(learner, &mut loss)?;
    plan.interrupt.inspect(|i| i.hold());
    if at.step > 0 && plan.verbose {
        tell!("resuming at step {} of {}", at.step, steps * epochs);
    }
    ensure!(steps > 0, "no picture to train on, so there is no step to take");
    while at.step < steps * epochs {
        let (epoch, first) = (at.step / steps, at.step % steps);
        for examples in source.epoch(epoch, first as usize) {
            let factor = plan.protocol.factor(at.step, steps);
            loss += learner.step(&examples?, factor)?;
            at.step += 1;
            let inside = !at.step.is_multiple_of(steps);
            if let (true, Some(signal)) = (inside, plan.stop(at.step)) {
                plan.save(learner, &loss, &at)?;
                return Ok(stopped(plan, signal, &at));
            }
        }
        if at.step < (epoch + 1) * steps {
            let signal = plan.interrupt.and_then(Interrupt::seen);
            let Some(signal) = signal else {
                bail!(
                    "epoch {epoch} ended after {} of {steps} steps, because the threads that read pictures did; hint: their messages are above",
                    at.step % steps
                )
            };
            plan.save(learner, &loss, &at)?;
            return Ok(stopped(plan, signal, &at));
        }
        let mean = loss.double_value(&[]) / steps as f64;
        ensure!(
            mean.is_finite(),
            "the loss is {mean} in epoch {epoch}: training has diverged; hint: try a smaller learning rate, or `--lr auto` of `linear`"
        );
        let top1 = validate(learner.classifier());
        at.history.push(json!({ "epoch": epoch, "loss": mean, "val_top1": top1 }));
        loss = loss.zeros_like();
        if plan.verbose {
            let top1 = top1.map(|t| format!(", top-1 {:.2} %", 100.0 * t)).unwrap_or_default();
            tell!("epoch {}/{epochs}: loss {mean:.4}{top1}", epoch + 1);
        }
        plan.save(learner, &loss, &at)?;
        if let Some(signal) = plan.stop(at.step) {
            return Ok(stopped(plan, signal, &at));
        }
    }
    plan.interrupt.inspect(|i| i.leave_at_once());
    let last = at.history.last().and_then(|e| e.get("loss")).and_then(serde_json::Value::as_f64);
    Ok(End::Finished(last.unwrap_or(f64::NAN)))
}

fn stopped(plan: &Plan<'_>, signal: usize, at: &Position) -> End {
    match plan.folder {
        Some(_) => tell!("stopped and saved after step {}; the same command resumes", at.step),
        None => tell!("stopped after step {}; with `--out` it would have been saved", at.step),
    }
    End::Interrupted(signal)
}
