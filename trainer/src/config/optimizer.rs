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
    /// Momentum of SGD and LARS; the first beta of AdamW.
    pub momentum: f64,
    /// The second beta of AdamW.
    #[serde(default = "quick", skip_serializing_if = "is_quick")]
    pub beta2: f64,
    /// L2 penalty (SGD, LARS) or decoupled decay (AdamW).
    pub weight_decay: f64,
    /// What it becomes by the end of training, along half a cosine; absent: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay_end: Option<f64>,
    /// Epochs of linear warm-up from zero; may be a fraction.
    pub warmup_epochs: f64,
    /// Whether the learning rate changes each step or each epoch.
    pub lr_per: Per,
    /// Its course after the warm-up.
    pub schedule: Shape,
    /// Learning rate at the end of a cosine.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lr_end: f64,
    /// Epochs at which a schedule of steps multiplies the rate by `gamma`.
    pub milestones: Vec<f64>,
    /// That factor.
    pub gamma: f64,
    /// What weight decay (and the layers' rates of LARS) apply to.
    pub decay: Decay,
    /// Largest Euclidean norm of gradients; absent: not clipped.
    pub clip: Option<f64>,
    /// Of all gradients together, or of each tensor's.
    #[serde(default, skip_serializing_if = "ClipBy::is_all")]
    pub clip_by: ClipBy,
}

/// Short runs on small data need the faster one (docs/recipes.md).
const QUICK: f64 = 0.99;

fn quick() -> f64 {
    QUICK
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_quick(beta: &f64) -> bool {
    beta.to_bits() == QUICK.to_bits()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(value: &f64) -> bool {
    value.to_bits() == 0
}

/// Whose norm a limit on gradients is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ClipBy {
    /// All gradients together
    #[default]
    All,
    /// Each tensor's by itself, as DINO's code does
    Tensor,
}

impl ClipBy {
    /// What there was before there was a choice.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// The course of the learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Half a cosine, to zero or to `--lr-end`
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
        check((0.0..1.0).contains(&self.beta2), || {
            format!("`--beta2 {}`: expected a number from 0 to less than 1", self.beta2)
        })?;
        check(self.weight_decay >= 0.0, || "`--weight-decay` must not be negative".into())?;
        check(self.weight_decay_end.is_none_or(|end| end >= 0.0), || {
            "`--weight-decay-end` must not be negative".into()
        })?;
        check(self.lr_end >= 0.0 && self.lr_end <= self.lr, || {
            format!("`--lr-end {}`: expected a number from 0 to `--lr {}`", self.lr_end, self.lr)
        })?;
        check(self.lr_end == 0.0 || self.schedule == Shape::Cosine, || {
            "`--lr-end` belongs to `--schedule cosine`; hint: leave one of them out".into()
        })?;
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
