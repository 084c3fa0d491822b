//! The flags of the optimiser.

use clap::Args;

use super::set;
use crate::config::{ClipBy, Config, Decay, Per, Rule, Shape};

/// Flags of the optimiser.
#[derive(Args, Debug, Default)]
pub(super) struct OptimiserArgs {
    /// Peak learning rate
    #[arg(long)]
    lr: Option<f64>,
    /// Optimiser
    #[arg(long, value_enum)]
    optimizer: Option<Rule>,
    /// Weight decay
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Weight decay at the end, along half a cosine; default: the same
    #[arg(long)]
    weight_decay_end: Option<f64>,
    /// Second beta of AdamW
    #[arg(long)]
    beta2: Option<f64>,
    /// Learning rate at the end of `--schedule cosine`
    #[arg(long)]
    lr_end: Option<f64>,
    /// What weight decay (and the layers' rates of LARS) apply to
    #[arg(long, value_enum)]
    decay: Option<Decay>,
    /// Maximum norm of the gradients; larger ones are scaled down to it
    #[arg(long)]
    clip: Option<f64>,
    /// Whose norm `--clip` limits
    #[arg(long, value_enum)]
    clip_by: Option<ClipBy>,
    /// Learning-rate schedule after the warm-up
    #[arg(long, value_enum)]
    schedule: Option<Shape>,
    /// Epochs at which `--schedule step` multiplies the learning rate by `--gamma`
    #[arg(long, value_delimiter = ',')]
    milestones: Option<Vec<f64>>,
    /// Factor of `--schedule step`
    #[arg(long)]
    gamma: Option<f64>,
    /// Epochs of linear learning-rate warm-up
    #[arg(long)]
    warmup_epochs: Option<f64>,
    /// Move the learning rate every step or every epoch
    #[arg(long, value_enum)]
    lr_per: Option<Per>,
}

impl OptimiserArgs {
    /// Overrides what is given.
    pub(super) fn apply(self, c: &mut Config) {
        let o = &mut c.optimizer;
        if let Some(rule) = self.optimizer.filter(|&rule| rule != o.rule) {
            // each rule's own habit
            o.decay = if rule == Rule::Sgd { Decay::All } else { Decay::Weights };
            o.rule = rule;
        }
        set(&mut o.lr, self.lr);
        set(&mut o.weight_decay, self.weight_decay);
        set(&mut o.weight_decay_end, self.weight_decay_end.map(Some));
        set(&mut o.beta2, self.beta2);
        set(&mut o.lr_end, self.lr_end);
        set(&mut o.clip_by, self.clip_by);
        set(&mut o.warmup_epochs, self.warmup_epochs);
        set(&mut o.lr_per, self.lr_per);
        set(&mut o.decay, self.decay);
        set(&mut o.clip, self.clip.map(Some));
        set(&mut o.schedule, self.schedule);
        set(&mut o.milestones, self.milestones);
        set(&mut o.gamma, self.gamma);
    }
}
