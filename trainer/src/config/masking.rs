//! Masking: what a recipe says about it.

use std::path::PathBuf;
use std::str::FromStr;

use occlude_encoder::Arch;
use occlude_saliency::{Making, MapRule};
use serde::{Deserialize, Serialize};

use super::{FillScale, Invalid, check, positive, unit};

/// Masking in three steps: the scores of cells, a choice of cells, and what replaces them. The published way is
/// saliency-guided (arXiv 2309.12757); what it has not has defaults that are the published way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masking {
    /// Which network localises.
    pub saliency: Saliency,
    /// Stage (3 to 5) of a ResNet whose feature map is the saliency map, and the grid of cells where none is given.
    pub stage: usize,
    /// Block of a vision transformer whose patches or attention are in its place, from 0; absent: the last. Cells are its patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<usize>,
    /// What makes a map of its features.
    #[serde(default = "published_rule")]
    pub rule: MapRule,
    /// What replaces a masked cell.
    pub strategy: Strategy,
    /// What the sizes of blur and filter go by.
    #[serde(default)]
    pub fills: FillScale,
    /// Whose saliency guides the choice of cells, if any.
    pub guidance: Guidance,
    /// How cells are chosen.
    #[serde(default)]
    pub choice: Choice,
    /// Probability that [`Choice::Background`] masks a cell of the foreground, and one of the background.
    #[serde(default = "background_biased")]
    pub cell_probability: [f64; 2],
    /// Share of the views that are masked.
    #[serde(default = "all")]
    pub share: f64,
    /// Cells along a side; absent: as many as the saliency map has.
    #[serde(default)]
    pub grid: Option<usize>,
    /// Shares of the epochs at which masks begin, are as large as they get, and end; absent: they are always so.
    #[serde(default)]
    pub course: Option<[f64; 3]>,
    /// Share of the epochs in which a prior of colours and the centre has a part in the scores, falling from 1 to 0.
    #[serde(default)]
    pub prior_until: f64,
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

/// Of Ryali et al. (arXiv 2103.12719), as masks have it.
pub const BACKGROUND_BIASED: [f64; 2] = [0.05, 0.5];
/// Share of the views that background-biased masks are for.
pub const BACKGROUND_SHARE: f64 = 0.5;

pub(super) fn background_biased() -> [f64; 2] {
    BACKGROUND_BIASED
}

fn all() -> f64 {
    1.0
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
    /// The same place of another picture of the batch
    OtherPicture,
}

/// Whose saliency guides the choice of cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Guidance {
    /// The picture's own
    Saliency,
    /// None: as many cells, anywhere
    Random,
    /// That of another picture of the batch: the control that shows whether it matters where the object is
    Other,
}

/// How cells are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Spread over foreground and background in proportion to their sizes, as published
    #[default]
    Spread,
    /// Each cell by itself, mostly in the background (`--cell-probability`)
    Background,
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
    /// Whether query views are masked at some time.
    pub fn queries(&self) -> bool {
        matches!(self.branch, Branch::Query | Branch::Both)
    }

    /// Whether anything depends on a saliency map: where cells are chosen, or how many.
    pub fn localises(&self) -> bool {
        self.guidance != Guidance::Random || self.choice == Choice::Background
    }

    /// Cells along a side, of maps with `map` of them.
    pub fn cells(&self, map: usize) -> usize {
        self.grid.unwrap_or(map)
    }

    /// How far masks are in their course when `done` of the epochs are: 0 for none, 1 for all of their size.
    pub fn factor(&self, done: f64) -> f64 {
        let Some([start, full, end]) = self.course else { return 1.0 };
        if done < start || done >= end {
            return 0.0;
        }
        if done >= full { 1.0 } else { (done - start) / (full - start) }
    }

    /// The part that the prior has in the scores when `done` of the epochs are.
    pub fn prior(&self, done: f64) -> f64 {
        if done < self.prior_until { 1.0 - done / self.prior_until } else { 0.0 }
    }

    /// Which value of a network of that architecture is made a map of, and how.
    ///
    /// # Errors
    /// [`Invalid`] where it has no such value.
    pub fn making(&self, arch: Arch) -> Result<Making, Invalid> {
        let Some(vit) = arch.vit() else {
            let block = self.block.unwrap_or_default();
            check(self.block.is_none(), || {
                format!(
                    "`--saliency-block {block}`: {arch} has no blocks of tokens; hint: `--saliency-stage`"
                )
            })?;
            check(self.rule != MapRule::Attention, || {
                format!(
                    "`--saliency-rule attention`: {arch} has none, only vision transformers do; hint: `--saliency-rule object`"
                )
            })?;
            return Ok(Making { stage: self.stage, ..Making::of(self.rule) });
        };
        let block = self.block.unwrap_or(vit.depth.saturating_sub(1));
        check(block < vit.depth, || {
            format!("`--saliency-block {block}`: {arch} has blocks 0 to {}", vit.depth - 1)
        })?;
        Ok(Making::of_block(self.rule, block))
    }

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
        self.validate_choice()?;
        if self.saliency == Saliency::Momentum {
            self.making(arch)?;
        }
        self.validate_grid(arch, image_size)
    }

    fn validate_grid(&self, arch: Arch, image_size: usize) -> Result<(), Invalid> {
        let side = arch.feature_side(self.stage, image_size);
        let grid = self.cells(side);
        if arch.vit().is_some() {
            // patches are small: cells may as well be larger
            check(side >= 2, || {
                format!(
                    "{arch} has {side}x{side} patches at {image_size} px, which leaves nothing to choose; hint: a larger `--image-size`"
                )
            })?;
            return check((2..=image_size).contains(&grid), || {
                format!("`--mask-grid {grid}`: expected 2 to {image_size} cells along a side")
            });
        }
        check(side >= 2, || {
            format!(
                "stage {} of {arch} at {image_size} px is a map of {side}x{side} cells, which leaves nothing to choose; hint: `--saliency-stage {}` or a larger `--image-size`",
                self.stage,
                self.stage - 1
            )
        })?;
        check((side..=image_size).contains(&grid), || {
            format!(
                "`--mask-grid {grid}`: expected {side} (the map of stage {} at {image_size} px) to {image_size} cells along a side",
                self.stage
            )
        })
    }

    fn validate_choice(&self) -> Result<(), Invalid> {
        let [inside, outside] = self.cell_probability;
        check([inside, outside].iter().all(|p| (0.0..=1.0).contains(p)) && inside + outside > 0.0, || {
            format!("`--cell-probability {inside} {outside}`: expected two numbers from 0 to 1, not both 0")
        })?;
        check(0.0 < self.share && self.share <= 1.0, || {
            format!("`--mask-share {}`: expected more than 0 and at most 1", self.share)
        })?;
        if let Some([start, full, end]) = self.course {
            let rising = [0.0, start, full, end, 1.0].is_sorted();
            check(rising && start < end, || {
                format!(
                    "`--mask-course {start} {full} {end}`: expected three shares of the epochs from 0 to 1, none below the one before, the last above the first"
                )
            })?;
        }
        unit("--prior-until", self.prior_until)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Recipe};
    use super::*;

    fn masking(change: impl FnOnce(&mut Masking)) -> Masking {
        let mut masking = Config::new(Recipe::SaliencyMoco).masking.expect("masked");
        change(&mut masking);
        masking
    }

    #[test]
    fn a_course_is_nothing_a_ramp_everything_and_nothing() {
        let m = masking(|m| m.course = Some([0.2, 0.6, 0.9]));
        for (done, factor) in [
            (0.0, 0.0),
            (0.19, 0.0),
            (0.2, 0.0),
            (0.3, 0.25),
            (0.4, 0.5),
            (0.6, 1.0),
            (0.89, 1.0),
            (0.9, 0.0),
            (1.0, 0.0),
        ] {
            assert!((m.factor(done) - factor).abs() < 1e-9, "{done}: {}", m.factor(done));
        }
        let step = masking(|m| m.course = Some([0.5, 0.5, 1.0]));
        assert_eq!((step.factor(0.49), step.factor(0.5), step.factor(0.99)), (0.0, 1.0, 1.0));
        let always = masking(|_| ());
        assert_eq!((always.factor(0.0), always.factor(0.99)), (1.0, 1.0));
    }

    #[test]
    fn a_prior_fades_to_nothing() {
        let m = masking(|m| m.prior_until = 0.5);
        assert_eq!([0.0, 0.25, 0.5, 0.9].map(|t| m.prior(t)), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(masking(|_| ()).prior(0.0), 0.0);
    }

    /// Configurations of earlier versions have none of the fields that came later.
    #[test]
    fn what_an_old_configuration_does_not_say_is_the_published_way() {
        let recent = masking(|_| ());
        let mut json = serde_json::to_value(&recent).expect("JSON");
        let fields = json.as_object_mut().expect("an object");
        for later in ["choice", "cell_probability", "share", "grid", "course", "prior_until"] {
            assert!(fields.remove(later).is_some(), "{later}");
        }
        assert_eq!(serde_json::from_value::<Masking>(json).expect("readable"), recent);
    }
}
