//! The flags of self-distillation: DINO, iBOT and AttMask.

use std::str::FromStr;

use anyhow::{Result, ensure};
use clap::Args;

use super::{pair, set};
use crate::config::{BACKGROUND_SHARE, Cells, Config, PatchChoice, PatchPer, PatchScore, Recipe};

/// Flags that override the distillation of a recipe.
#[derive(Args, Debug, Default)]
pub(super) struct DistilArgs {
    /// Prototypes that embeddings are compared with (DINO, iBOT)
    #[arg(long)]
    prototypes: Option<usize>,
    /// Whether prototypes have length one; otherwise their lengths are learnt (DINO, iBOT)
    #[arg(long)]
    norm_last_layer: Option<bool>,
    /// Epochs at the start in which prototypes are frozen (DINO, iBOT)
    #[arg(long, value_name = "EPOCHS")]
    frozen_epochs: Option<f64>,
    /// Temperature of the teacher's softmax in the first epoch, and after its warm-up (DINO, iBOT)
    #[arg(long, num_args = 2, value_names = ["START", "END"])]
    teacher_temperature: Option<Vec<f64>>,
    /// Epochs of that warm-up (DINO, iBOT)
    #[arg(long, value_name = "EPOCHS")]
    teacher_warmup_epochs: Option<usize>,
    /// Momentum of the mean that is subtracted from the teacher's outputs (DINO, iBOT)
    #[arg(long)]
    center_momentum: Option<f64>,
    /// Share of pictures whose last block the student drops; earlier blocks are dropped less (DINO, iBOT)
    #[arg(long, value_name = "SHARE")]
    drop_path: Option<f64>,
    /// Weight of the loss of hidden patches (iBOT)
    #[arg(long)]
    patch_weight: Option<f64>,
    /// Which patches are hidden (iBOT)
    #[arg(long, value_enum)]
    patch_choice: Option<PatchChoice>,
    /// Score that choices other than `block` and `random` use; of two the second is for the second large view (iBOT)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SCORES")]
    patch_score: Option<Vec<PatchScore>>,
    /// Block, from 0, whose attention `raw`, `log` and `pow` use, or whose patches `object` uses; of two the second
    /// is for the second large view; default: the last (iBOT)
    #[arg(long, value_delimiter = ',', value_name = "BLOCKS")]
    patch_layer: Option<Vec<usize>>,
    /// Exponent of `--patch-score pow` (iBOT)
    #[arg(long)]
    patch_power: Option<f64>,
    /// Ranges of the share of patches that is hidden, one of which is drawn: `0-0,0.1-0.5` hides none of every other
    /// view (iBOT; no effect with `--patch-choice background`)
    #[arg(long, value_delimiter = ',', value_name = "RANGES")]
    patch_ratio: Option<Vec<Range>>,
    /// Probability that `--patch-choice background` hides a patch of the foreground, and one of the background; default: 0.05
    /// 0.5 (iBOT)
    #[arg(long, num_args = 2, value_names = ["FG", "BG"])]
    patch_probability: Option<Vec<f64>>,
    /// Share of the large views that have hidden patches at all; default: 0.5 with `--patch-choice background`, else
    /// the recipe's (iBOT)
    #[arg(long, value_name = "SHARE")]
    patch_share: Option<f64>,
    /// Draw these two for every view of every picture, or once for a batch (iBOT)
    #[arg(long, value_enum)]
    patch_per: Option<PatchPer>,
    /// Share of the patches that `--patch-choice hint` counts as the most attended, and shows a few of (iBOT)
    #[arg(long, value_name = "SHARE")]
    patch_hint: Option<f64>,
    /// Weight of the loss of patches: contrastive (ibot-dense), or towards what the teacher's feature map or patch
    /// tokens say at the same places of the picture, 0 for none (distill)
    #[arg(long)]
    dense_weight: Option<f64>,
    /// Temperature of its softmax (ibot-dense)
    #[arg(long)]
    dense_temperature: Option<f64>,
    /// Patches of a large view with the largest scores, which are pulled towards those of the other (ibot-dense)
    #[arg(long, value_name = "N")]
    dense_positives: Option<usize>,
    /// Patches of a large view with the smallest scores, which they are pushed away from (ibot-dense)
    #[arg(long, value_name = "N")]
    dense_negatives: Option<usize>,
}

/// `LOW-HIGH`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range([f64; 2]);

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("`{text}`: expected LOW-HIGH, like `0.1-0.5`");
        let (low, high) = text.split_once('-').ok_or_else(expected)?;
        let number = |text: &str| text.parse::<f64>().map_err(|_| expected());
        Ok(Self([number(low)?, number(high)?]))
    }
}

impl DistilArgs {
    fn distils(&self) -> bool {
        self.prototypes.is_some()
            || self.norm_last_layer.is_some()
            || self.frozen_epochs.is_some()
            || self.teacher_temperature.is_some()
            || self.teacher_warmup_epochs.is_some()
            || self.center_momentum.is_some()
            || self.drop_path.is_some()
    }

    fn hides(&self) -> bool {
        self.patch_weight.is_some()
            || self.patch_choice.is_some()
            || self.patch_score.is_some()
            || self.patch_layer.is_some()
            || self.patch_power.is_some()
            || self.patch_ratio.is_some()
            || self.patch_share.is_some()
            || self.patch_per.is_some()
            || self.patch_hint.is_some()
            || self.patch_probability.is_some()
    }

    fn compares(&self) -> bool {
        self.dense_weight.is_some()
            || self.dense_temperature.is_some()
            || self.dense_positives.is_some()
            || self.dense_negatives.is_some()
    }

    /// Overrides what is given.
    ///
    /// # Errors
    /// Where the recipe does not have it.
    pub(super) fn apply(mut self, recipe: Recipe, c: &mut Config) -> Result<()> {
        if let Some(settings) = c.method.distill_mut()
            && let Some(weight) = self.dense_weight.take()
        {
            settings.cells = (weight != 0.0).then(|| Cells::weighted(weight));
        }
        let (name, distils, hides, compares) = (recipe.name(), self.distils(), self.hides(), self.compares());
        let dino = c.method.dino_mut();
        ensure!(
            !distils || dino.is_some(),
            "`--recipe {name}` has no teacher and no prototypes, but one of their flags was given; hint: `--recipe dino`"
        );
        ensure!(
            !hides || dino.as_ref().is_some_and(|d| d.patches.is_some()),
            "`--recipe {name}` hides no patches, but one of the flags for that was given; hint: `--recipe ibot`"
        );
        ensure!(
            !compares || dino.as_ref().is_some_and(|d| d.dense.is_some()),
            "`--recipe {name}` compares no patches, but one of the flags for that was given; hint: `--recipe ibot-dense`"
        );
        let Some(d) = dino else { return Ok(()) };
        set(&mut d.prototypes, self.prototypes);
        set(&mut d.norm_last_layer, self.norm_last_layer);
        set(&mut d.frozen_epochs, self.frozen_epochs);
        set(&mut d.teacher_temperature, pair(self.teacher_temperature));
        set(&mut d.teacher_warmup_epochs, self.teacher_warmup_epochs);
        set(&mut d.center_momentum, self.center_momentum);
        set(&mut d.drop_path, self.drop_path);
        if let Some(dense) = &mut d.dense {
            set(&mut dense.weight, self.dense_weight);
            set(&mut dense.temperature, self.dense_temperature);
            set(&mut dense.positives, self.dense_positives);
            set(&mut dense.negatives, self.dense_negatives);
        }
        let Some(p) = &mut d.patches else { return Ok(()) };
        set(&mut p.weight, self.patch_weight);
        if self.patch_choice == Some(PatchChoice::Background) {
            p.share = BACKGROUND_SHARE;
        }
        set(&mut p.probability, pair(self.patch_probability));
        set(&mut p.choice, self.patch_choice);
        set(&mut p.score, self.patch_score);
        set(&mut p.layer, self.patch_layer);
        set(&mut p.power, self.patch_power);
        set(&mut p.ratio, self.patch_ratio.map(|all| all.into_iter().map(|Range(r)| r).collect()));
        set(&mut p.share, self.patch_share);
        set(&mut p.per, self.patch_per);
        set(&mut p.hint, self.patch_hint);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::resolved as resolve;
    use crate::config::{PatchChoice, PatchPer, PatchScore};

    #[test]
    fn flags_of_distillation_reach_their_fields() {
        let c = resolve(
            "--recipe ibot --prototypes 99 --norm-last-layer true --frozen-epochs 2 --teacher-temperature 0.03 0.05 \
             --teacher-warmup-epochs 7 --center-momentum 0.8 --drop-path 0.2 --temperature 0.2 --hidden 77 --dim 33 \
             --patch-weight 0.5 --patch-choice hint --patch-score rollout-mid,pow --patch-layer 11,4 --patch-power 0.3 \
             --patch-ratio 0-0.1,0.2-0.4 --patch-share 0.6 --patch-per batch --patch-hint 0.2 --epochs 50 --momentum-start 0.9 \
             --lr-end 0.0001 --patch-probability 0.1 0.6",
        );
        let mut c = c.expect("valid");
        assert_eq!(c.optimizer.lr_end, 1e-4);
        let d = c.method.dino_mut().expect("DINO");
        assert_eq!((d.prototypes, d.norm_last_layer, d.frozen_epochs), (99, true, 2.0));
        assert_eq!((d.teacher_temperature, d.teacher_warmup_epochs), ([0.03, 0.05], 7));
        assert_eq!((d.center_momentum, d.drop_path, d.temperature), (0.8, 0.2, 0.2));
        assert_eq!((d.head.hidden, d.head.dim), (Some(77), 33));
        assert_eq!((d.momentum_start, d.momentum, d.momentum_warmup_epochs), (0.9, 1.0, 50.0));
        let p = d.patches.as_ref().expect("hidden");
        assert_eq!((p.weight, p.choice, p.power), (0.5, PatchChoice::Hint, 0.3));
        assert_eq!(p.score, [PatchScore::RolloutMid, PatchScore::Pow]);
        assert_eq!((p.layer.as_slice(), p.ratio.as_slice()), (&[11, 4][..], &[[0.0, 0.1], [0.2, 0.4]][..]));
        assert_eq!((p.share, p.per, p.hint), (0.6, PatchPer::Batch, 0.2));
        assert_eq!(p.probability, [0.1, 0.6]);
        let dense = "--dense-weight 0.5 --dense-temperature 0.1 --dense-positives 4 --dense-negatives 7";
        let mut c = resolve(&format!("--recipe ibot-dense {dense}")).expect("valid");
        let d = c.method.dino_mut().expect("DINO").dense.clone().expect("compared");
        assert_eq!((d.weight, d.temperature, d.positives, d.negatives), (0.5, 0.1, 4, 7));
        let error = resolve(&format!("--recipe ibot {dense}")).expect_err("refused").to_string();
        assert!(error.contains("hint: `--recipe ibot-dense`"), "{error}");
    }

    /// As of masks of pixels: half of the views, unless another share is given.
    #[test]
    fn patches_of_the_background_are_hidden_in_half_of_the_views() {
        let share = |flags: &str| {
            let mut c = resolve(&format!("--recipe ibot {flags}")).expect("valid");
            let p = c.method.dino_mut().and_then(|d| d.patches.clone()).expect("hidden");
            (p.share, p.probability)
        };
        assert_eq!(share(""), (1.0, [0.05, 0.5]));
        assert_eq!(share("--patch-choice background"), (0.5, [0.05, 0.5]));
        assert_eq!(share("--patch-choice background --patch-share 0.9").0, 0.9);
        assert_eq!(share("--patch-choice spread --patch-score object").0, 1.0);
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        for wrong in ["0.3", "a-b", "0.1-"] {
            let error = resolve(&format!("--recipe ibot --patch-ratio {wrong}")).expect_err("refused");
            assert!(format!("{error:#}").contains("expected LOW-HIGH"), "{error:#}");
        }
    }
}
