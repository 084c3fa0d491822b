//! The flags of masking.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder};
use occlude_encoder::{Arch, Vit};
use occlude_saliency::MapRule;

use super::{pair, set};
use crate::config::{BACKGROUND_SHARE, Branch, Choice, Config, FillScale, Guidance, Saliency, Strategy};

/// Flags that override the masking of a recipe.
#[derive(Args, Debug, Default)]
pub(super) struct MaskArgs {
    /// What localises: `momentum` (the momentum encoder) or a checkpoint file
    #[arg(long)]
    saliency: Option<Saliency>,
    /// Stage (3 to 5) of a ResNet whose feature map is the saliency map; its cells are the grid, unless `--mask-grid`
    /// sets another
    #[arg(long)]
    saliency_stage: Option<usize>,
    /// Block of a vision transformer whose patches or attention are the saliency map, from 0; its patches are the
    /// grid, unless `--mask-grid` sets another; default: the last
    #[arg(long, value_name = "N", conflicts_with = "saliency_stage")]
    saliency_block: Option<usize>,
    /// How its features become a map: `sum` (of all channels, as published), `border` (what differs from the border),
    /// `object` (what resembles the middle and not the border, in features and colours) or `attention` (what a vision
    /// transformer's class token looks at, which is its default)
    #[arg(long, value_name = "RULE")]
    saliency_rule: Option<MapRule>,
    /// Share of the epochs in which colours and the centre contribute to the scores of cells, falling from all to
    /// nothing; 0: never
    #[arg(long, value_name = "SHARE")]
    prior_until: Option<f64>,
    /// Cells of masks along a side, for a ResNet at least as many as the map has, which is interpolated, or averaged
    /// if it has more; default: as many as the map has
    #[arg(long, value_name = "N")]
    mask_grid: Option<usize>,
    /// Whose saliency guides the choice of cells
    #[arg(long, value_enum)]
    guidance: Option<Guidance>,
    /// How cells are chosen
    #[arg(long, value_enum)]
    choice: Option<Choice>,
    /// Probability that `--choice background` masks a cell of the foreground, and one of the background (0.05 0.5)
    #[arg(long, num_args = 2, value_names = ["FG", "BG"])]
    cell_probability: Option<Vec<f64>>,
    /// What replaces masked cells
    #[arg(long, value_enum)]
    strategy: Option<Strategy>,
    /// What the kernels of blur and high-pass filter are scaled to: `published` keeps them as for 224 px, whatever
    /// the view's size
    #[arg(long, value_enum)]
    fills: Option<FillScale>,
    /// Which view is masked
    #[arg(long, value_enum)]
    branch: Option<Branch>,
    /// Range of the masked share of a view's cells (no effect with `--choice background`)
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    mask_ratio: Option<Vec<f64>>,
    /// Share of the views that are masked, drawn for each; default: 0.5 with `--choice background`, else 1
    #[arg(long, value_name = "SHARE")]
    mask_share: Option<f64>,
    /// Shares of the epochs at which masks begin, reach their full size after a linear rise, and end (0.2 0.6 0.9);
    /// default: always at full size. What rises is the masked share of cells (and that of the views that `hp` masks
    /// around a square), with `--choice background` that of views
    #[arg(long, num_args = 3, value_names = ["START", "FULL", "END"])]
    mask_course: Option<Vec<f64>>,
    /// Range of the share of the foreground's cells that hard negatives lose; `1 1` leaves none of it
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    negative_ratio: Option<Vec<f64>>,
    /// Hard negatives per pair
    #[arg(long)]
    num_nonsem: Option<usize>,
    /// Factor on the similarity of hard negatives
    #[arg(long)]
    alpha: Option<f64>,
}

impl MaskArgs {
    /// Whether there are masks that flags are given for.
    ///
    /// # Errors
    /// Where there are none.
    pub(super) fn check(&self, c: &Config) -> Result<()> {
        ensure!(
            !self.given() || c.masking.is_some(),
            "`--recipe {}` does not mask, but a masking flag was given; hint: `--masks true`",
            c.recipe.name()
        );
        Ok(())
    }

    /// Whether there is any of them.
    fn given(&self) -> bool {
        self.saliency.is_some()
            || self.saliency_stage.is_some()
            || self.saliency_block.is_some()
            || self.saliency_rule.is_some()
            || self.prior_until.is_some()
            || self.mask_grid.is_some()
            || self.guidance.is_some()
            || self.choice.is_some()
            || self.cell_probability.is_some()
            || self.strategy.is_some()
            || self.fills.is_some()
            || self.branch.is_some()
            || self.mask_ratio.is_some()
            || self.mask_share.is_some()
            || self.mask_course.is_some()
            || self.negative_ratio.is_some()
            || self.num_nonsem.is_some()
            || self.alpha.is_some()
    }

    /// Overrides what is given, once the run's architecture is known.
    ///
    /// # Errors
    /// Where a stage of a vision transformer is asked for, the run's own or that of the file that localises, and where the
    /// architecture is unknown.
    pub(super) fn apply(self, c: &mut Config) -> Result<()> {
        let arch = c.architecture()?;
        let Some(m) = &mut c.masking else { return Ok(()) };
        set(&mut m.saliency, self.saliency);
        if let (Saliency::Checkpoint(path), Some(_)) = (&m.saliency, self.saliency_stage) {
            let frozen = transformer(path).map(Arch::Vit);
            ensure!(
                frozen.is_none(),
                "`--saliency-stage` with `--saliency {}`: {} has no stages; hint: `--saliency-block`",
                path.display(),
                frozen.map(|arch| arch.to_string()).unwrap_or_default()
            );
        }
        if arch.vit().is_some() {
            // a checkpoint may be a ResNet's
            ensure!(
                self.saliency_stage.is_none() || m.saliency != Saliency::Momentum,
                "`--saliency-stage`: {arch} has no stages; hint: `--saliency-block`"
            );
            if self.saliency_stage.is_none() {
                m.rule = MapRule::Attention;
            }
        }
        set(&mut m.stage, self.saliency_stage);
        set(&mut m.block, self.saliency_block.map(Some));
        set(&mut m.rule, self.saliency_rule);
        set(&mut m.prior_until, self.prior_until);
        set(&mut m.grid, self.mask_grid.map(Some));
        set(&mut m.guidance, self.guidance);
        if self.choice == Some(Choice::Background) {
            m.share = BACKGROUND_SHARE;
        }
        set(&mut m.choice, self.choice);
        set(&mut m.cell_probability, pair(self.cell_probability));
        set(&mut m.strategy, self.strategy);
        set(&mut m.fills, self.fills);
        set(&mut m.branch, self.branch);
        set(&mut m.ratio, pair(self.mask_ratio));
        set(&mut m.share, self.mask_share);
        set(&mut m.course, self.mask_course.and_then(|v| v.try_into().ok()).map(Some));
        set(&mut m.negative_ratio, pair(self.negative_ratio));
        set(&mut m.num_nonsem, self.num_nonsem);
        set(&mut m.alpha, self.alpha);
        Ok(())
    }
}

/// The vision transformer in a checkpoint; none in another, nor in one that cannot be read, which is said where it is opened.
fn transformer(path: &Path) -> Option<Vit> {
    let checkpoint = Checkpoint::open(path).ok()?;
    load_encoder(&checkpoint, &LoadOptions::default()).ok()?.arch.vit()
}
