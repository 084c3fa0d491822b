//! The optimiser and its schedule: what a recipe says about them.

use serde::{Deserialize, Serialize};

use super::{Invalid, check, positive, unit};

/// A rule that turns gradients into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Stochastic gradient descent with momentum
    Sgd,
    /// The same with a rate for each layer (arXiv 1708.03888), for batches of thousands
    Lars,
    /// AdamW
    Adamw,
}

/// The optimiser and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Rule.
    pub rule: Rule,
    /// Peak learning rate at this batch size.
    pub lr: f64,
    /// Momentum of SGD and LARS; the first beta of AdamW (the second is 0.99).
    pub momentum: f64,
    /// L2 penalty (SGD, LARS) or decoupled decay (AdamW).
    pub weight_decay: f64,
    /// Epochs of linear warm-up from zero; may be a fraction.
    pub warmup_epochs: f64,
    /// Whether the learning rate changes each step or each epoch.
    pub lr_per: Per,
    /// Its course after the warm-up.
    pub schedule: Shape,
    /// Epochs at which a schedule of steps multiplies the rate by `gamma`.
    pub milestones: Vec<f64>,
    /// That factor.
    pub gamma: f64,
    /// What weight decay (and the layers' rates of LARS) apply to.
    pub decay: Decay,
    /// Largest Euclidean norm of all gradients together; absent: not clipped.
    pub clip: Option<f64>,
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Half a cosine, to zero
    Cosine,
    /// Multiplied by a factor at given epochs
    Step,
    /// Unchanged
    Constant,
}

/// What weight decay applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Everything, as MoCo's code does
    All,
    /// Convolutions and matrices, not biases and normalisations
    Weights,
}

/// How often a schedule moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Every step
    Step,
    /// Every epoch, as the published code does
    Epoch,
}

impl Optimizer {
    /// Whether the rule's steps grow with the gradient, so that a larger batch asks for a larger rate
    /// (arXiv 1706.02677); AdamW's do not.
    pub fn scales_with_batch(&self) -> bool {
        self.rule != Rule::Adamw
    }

    pub(super) fn validate(&self, epochs: usize) -> Result<(), Invalid> {
        positive("--lr", self.lr)?;
        unit("the optimiser's momentum", self.momentum)?;
        check(self.weight_decay >= 0.0, || "`--weight-decay` must not be negative".into())?;
        check(self.warmup_epochs >= 0.0, || "`--warmup-epochs` must not be negative".into())?;
        check(self.warmup_epochs < epochs as f64 || self.warmup_epochs == 0.0, || {
            format!("`--warmup-epochs {}` leaves none of `--epochs {epochs}`", self.warmup_epochs)
        })?;
        self.clip.map_or(Ok(()), |norm| positive("--clip", norm))?;
        let stepped = self.schedule == Shape::Step;
        check(stepped || self.milestones.is_empty(), || {
            "`--milestones` belongs to `--schedule step`; hint: give both".into()
        })?;
        check(!stepped || !self.milestones.is_empty(), || {
            "`--schedule step` needs `--milestones`, like `--milestones 120,160`".into()
        })?;
        check(self.milestones.windows(2).all(|pair| pair[0] < pair[1]), || {
            format!("`--milestones {:?}`: expected rising epochs", self.milestones)
        })?;
        check(self.milestones.iter().all(|&at| at > 0.0 && at < epochs as f64), || {
            format!("`--milestones {:?}`: expected epochs between 0 and {epochs}", self.milestones)
        })?;
        check(self.gamma > 0.0 && self.gamma <= 1.0, || {
            format!("`--gamma {}`: expected more than 0 and at most 1", self.gamma)
        })
    }
}
