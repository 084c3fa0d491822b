//! The flags of a method's networks: their heads, and what the learning one is compared with.

use anyhow::{Result, ensure};
use clap::Args;

use super::set;
use crate::config::{Config, QueueStart};

/// Flags of a method's networks.
#[derive(Args, Debug, Default)]
pub(super) struct NetworkArgs {
    /// Length of a projection, and maximum length of a target (distill)
    #[arg(long)]
    dim: Option<usize>,
    /// Width of the projection head's hidden layer
    #[arg(long)]
    hidden: Option<usize>,
    /// Batch normalisation in the projection head
    #[arg(long)]
    head_bn: Option<bool>,
    /// Negatives kept from earlier batches; 0 for none
    #[arg(long)]
    queue: Option<usize>,
    /// What the queue holds at first: random directions that count, or nothing
    #[arg(long, value_enum)]
    queue_start: Option<QueueStart>,
    /// Whether the other keys of the batch are negatives
    #[arg(long)]
    in_batch: Option<bool>,
    /// Whether each view is query once and key once
    #[arg(long)]
    symmetric: Option<bool>,
    /// Momentum of the key encoder
    #[arg(long)]
    momentum: Option<f64>,
    /// Momentum of the key encoder at the first step
    #[arg(long)]
    momentum_start: Option<f64>,
    /// Epochs until `--momentum` is reached
    #[arg(long)]
    momentum_warmup_epochs: Option<f64>,
    /// Temperature of the softmax: of contrast, or of the student (DINO, iBOT)
    #[arg(long)]
    temperature: Option<f64>,
    /// Groups of the batch that are normalised separately, as on that many GPUs
    #[arg(long)]
    bn_splits: Option<usize>,
}

impl NetworkArgs {
    /// Overrides what is given, once the number of epochs is known.
    pub(super) fn apply(self, c: &mut Config) {
        if let Some(m) = c.method.moco_mut() {
            set(&mut m.queue, self.queue);
            set(&mut m.queue_start, self.queue_start);
            set(&mut m.in_batch, self.in_batch);
            set(&mut m.symmetric, self.symmetric);
        }
        if let Some(m) = c.method.momentum_mut() {
            set(m.end, self.momentum);
            set(m.start, self.momentum_start.or(self.momentum));
            set(m.epochs, self.momentum_warmup_epochs);
        }
        let head = c.method.head_mut();
        set(&mut head.dim, self.dim);
        set(&mut head.hidden, self.hidden.map(Some));
        set(&mut head.bn, self.head_bn);
        if let Some(temperature) = c.method.temperature_mut() {
            set(temperature, self.temperature);
        }
        if let Some(splits) = c.method.bn_splits_mut() {
            set(splits, self.bn_splits);
        }
    }

    /// Whether the recipe has the networks that flags are given for.
    ///
    /// # Errors
    /// Where it has not, with one that has.
    pub(super) fn check(&self, c: &mut Config) -> Result<()> {
        let follows =
            self.momentum.is_some() || self.momentum_start.is_some() || self.momentum_warmup_epochs.is_some();
        let keys = self.queue.is_some()
            || self.queue_start.is_some()
            || self.in_batch.is_some()
            || self.symmetric.is_some();
        let name = c.recipe.name();
        ensure!(
            !(follows || keys) || c.method.momentum_mut().is_some(),
            "`--recipe {name}` has no momentum encoder, but one of its flags was given; hint: `--recipe moco-v2`"
        );
        ensure!(
            !keys || c.method.moco_mut().is_some(),
            "`--recipe {name}` has no queue and no other negatives, and is always symmetric, but one of the flags for these was given; hint: `--recipe moco-v2`"
        );
        ensure!(
            self.bn_splits.is_none() || c.method.bn_splits_mut().is_some(),
            "`--recipe {name}` normalises all views of one size together, if its network normalises batches at all, but `--bn-splits` was given; hint: leave it out"
        );
        ensure!(
            self.temperature.is_none() || c.method.temperature_mut().is_some(),
            "`--recipe {name}` has no softmax for `--temperature` to apply to; hint: leave it out"
        );
        Ok(())
    }
}
