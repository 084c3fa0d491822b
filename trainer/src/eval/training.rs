//! The loop that trains a classifier: saved every epoch, stopped by signals, resumed to the bit.

use anyhow::{Context, Result, bail, ensure};
use occlude_distributed::World;
use serde_json::json;
use tch::{Kind, Tensor};

use super::classifier::{Classifier, Learner};
use super::folder::{Folder, Position};
use super::protocol::Protocol;
use super::source::Source;
use crate::model::{Named, find};
use crate::ranks;
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
    /// The processes that train together.
    pub world: &'a World,
}

impl Plan<'_> {
    /// What to stop by after `step`, the same on all ranks.
    fn stop(&self, step: u64) -> Result<Option<usize>> {
        let signal = self.interrupt.and_then(Interrupt::seen).unwrap_or(0);
        let here = (signal != 0 || self.stop_after.is_some_and(|n| step >= n)).then_some(signal);
        if self.world.is_single() {
            return Ok(here);
        }
        self.world.at_step(step);
        // one more than the number, as 0 is no signal, but a reason
        let [found] = self.world.max([here.map_or(0, |signal| signal as i64 + 1)], "whether to stop")?;
        Ok(found.checked_sub(1).and_then(|signal| usize::try_from(signal).ok()))
    }

    /// Leaves the sum of the ranks' losses on the one that writes.
    fn collect(&self, loss: &mut Tensor) -> Result<()> {
        let sum = self.world.sum(loss, "the sum of losses")?;
        *loss = if self.world.is_main() { sum } else { sum.zeros_like() };
        Ok(())
    }

    fn save(&self, learner: &Learner<'_>, loss: &mut Tensor, at: &Position) -> Result<()> {
        self.collect(loss)?;
        let outcome = self.folder.map_or(Ok(()), |folder| {
            let mut state = learner.state();
            state.push(Named::new(LOSS, loss));
            folder.save(&state, at)
        });
        ranks::agreed(self.world, outcome, "saving")
    }

    /// Where the folder says that the training was; its state, on all ranks.
    fn load(&self, learner: &mut Learner<'_>, loss: &mut Tensor) -> Result<Position> {
        let mut at = ranks::agreed(self.world, self.read(learner, loss), "the saved state")?;
        if self.world.is_single() {
            return Ok(at);
        }
        let [step] = self.world.max([at.step as i64], "where the training was")?;
        at.step = step as u64;
        let state: Vec<Named> =
            learner.state().into_iter().map(|n| Named::new(n.name, &n.tensor.detach())).collect();
        let tensors: Vec<Tensor> = state.iter().map(|n| n.tensor.shallow_clone()).collect();
        self.world.broadcast(&tensors, "the first weights")?;
        // counters are no tensors of the learner's
        learner.load_state(&state)?;
        Ok(at)
    }

    fn read(&self, learner: &mut Learner<'_>, loss: &mut Tensor) -> Result<Position> {
        let Some((mut state, at)) = self.folder.map(Folder::load).transpose()?.flatten() else {
            return Ok(Position::default());
        };
        loss.copy_(find(&state, LOSS)?);
        state.retain(|n| n.name != LOSS);
        learner.load_state(&state).context("the saved state does not fit; hint: use another `--out`")?;
        Ok(at)
    }
}

/// # Errors
/// Where the mean loss of an epoch is not a number.
fn finite(mean: f64, epoch: u64) -> Result<()> {
    ensure!(
        mean.is_finite(),
        "the loss is {mean} in epoch {epoch}: training has diverged; hint: try a smaller learning rate, or `--lr auto` of `linear`"
    );
    Ok(())
}

/// Trains `learner`, from the beginning or from where the folder says it was. After every epoch `validate` may tell the
/// top-1 accuracy, which is logged and decides nothing.
///
/// # Errors
/// Where no picture can be read, the loss is not a number, the state cannot be saved, or other ranks cannot be reached.
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
            if at.step.is_multiple_of(steps) {
                continue;
            }
            if let Some(signal) = plan.stop(at.step)? {
                plan.save(learner, &mut loss, &at)?;
                return Ok(stopped(plan, signal, &at));
            }
        }
        if at.step < (epoch + 1) * steps {
            // several ranks stop together, between steps
            let signal = plan.interrupt.filter(|_| plan.world.is_single()).and_then(Interrupt::seen);
            let Some(signal) = signal else {
                bail!(
                    "epoch {epoch} ended after {} of {steps} steps, because the threads that read pictures did; hint: their messages are above",
                    at.step % steps
                )
            };
            plan.save(learner, &mut loss, &at)?;
            return Ok(stopped(plan, signal, &at));
        }
        plan.collect(&mut loss)?;
        let mean = loss.double_value(&[]) / steps as f64;
        ranks::agreed(plan.world, finite(mean, epoch), "the loss")?;
        let top1 = validate(learner.classifier());
        at.history.push(json!({ "epoch": epoch, "loss": mean, "val_top1": top1 }));
        loss = loss.zeros_like();
        if plan.verbose {
            let top1 = top1.map(|t| format!(", top-1 {:.2} %", 100.0 * t)).unwrap_or_default();
            tell!("epoch {}/{epochs}: loss {mean:.4}{top1}", epoch + 1);
        }
        plan.save(learner, &mut loss, &at)?;
        if let Some(signal) = plan.stop(at.step)? {
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
