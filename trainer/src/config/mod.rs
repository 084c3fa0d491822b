//! The validated configuration of a run, and the named recipes it starts from.
//!
//! A recipe is a [`Config`]; flags override its fields; [`Config::validate`] refuses what cannot
//! work before any file is touched. The resolved value is saved beside every checkpoint.

mod mixing;
mod recipes;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use occlude_encoder::Arch;
use occlude_preprocess::{HighPass, Preprocess};
use serde::{Deserialize, Serialize};

pub use mixing::{Mix, MixMask, MixPer, Mixing, Pattern};

/// A named set of hyper-parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// MoCo v2 (arXiv 2003.04297), published hyper-parameters
    MocoV2,
    /// MoCo v2 with saliency-guided masking and hard negatives (arXiv 2309.12757), published hyper-parameters
    SaliencyMoco,
    /// Saliency-guided masking for small images, small data and small budgets (docs/recipes.md)
    SaliencyMocoSmall,
    /// MoCo v2 with MixMask (arXiv 2210.11456), published hyper-parameters
    Mixmask,
    /// MoCo v2 with Un-Mix (arXiv 2003.05438), published hyper-parameters
    Unmix,
    /// MoCo v2 with both (arXiv 2210.11456), published hyper-parameters
    #[serde(rename = "unmix+mixmask")]
    #[value(name = "unmix+mixmask")]
    UnmixMixmask,
}

impl Recipe {
    /// The name as flags and metadata have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MocoV2 => "moco-v2",
            Self::SaliencyMoco => "saliency-moco",
            Self::SaliencyMocoSmall => "saliency-moco-small",
            Self::Mixmask => "mixmask",
            Self::Unmix => "unmix",
            Self::UnmixMixmask => "unmix+mixmask",
        }
    }
}

/// Everything that decides what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The recipe it started from.
    pub recipe: Recipe,
    /// Architecture, by name.
    pub arch: String,
    /// Side of the training crops in pixels.
    pub image_size: usize,
    /// Passes over the data.
    pub epochs: usize,
    /// Images a step; each gives two views.
    pub batch_size: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Optimiser and schedule.
    pub optimizer: Optimizer,
    /// Momentum contrast.
    pub moco: Moco,
    /// View augmentation.
    pub augment: Augment,
    /// Saliency-guided masking; absent for plain MoCo.
    pub masking: Option<Masking>,
    /// Mixing pictures; absent for plain MoCo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixing: Option<Mixing>,
}

/// A rule that turns gradients into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Stochastic gradient descent with momentum; weight decay on everything, as published
    Sgd,
    /// AdamW; no weight decay on normalisations and biases
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
    /// Momentum of SGD; the first beta of AdamW (the second is 0.99).
    pub momentum: f64,
    /// L2 penalty (SGD) or decoupled decay (AdamW).
    pub weight_decay: f64,
    /// Epochs of linear warm-up from zero; may be a fraction.
    pub warmup_epochs: f64,
    /// Whether the learning rate changes each step or each epoch.
    pub lr_per: Per,
}

/// How often a schedule moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Every step.
    Step,
    /// Every epoch, as the published code does.
    Epoch,
}

/// Momentum contrast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moco {
    /// Length of a projection.
    pub dim: usize,
    /// Width of the hidden layer of the projection head; absent: the encoder's feature length.
    pub hidden: Option<usize>,
    /// Batch normalisation after the hidden layer of the projection head.
    pub head_bn: bool,
    /// Negatives kept from earlier batches; 0: none.
    pub queue: usize,
    /// Whether the queue starts with random directions that count as negatives (the published way)
    /// or empty, where only keys that were really computed count.
    pub queue_start: QueueStart,
    /// Whether the other keys of the batch are negatives too.
    pub in_batch: bool,
    /// Whether each view is query once and key once.
    pub symmetric: bool,
    /// Momentum of the key encoder at the end of its warm-up.
    pub momentum: f64,
    /// Momentum of the key encoder at the first step.
    pub momentum_start: f64,
    /// Epochs over which it goes from start to end along a half cosine.
    pub momentum_warmup_epochs: f64,
    /// Temperature of the softmax.
    pub temperature: f64,
    /// Groups of the batch that are normalised apart, as that many GPUs would (shuffling BN);
    /// 1: no splitting.
    pub bn_splits: usize,
}

/// How the queue starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum QueueStart {
    /// Random unit vectors.
    Random,
    /// Empty.
    Empty,
}

/// Distribution of the views.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Smallest share of the picture's area that a crop takes.
    pub crop_min: f64,
    /// Largest share.
    pub crop_max: f64,
    /// Probability of colour jitter.
    pub jitter_p: f64,
    /// Strength of brightness, contrast, saturation and hue jitter.
    pub jitter: [f64; 4],
    /// Probability of grey.
    pub gray_p: f64,
    /// Probability of Gaussian blur.
    pub blur_p: f64,
    /// Range of its sigma in pixels.
    pub blur_sigma: [f64; 2],
    /// Probability of a horizontal flip.
    pub flip_p: f64,
}

/// Saliency-guided masking (arXiv 2309.12757).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masking {
    /// Which network localises.
    pub saliency: Saliency,
    /// Stage (3 to 5) whose feature map is the saliency map and the grid of cells.
    pub stage: usize,
    /// What replaces a masked cell.
    pub strategy: Strategy,
    /// Whether cells are chosen by saliency or uniformly.
    pub guidance: Guidance,
    /// Which views are masked.
    pub branch: Branch,
    /// Share of the cells that is masked, uniform in this range.
    pub ratio: [f64; 2],
    /// The same for hard negatives.
    pub negative_ratio: [f64; 2],
    /// Hard negatives a pair.
    pub num_nonsem: usize,
    /// Factor on their similarity.
    pub alpha: f64,
}

/// Which network localises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Saliency {
    /// The momentum encoder itself.
    Momentum,
    /// A frozen encoder from a checkpoint file.
    Checkpoint(PathBuf),
}

impl FromStr for Saliency {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(if s == "momentum" { Self::Momentum } else { Self::Checkpoint(s.into()) })
    }
}

/// What replaces a masked cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// High-pass filtered views, masked with noise
    Hp,
    /// A strongly blurred copy of the view
    Blur,
    /// The mean colour of the view
    Mean,
    /// Zero (the mean colour of the data set, after normalisation)
    Zero,
    /// Gaussian noise
    Noise,
}

/// How cells are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Guidance {
    /// Spread over foreground and background by the saliency map
    Saliency,
    /// Uniform
    Random,
}

/// Which views are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Branch {
    /// The query view
    Query,
    /// The key view
    Key,
    /// Both views
    Both,
    /// Neither (hard negatives only)
    None,
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

/// The filter of the `hp` strategy: x - GaussianBlur(x, 11x11, sigma 5).
pub const HIGH_PASS: HighPass = HighPass { kernel: 11, sigma: 5.0 };

impl Config {
    /// The hyper-parameters of `recipe`.
    pub fn new(recipe: Recipe) -> Self {
        match recipe {
            Recipe::MocoV2 => recipes::moco_v2(),
            Recipe::SaliencyMoco => recipes::saliency_moco(),
            Recipe::SaliencyMocoSmall => recipes::saliency_moco_small(),
            Recipe::Mixmask => recipes::mixed(recipe, Mix::Mixmask),
            Recipe::Unmix => recipes::mixed(recipe, Mix::Unmix),
            Recipe::UnmixMixmask => recipes::mixed(recipe, Mix::Both),
        }
    }

    /// The architecture.
    ///
    /// # Errors
    /// [`Invalid`] where the name is unknown.
    pub fn architecture(&self) -> Result<Arch, Invalid> {
        self.arch.parse().map_err(|e: occlude_encoder::UnknownArch| Invalid(e.to_string()))
    }

    /// What the encoder of this run wants its input to be.
    pub fn preprocess(&self) -> Preprocess {
        let filtered = self.masking.as_ref().is_some_and(|m| m.strategy == Strategy::Hp);
        let side = u32::try_from(self.image_size).unwrap_or(u32::MAX);
        Preprocess { high_pass: filtered.then_some(HIGH_PASS), ..Preprocess::imagenet(side) }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Invalid`] with the flag, the value and what it must be.
    pub fn validate(&self) -> Result<(), Invalid> {
        let arch = self.architecture()?;
        let c = self;
        check(c.image_size >= 32 && c.image_size <= 1024, || {
            format!("`--image-size {}`: expected 32 to 1024 pixels", c.image_size)
        })?;
        check(c.epochs >= 1, || "`--epochs 0`: expected at least 1".into())?;
        check(c.batch_size >= 2, || {
            format!("`--batch-size {}`: expected at least 2, or there is nothing to contrast", c.batch_size)
        })?;
        positive("--lr", c.optimizer.lr)?;
        positive("--temperature", c.moco.temperature)?;
        unit("--momentum", c.moco.momentum)?;
        unit("--momentum-start", c.moco.momentum_start)?;
        check(c.optimizer.weight_decay >= 0.0, || "`--weight-decay` must not be negative".into())?;
        check(c.optimizer.warmup_epochs < c.epochs as f64 || c.optimizer.warmup_epochs == 0.0, || {
            format!("`--warmup-epochs {}` leaves none of `--epochs {}`", c.optimizer.warmup_epochs, c.epochs)
        })?;
        self.validate_moco()?;
        self.validate_augment()?;
        check(c.masking.is_none() || c.mixing.is_none(), || {
            "pictures are either masked or mixed; hint: leave out the flags of one of them".into()
        })?;
        self.mixing.as_ref().map_or(Ok(()), Mixing::validate)?;
        self.masking.as_ref().map_or(Ok(()), |m| m.validate(arch, c.image_size))
    }

    fn validate_moco(&self) -> Result<(), Invalid> {
        let (moco, batch) = (&self.moco, self.batch_size);
        check(moco.dim >= 2, || format!("`--dim {}`: expected at least 2", moco.dim))?;
        check(moco.bn_splits >= 1 && batch.is_multiple_of(moco.bn_splits), || {
            format!(
                "`--bn-splits {}` does not divide `--batch-size {batch}`; hint: choose a divisor, or 1 for no splitting",
                moco.bn_splits
            )
        })?;
        check(batch / moco.bn_splits >= 2, || {
            format!("`--bn-splits {}` leaves groups of one image, which have no variance", moco.bn_splits)
        })?;
        let nonsem = self.masking.as_ref().map_or(0, |m| m.num_nonsem);
        check(moco.queue > 0 || moco.in_batch || nonsem > 0, || {
            "`--queue 0` without `--in-batch` leaves no negatives".into()
        })
    }

    fn validate_augment(&self) -> Result<(), Invalid> {
        let a = &self.augment;
        check(0.0 < a.crop_min && a.crop_min <= a.crop_max && a.crop_max <= 1.0, || {
            format!("`--crop-min {}`: expected more than 0 and at most {}", a.crop_min, a.crop_max)
        })?;
        for (name, p) in
            [("jitter_p", a.jitter_p), ("gray_p", a.gray_p), ("blur_p", a.blur_p), ("flip_p", a.flip_p)]
        {
            unit(name, p)?;
        }
        check(a.blur_sigma[0] > 0.0 && a.blur_sigma[0] <= a.blur_sigma[1], || {
            format!("blur sigma {:?}: expected a range above 0", a.blur_sigma)
        })
    }
}

impl Masking {
    fn validate(&self, arch: Arch, image_size: usize) -> Result<(), Invalid> {
        check((3..=5).contains(&self.stage), || {
            format!("`--saliency-stage {}`: expected 3, 4 or 5", self.stage)
        })?;
        for (name, [low, high]) in [("--mask-ratio", self.ratio), ("--negative-ratio", self.negative_ratio)] {
            check(0.0 <= low && low <= high && high <= 1.0, || {
                format!("`{name} {low} {high}`: expected a range within 0 to 1")
            })?;
        }
        positive("--alpha", self.alpha)?;
        check(self.branch != Branch::None || self.num_nonsem > 0, || {
            "`--branch none` with `--num-nonsem 0` masks nothing; hint: that is `--recipe moco-v2`".into()
        })?;
        let side = arch.feature_side(self.stage, image_size);
        check(side >= 2, || {
            format!(
                "stage {} of {arch} at {image_size} px is a map of {side}x{side} cells, which leaves nothing to choose; hint: `--saliency-stage {}` or a larger `--image-size`",
                self.stage,
                self.stage - 1
            )
        })?;
        if self.strategy == Strategy::Blur {
            check(image_size > 15, || {
                format!("`--strategy blur` needs more than 15 pixels, got {image_size}")
            })?;
        }
        Ok(())
    }
}

fn check(holds: bool, message: impl FnOnce() -> String) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid(message())) }
}

fn positive(name: &str, value: f64) -> Result<(), Invalid> {
    check(value > 0.0 && value.is_finite(), || format!("`{name} {value}`: expected a number above 0"))
}

fn unit(name: &str, value: f64) -> Result<(), Invalid> {
    check((0.0..=1.0).contains(&value), || format!("`{name} {value}`: expected a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_are_valid_and_survive_json() {
        for &recipe in <Recipe as clap::ValueEnum>::value_variants() {
            let config = Config::new(recipe);
            config.validate().expect("a recipe is valid");
            let json = serde_json::to_string(&config).expect("serialisable");
            assert_eq!(serde_json::from_str::<Config>(&json).expect("readable"), config);
        }
    }

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::new(Recipe::SaliencyMoco);
        change(&mut config);
        config.validate().expect_err("refused").0
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let cases: Vec<(String, &str)> = vec![
            (refused(|c| c.arch = "vgg".into()), "`vgg`"),
            (refused(|c| c.image_size = 8), "--image-size"),
            (refused(|c| c.epochs = 0), "--epochs"),
            (refused(|c| c.batch_size = 1), "--batch-size"),
            (refused(|c| c.optimizer.lr = 0.0), "--lr"),
            (refused(|c| c.optimizer.lr = f64::NAN), "--lr"),
            (refused(|c| c.optimizer.weight_decay = -1.0), "--weight-decay"),
            (refused(|c| c.optimizer.warmup_epochs = 200.0), "--warmup-epochs"),
            (refused(|c| c.moco.temperature = -0.1), "--temperature"),
            (refused(|c| c.moco.momentum = 1.5), "--momentum"),
            (refused(|c| c.moco.dim = 1), "--dim"),
            (refused(|c| c.moco.bn_splits = 7), "--bn-splits"),
            (refused(|c| c.moco.bn_splits = 128), "--bn-splits"),
            (refused(|c| (c.moco.queue, c.masking) = (0, None)), "--queue 0"),
            (refused(|c| c.augment.crop_min = 0.0), "--crop-min"),
            (refused(|c| c.augment.blur_p = 2.0), "blur_p"),
            (refused(|c| c.augment.blur_sigma = [0.0, 1.0]), "sigma"),
        ];
        for (message, part) in cases {
            assert!(message.contains(part), "{message}");
        }
        let masks = |change: fn(&mut Masking)| refused(|c| c.masking.as_mut().map_or((), change));
        for (message, part) in [
            (masks(|m| m.stage = 2), "--saliency-stage"),
            (masks(|m| m.ratio = [0.5, 0.2]), "--mask-ratio"),
            (masks(|m| m.alpha = 0.0), "--alpha"),
            (masks(|m| (m.branch, m.num_nonsem) = (Branch::None, 0)), "--branch none"),
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mixed = |change: fn(&mut Config)| {
            let mut config = Config::new(Recipe::Mixmask);
            change(&mut config);
            config.validate().expect_err("refused").0
        };
        assert!(mixed(|c| c.mixing.as_mut().expect("mixed").mask.grid = 1).contains("--mix-grid"));
        assert!(mixed(|c| c.mixing.as_mut().expect("mixed").mask.share = 1.0).contains("--mix-share"));
        assert!(mixed(|c| c.masking = recipes::saliency_moco().masking).contains("masked or mixed"));
        let tiny = refused(|c| c.image_size = 32);
        assert!(tiny.contains("--saliency-stage 4"), "{tiny}");
    }

    #[test]
    fn only_the_high_pass_strategy_filters_the_input() {
        let mut config = Config::new(Recipe::SaliencyMoco);
        assert_eq!(config.preprocess().high_pass, Some(HIGH_PASS));
        config.masking.as_mut().expect("masked").strategy = Strategy::Blur;
        assert_eq!(config.preprocess().high_pass, None);
        assert_eq!(Config::new(Recipe::MocoV2).preprocess().high_pass, None);
    }
}
