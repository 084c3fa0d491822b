//! Saliency-guided masking: what a recipe says about it.

use std::path::PathBuf;
use std::str::FromStr;

use occlude_encoder::Arch;
use occlude_saliency::MapRule;
use serde::{Deserialize, Serialize};

use super::{FillScale, Invalid, check, positive};

/// Saliency-guided masking (arXiv 2309.12757).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masking {
    /// Which network localises.
    pub saliency: Saliency,
    /// Stage (3 to 5) whose feature map is the saliency map and the grid of cells.
    pub stage: usize,
    /// What makes a map of its features.
    #[serde(default = "published_rule")]
    pub rule: MapRule,
    /// What replaces a masked cell.
    pub strategy: Strategy,
    /// What the sizes of blur and filter go by.
    #[serde(default)]
    pub fills: FillScale,
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

/// Of runs that say nothing: the only one there was.
fn published_rule() -> MapRule {
    MapRule::Sum
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

impl Masking {
    pub(super) fn validate(&self, arch: Arch, image_size: usize) -> Result<(), Invalid> {
        check((3..=5).contains(&self.stage), || {
            format!("`--saliency-stage {}`: expected 3, 4 or 5", self.stage)
        })?;
        check(MapRule::ALL.contains(&self.rule), || {
            format!("`--saliency-rule {}`: expected a rule of features, like `object`", self.rule)
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
        Ok(())
    }
}
