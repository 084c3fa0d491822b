//! The flags that override a recipe: a group for each concern, which resolves itself.

mod beginning;
mod distilling;
mod masking;
mod mixing;
mod networks;
mod optimising;
mod parts;
mod scale;
mod teaching;
mod viewing;

use anyhow::Result;
use clap::Args;

use crate::config::{Config, Recipe};
use beginning::BeginningArgs;
use distilling::DistilArgs;
use masking::MaskArgs;
use mixing::MixArgs;
use networks::NetworkArgs;
use optimising::OptimiserArgs;
use parts::Parts;
use scale::ScaleArgs;
use teaching::TeacherArgs;
use viewing::ViewArgs;

/// Flags that override a recipe.
#[derive(Args, Debug, Default)]
pub(super) struct Overrides {
    #[command(flatten)]
    parts: Parts,
    #[command(flatten)]
    scale: ScaleArgs,
    #[command(flatten)]
    optimising: OptimiserArgs,
    #[command(flatten)]
    networks: NetworkArgs,
    #[command(flatten)]
    viewing: ViewArgs,
    #[command(flatten)]
    beginning: BeginningArgs,
    #[command(flatten)]
    distilling: DistilArgs,
    #[command(flatten)]
    teaching: TeacherArgs,
    #[command(flatten)]
    masking: MaskArgs,
    #[command(flatten)]
    mixing: MixArgs,
}

impl Overrides {
    /// The recipe with these flags.
    ///
    /// # Errors
    /// For flags of what the recipe does not have, files that cannot be used, and what [`Config::validate`] refuses.
    pub(super) fn resolve(self, recipe: Recipe) -> Result<Config> {
        let mut c = Config::new(recipe);
        self.scale.batch(&mut c);
        // first what the recipe is made of: further flags may be about a part that is added here
        self.parts.apply(&mut c)?;
        self.masking.check(&c)?;
        self.mixing.check(&c)?;
        self.networks.check(&mut c)?;
        self.distilling.apply(recipe, &mut c)?;
        self.teaching.apply(recipe, &mut c)?;
        self.scale.apply(&mut c);
        self.networks.apply(&mut c);
        let trained_on = self.beginning.apply(&mut c, self.scale.arch.as_deref())?;
        self.parts.masks(&mut c)?;
        self.optimising.apply(&mut c);
        self.viewing.apply(&mut c);
        self.masking.apply(&mut c)?;
        trained_on.map_or(Ok(()), |of| of.check(&c))?;
        self.mixing.apply(&mut c);
        self.parts.finish(&mut c);
        c.validate()?;
        Ok(c)
    }
}

pub(super) fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Both ends of a range; clap holds the number of values to two.
fn pair(values: Option<Vec<f64>>) -> Option<[f64; 2]> {
    values.and_then(|v| v.try_into().ok())
}

#[cfg(test)]
mod tests;
