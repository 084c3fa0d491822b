//! The flags of MixMask.

use anyhow::{Result, ensure};
use clap::Args;

use super::set;
use crate::config::{Config, Mix, MixPer, Mixing, Pattern};

/// Flags of MixMask.
#[derive(Args, Debug, Default)]
pub(super) struct MixArgs {
    /// Which cells of a mixture come from the other picture
    #[arg(long, value_enum)]
    mix_pattern: Option<Pattern>,
    /// Cells of a mixture along a side
    #[arg(long)]
    mix_grid: Option<usize>,
    /// Share of a mixture's cells that come from the other picture
    #[arg(long)]
    mix_share: Option<f64>,
    /// One mask for all mixtures of a batch, or one for each
    #[arg(long, value_enum)]
    mask_per: Option<MixPer>,
}

impl MixArgs {
    /// Whether the recipe has what flags are given for.
    ///
    /// # Errors
    /// Where it has not, with how to get it.
    pub(super) fn check(&self, c: &Config) -> Result<()> {
        let given = self.mix_pattern.is_some()
            || self.mix_grid.is_some()
            || self.mix_share.is_some()
            || self.mask_per.is_some();
        ensure!(
            !given || c.mixing.as_ref().is_some_and(|m| m.mix != Mix::Unmix),
            "`--recipe {}` has no MixMask, but one of its flags was given; hint: `--mix mixmask`",
            c.recipe.name()
        );
        Ok(())
    }

    /// Overrides what is given.
    pub(super) fn apply(self, c: &mut Config) {
        if let Some(Mixing { mask, .. }) = &mut c.mixing {
            set(&mut mask.pattern, self.mix_pattern);
            set(&mut mask.grid, self.mix_grid);
            set(&mut mask.share, self.mix_share);
            set(&mut mask.per, self.mask_per);
        }
    }
}
