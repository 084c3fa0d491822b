//! The validated configuration of a run, and the named recipes it starts from.
//!
//! A recipe is a [`Config`]; flags override its fields; [`Config::validate`] refuses what cannot
//! work before any file is touched. The resolved value is saved beside every checkpoint.

mod augment;
mod beginning;
mod dino;
mod distill;
mod fills;
mod following;
mod head;
mod masking;
mod method;
mod mixing;
mod momentum;
mod optimizer;
mod recipe;
mod recipes;
#[cfg(test)]
mod tests;
mod transformers;
mod warnings;

use std::fmt;

use occlude_encoder::Arch;
use occlude_preprocess::Preprocess;
use serde::{Deserialize, Serialize};

pub use augment::{Augment, ViewGroup};
pub use beginning::Beginning;
pub use dino::{Dense, Dino, PatchChoice, PatchPer, PatchScore, Patches};
pub use distill::{Cells, Distill, Teacher, TeacherKind};
pub use fills::{FillScale, Fills, Kernel, focal_sides};
pub use head::Head;
pub use masking::{
    BACKGROUND_BIASED, BACKGROUND_SHARE, Branch, Choice, Guidance, Masking, Saliency, Strategy,
};
pub use method::{Align, Byol, Method, Moco, QueueStart, Simclr, TargetNorm};
pub use mixing::{Mix, MixMask, MixPer, Mixing, Pattern};
pub use momentum::{Momentum, MomentumFields};
pub use optimizer::{ClipBy, Decay, Optimizer, Per, Rule, Shape};
pub use recipe::Recipe;

/// The side of views that the published masks are for.
const PUBLISHED_SIDE: usize = 224;

/// Everything that decides what a run computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The recipe it started from.
    pub recipe: Recipe,
    /// Architecture, by name.
    pub arch: String,
    /// Side of the training crops in pixels, of those groups of views that have no side of their own.
    pub image_size: usize,
    /// Whether pictures lose their border where the encoder is evaluated and deployed: resized to 8/7 of the side, then cropped.
    #[serde(default = "trimmed")]
    pub trim: bool,
    /// Side of the pictures that the encoder is given where it is evaluated and deployed; absent: that of the training crops.
    /// Crops enlarge what they show, so an encoder knows objects as larger pictures have them (FixRes, arXiv
    /// [1906.06423](https://arxiv.org/abs/1906.06423)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_size: Option<usize>,
    /// Passes over the data.
    pub epochs: usize,
    /// Images a batch.
    pub batch_size: usize,
    /// Batches whose gradients make one step of the optimiser; negatives stay those of one batch.
    pub accumulate: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Optimiser and schedule.
    pub optimizer: Optimizer,
    /// What is contrasted with what.
    pub method: Method,
    /// The views of a picture, all cut from one decoding of it.
    #[serde(alias = "augment", deserialize_with = "augment::groups")]
    pub views: Vec<ViewGroup>,
    /// Masking; absent where views are not masked.
    pub masking: Option<Masking>,
    /// The weights that it begins with; absent where they are random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beginning: Option<Beginning>,
    /// Mixing pictures; absent where they are not mixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixing: Option<Mixing>,
}

/// Of runs that say nothing: the only contract there was.
fn trimmed() -> bool {
    true
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

impl Config {
    /// The hyper-parameters of `recipe`.
    pub fn new(recipe: Recipe) -> Self {
        match recipe {
            Recipe::MocoV2 => recipes::moco_v2(),
            Recipe::SaliencyMoco => recipes::saliency_moco(),
            Recipe::SaliencyMocoSmall => recipes::saliency_moco_small(),
            Recipe::MscnMoco => recipes::mscn_moco(),
            Recipe::Simclr => recipes::simclr(),
            Recipe::SimclrSmall => recipes::simclr_small(),
            Recipe::SaliencySimclr => recipes::saliency_simclr(),
            Recipe::Mixmask => recipes::mixed(recipe, Mix::Mixmask),
            Recipe::Unmix => recipes::mixed(recipe, Mix::Unmix),
            Recipe::UnmixMixmask => recipes::mixed(recipe, Mix::Both),
            Recipe::Byol => following::byol(),
            Recipe::ByolSmall => following::byol_small(),
            Recipe::LewelBEman => following::lewel_b_eman(),
            Recipe::LewelB => following::lewel_b(),
            Recipe::LewelM => following::lewel_m(),
            Recipe::LewelSmall => following::lewel_small(),
            Recipe::Dino => transformers::dino(),
            Recipe::Ibot => transformers::ibot(),
            Recipe::IbotAttmask => transformers::ibot_attmask(),
            Recipe::IbotDense => transformers::ibot_dense(),
            Recipe::IbotSmall => transformers::ibot_small(),
            Recipe::Distill => recipes::distill(),
        }
    }

    /// What a recipe without masks gets where it is to mask: those of the recipes that do, as published or for small views,
    /// without hard negatives.
    ///
    /// # Errors
    /// Where the architecture is unknown.
    pub fn usual_masking(&self) -> Result<Masking, Invalid> {
        let small = self.image_size < PUBLISHED_SIDE;
        let like = if small { recipes::saliency_moco_small() } else { recipes::saliency_moco() };
        let mut masking = like.masking.ok_or_else(|| Invalid("a recipe lost its masks".into()))?;
        masking.num_nonsem = 0;
        masking.alpha = 1.0;
        if self.architecture()?.feature_side(masking.stage, self.image_size) < 2 {
            masking.stage -= 1;
        }
        Ok(masking)
    }

    /// What a recipe that does not mix gets where it is to: the published masks, unless it has others.
    pub fn usual_mixing(mix: Mix, mask: Option<MixMask>) -> Mixing {
        Mixing { mix, mask: mask.unwrap_or_else(recipes::mix_mask) }
    }

    /// The architecture.
    ///
    /// # Errors
    /// [`Invalid`] where the name is unknown.
    pub fn architecture(&self) -> Result<Arch, Invalid> {
        self.arch.parse().map_err(|e: occlude_encoder::UnknownArch| Invalid(e.to_string()))
    }

    /// Whether the encoder that is trained sees masked views: queries, and where all views and hard negatives go through one
    /// network, any of them.
    pub fn masks_queries(&self) -> bool {
        let any = |m: &Masking| m.branch != Branch::None;
        self.masking.as_ref().is_some_and(|m| match self.method {
            Method::Simclr(_) => any(m) || m.num_nonsem > 0,
            Method::Distill(_) => any(m),
            Method::Moco(_) | Method::Byol(_) | Method::Dino(_) => m.queries(),
        })
    }

    /// Whether its encoder has running statistics that could be estimated anew.
    ///
    /// # Errors
    /// [`Invalid`] where it has none.
    pub fn can_refresh(&self) -> Result<(), Invalid> {
        let arch = self.architecture()?;
        check(arch.vit().is_none(), || {
            format!("{arch} has no batch normalisation, so there are no running statistics to re-estimate")
        })
    }

    /// What the encoder of this run wants its input to be.
    pub fn preprocess(&self) -> Preprocess {
        let filtered = self.masking.as_ref().filter(|m| m.strategy == Strategy::Hp);
        let high_pass = filtered.map(|m| Fills::new(m.fills, self.image_size).filter());
        let side = u32::try_from(self.test_size.unwrap_or(self.image_size)).unwrap_or(u32::MAX);
        let usual = Preprocess::imagenet(side);
        let resize = if self.trim { usual.resize } else { side };
        let usual = Preprocess { high_pass, resize, ..usual };
        match &self.beginning {
            Some(Beginning { mean, std, .. }) => Preprocess { mean: *mean, std: *std, ..usual },
            None => usual,
        }
    }

    /// The configuration with what follows from it, for people: `--show-config` and `config.json`.
    ///
    /// # Errors
    /// Where a path in it is not UTF-8.
    pub fn resolved(&self) -> serde_json::Result<serde_json::Value> {
        let mut all = serde_json::to_value(self)?;
        let Some(masking) = &self.masking else { return Ok(all) };
        let fills = Fills::new(masking.fills, self.image_size);
        let mut pixels = serde_json::Map::new();
        if masking.strategy == Strategy::Blur {
            pixels.insert("blur".into(), serde_json::to_value(fills.blur)?);
        }
        if masking.strategy == Strategy::Hp {
            pixels.insert("high_pass".into(), serde_json::to_value(fills.high_pass)?);
            let [query, negative] = focal_sides(self.image_size);
            pixels.insert("focal_query".into(), query.into());
            pixels.insert("focal_negative".into(), negative.into());
        }
        let map = self.arch.parse::<Arch>().map(|a| a.feature_side(masking.stage, self.image_size));
        pixels.insert("cells".into(), masking.cells(map.unwrap_or_default()).into());
        all["resolved"] = serde_json::json!({ "masking": pixels });
        Ok(all)
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
        let test = c.test_size.unwrap_or(c.image_size);
        check((32..=1024).contains(&test), || format!("`--test-size {test}`: expected 32 to 1024 pixels"))?;
        check(c.epochs >= 1, || "`--epochs 0`: expected at least 1".into())?;
        check(c.batch_size >= 2, || {
            format!("`--batch-size {}`: expected at least 2, or there is nothing to contrast", c.batch_size)
        })?;
        check((1..=4096).contains(&c.accumulate), || {
            format!("`--accumulate {}`: expected 1 to 4096 batches", c.accumulate)
        })?;
        c.optimizer.validate(c.epochs)?;
        c.beginning.as_ref().map_or(Ok(()), |b| b.validate(c.epochs))?;
        c.method.validate(arch, c.batch_size, c.masking.as_ref().map_or(0, |m| m.num_nonsem))?;
        self.validate_views()?;
        check(c.masking.is_none() || !matches!(c.method, Method::Dino(_)), || {
            format!(
                "`--recipe {}` has no masks of pixels, and hides patches if anything; hint: `--recipe ibot` and its flags `--patch-..`",
                c.recipe.name()
            )
        })?;
        check(c.masking.is_none() || c.mixing.is_none(), || {
            "pictures are either masked or mixed; hint: leave out the flags of one of them".into()
        })?;
        check(c.mixing.is_none() || matches!(c.method, Method::Moco(_) | Method::Byol(_)), || {
            "pictures are mixed with MoCo and BYOL only; hint: `--recipe mixmask`".into()
        })?;
        check(c.mixing.is_none() || c.method.align().is_none(), || {
            "an aligned embedding is taken from where its map points, so the shares of a mixture do not tell whose it is: pictures cannot be mixed with LEWEL; hint: `--recipe byol --mix mixmask`".into()
        })?;
        self.mixing.as_ref().map_or(Ok(()), Mixing::validate)?;
        if let Some(vit) = arch.vit() {
            check(c.method.align().is_none(), || {
                format!(
                    "LEWEL aligns the cells of a ResNet's feature map, and {arch} has none; hint: `--recipe byol`"
                )
            })?;
            let sides = [("--image-size", c.image_size), ("--test-size", test)];
            if let Some((flag, side)) = sides.into_iter().find(|(_, side)| !side.is_multiple_of(vit.patch)) {
                return Err(Invalid(format!(
                    "`{flag} {side}`: {arch} needs a multiple of its patch size, {} pixels",
                    vit.patch
                )));
            }
            if let Method::Dino(Dino { dense: Some(dense), .. }) = &c.method {
                dense.fits(arch.feature_side(5, c.image_size).pow(2))?;
            }
            let odd = c.views.iter().filter_map(|g| g.size).find(|size| !size.is_multiple_of(vit.patch));
            check(odd.is_none(), || {
                format!(
                    "`--views`: views of {} px, and {arch} needs a multiple of its patch size, {} pixels",
                    odd.unwrap_or_default(),
                    vit.patch
                )
            })?;
        }
        self.masking.as_ref().map_or(Ok(()), |m| m.validate(arch, c.image_size))
    }

    /// Views that make no pair, or more than the method knows what to do with.
    fn validate_views(&self) -> Result<(), Invalid> {
        self.views.iter().try_for_each(ViewGroup::validate)?;
        let sizes = self.views.iter().flat_map(|g| std::iter::repeat_n(g.size, g.count));
        let sizes: Vec<usize> = sizes.map(|size| size.unwrap_or(self.image_size)).collect();
        let first = self.method.compared_views();
        let there = sizes.len() >= first && sizes[..first].iter().all(|&size| size == self.image_size);
        check(there, || {
            format!(
                "`--views` makes views of {sizes:?} px, and {} of the run's {} px has to come first; hint: `--views {first}`",
                if first == 1 { "one" } else { "a pair" },
                self.image_size
            )
        })?;
        if let (Method::Distill(_), Some(masking)) = (&self.method, &self.masking) {
            Distill::validate_masks(masking, sizes.len())?;
        }
        check(sizes.len() == first || self.method.takes_more_views(), || {
            format!(
                "`--views` makes {} views of a picture, and `{}` compares two; hint: `--recipe byol`, `--recipe dino` and `--recipe distill` take more",
                sizes.len(),
                self.recipe.name()
            )
        })
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
