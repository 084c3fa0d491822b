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
mod recipes;
mod transformers;
mod warnings;

use std::fmt;

use occlude_encoder::Arch;
use occlude_preprocess::Preprocess;
use serde::{Deserialize, Serialize};

pub use augment::{Augment, ViewGroup};
pub use beginning::Beginning;
pub use dino::{Dense, Dino, PatchChoice, PatchPer, PatchScore, Patches};
pub use distill::{Distill, Teacher, TeacherKind};
pub use fills::{FillScale, Fills, Kernel, focal_sides};
pub use head::Head;
pub use masking::{
    BACKGROUND_BIASED, BACKGROUND_SHARE, Branch, Choice, Guidance, Masking, Saliency, Strategy,
};
pub use method::{Align, Byol, Method, Moco, QueueStart, Simclr, TargetNorm};
pub use mixing::{Mix, MixMask, MixPer, Mixing, Pattern};
pub use momentum::{Momentum, MomentumFields};
pub use optimizer::{ClipBy, Decay, Optimizer, Per, Rule, Shape};

/// The side of views that the published masks are for.
const PUBLISHED_SIDE: usize = 224;

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
    /// MoCo v2 with random masks in the manner of Masked Siamese ConvNets (arXiv 2206.07700): the baseline of
    /// saliency-moco
    MscnMoco,
    /// SimCLR (arXiv 2002.05709), published hyper-parameters
    Simclr,
    /// SimCLR with saliency-guided masking and hard negatives (arXiv 2309.12757)
    SaliencySimclr,
    /// MoCo v2 with MixMask (arXiv 2210.11456), published hyper-parameters
    Mixmask,
    /// MoCo v2 with Un-Mix (arXiv 2003.05438), published hyper-parameters
    Unmix,
    /// MoCo v2 with both (arXiv 2210.11456), published hyper-parameters
    #[serde(rename = "unmix+mixmask")]
    #[value(name = "unmix+mixmask")]
    UnmixMixmask,
    /// BYOL (arXiv 2006.07733), published hyper-parameters
    Byol,
    /// BYOL for small images, small data and small budgets (docs/recipes.md)
    ByolSmall,
    /// LEWEL on BYOL with an averaged normalisation (arXiv 2203.14898), published hyper-parameters
    LewelBEman,
    /// LEWEL on BYOL (arXiv 2203.14898), published hyper-parameters
    LewelB,
    /// LEWEL on MoCo v2 (arXiv 2203.14898)
    LewelM,
    /// LEWEL on BYOL for small images, small data and small budgets (docs/recipes.md)
    LewelSmall,
    /// DINO (arXiv 2104.14294), published hyper-parameters
    Dino,
    /// iBOT (arXiv 2111.07832), published hyper-parameters
    Ibot,
    /// iBOT with attention-guided masks (AttMask, arXiv 2203.12719), published hyper-parameters
    IbotAttmask,
    /// iBOT with a contrastive loss of the patches that are looked at, published hyper-parameters otherwise
    IbotDense,
    /// iBOT for small images, small data and small budgets (docs/recipes.md)
    IbotSmall,
    /// The embeddings of another network, `--teacher` or `--targets`, for small images, small data and small budgets
    /// (docs/recipes.md)
    Distill,
}

impl Recipe {
    /// The name as flags and metadata have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::MocoV2 => "moco-v2",
            Self::SaliencyMoco => "saliency-moco",
            Self::SaliencyMocoSmall => "saliency-moco-small",
            Self::MscnMoco => "mscn-moco",
            Self::Simclr => "simclr",
            Self::SaliencySimclr => "saliency-simclr",
            Self::Mixmask => "mixmask",
            Self::Unmix => "unmix",
            Self::UnmixMixmask => "unmix+mixmask",
            Self::Byol => "byol",
            Self::ByolSmall => "byol-small",
            Self::LewelBEman => "lewel-b-eman",
            Self::LewelB => "lewel-b",
            Self::LewelM => "lewel-m",
            Self::LewelSmall => "lewel-small",
            Self::Dino => "dino",
            Self::Ibot => "ibot",
            Self::IbotAttmask => "ibot-attmask",
            Self::IbotDense => "ibot-dense",
            Self::IbotSmall => "ibot-small",
            Self::Distill => "distill",
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
    /// Side of the training crops in pixels, of those groups of views that have no side of their own.
    pub image_size: usize,
    /// Whether pictures lose their border where the encoder is evaluated and deployed: resized to 8/7 of the side, then cropped.
    #[serde(default = "trimmed")]
    pub trim: bool,
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

    /// Whether the encoder that is trained sees masked views.
    pub fn masks_queries(&self) -> bool {
        self.masking.as_ref().is_some_and(Masking::queries)
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
        let side = u32::try_from(self.image_size).unwrap_or(u32::MAX);
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
            check(c.image_size.is_multiple_of(vit.patch), || {
                format!(
                    "`--image-size {}`: {arch} needs a multiple of its patch size, {} pixels",
                    c.image_size, vit.patch
                )
            })?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_saliency::MapRule;

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

    fn moco(c: &mut Config) -> &mut Moco {
        c.method.moco_mut().expect("MoCo")
    }

    fn steps(c: &mut Config, at: &[f64]) {
        (c.optimizer.schedule, c.optimizer.milestones) = (Shape::Step, at.to_vec());
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
            (refused(|c| c.optimizer.warmup_epochs = -1.0), "--warmup-epochs"),
            (refused(|c| c.optimizer.clip = Some(0.0)), "--clip"),
            (refused(|c| c.optimizer.gamma = 0.0), "--gamma"),
            (refused(|c| c.optimizer.schedule = Shape::Step), "--milestones"),
            (refused(|c| c.optimizer.milestones = vec![5.0]), "--schedule step"),
            (refused(|c| steps(c, &[5.0, 5.0])), "rising"),
            (refused(|c| steps(c, &[5.0, 200.0])), "between 0 and 200"),
            (refused(|c| c.accumulate = 0), "--accumulate"),
            (refused(|c| *c.method.temperature_mut().expect("one") = -0.1), "--temperature"),
            (refused(|c| moco(c).momentum = 1.5), "--momentum"),
            (refused(|c| c.method.head_mut().dim = 1), "--dim"),
            (refused(|c| *c.method.bn_splits_mut().expect("groups") = 7), "--bn-splits"),
            (refused(|c| *c.method.bn_splits_mut().expect("groups") = 128), "--bn-splits"),
            (refused(|c| (moco(c).queue, c.masking) = (0, None)), "--queue 0"),
            (refused(|c| c.views[0].augment.crop_min = 0.0), "--crop-min"),
            (refused(|c| c.views[0].augment.blur_p = 2.0), "blur_p"),
            (refused(|c| c.views[0].augment.blur_sigma = [0.0, 1.0]), "sigma"),
            (refused(|c| c.views[0].augment.crop_foreground = -0.1), "--crop-foreground"),
        ];
        for (message, part) in cases {
            assert!(message.contains(part), "{message}");
        }
        let masks = |change: fn(&mut Masking)| refused(|c| c.masking.as_mut().map_or((), change));
        for (message, part) in [
            (masks(|m| m.stage = 2), "--saliency-stage"),
            (masks(|m| m.ratio = [0.5, 0.2]), "--mask-ratio"),
            (masks(|m| m.alpha = 0.0), "--alpha"),
            (masks(|m| m.rule = MapRule::Attention), "--saliency-rule attention"),
            (masks(|m| (m.branch, m.num_nonsem) = (Branch::None, 0)), "--branch none"),
            (masks(|m| m.cell_probability = [0.0, 1.1]), "--cell-probability"),
            (masks(|m| m.cell_probability = [0.0, 0.0]), "--cell-probability"),
            (masks(|m| m.share = 0.0), "--mask-share"),
            (masks(|m| m.grid = Some(6)), "--mask-grid 6`: expected 7"),
            (masks(|m| m.grid = Some(225)), "to 224"),
            (masks(|m| m.course = Some([0.2, 0.1, 0.9])), "--mask-course"),
            (masks(|m| m.course = Some([0.5, 0.5, 0.5])), "--mask-course"),
            (masks(|m| m.course = Some([0.0, 0.5, f64::NAN])), "--mask-course"),
            (masks(|m| m.prior_until = 1.5), "--prior-until"),
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
        for (recipe, change, part) in following_cases() {
            let mut config = Config::new(recipe);
            change(&mut config);
            let message = config.validate().expect_err("refused").0;
            assert!(message.contains(part), "{message}");
        }
        assert!(mixed(|c| c.masking = recipes::saliency_moco().masking).contains("masked or mixed"));
        assert!(mixed(|c| c.method = recipes::simclr().method).contains("with MoCo and BYOL only"));
        let tiny = refused(|c| c.image_size = 32);
        assert!(tiny.contains("--saliency-stage 4"), "{tiny}");
    }

    type Case = (Recipe, fn(&mut Config), &'static str);

    /// What BYOL, LEWEL and groups of views refuse.
    fn following_cases() -> [Case; 13] {
        let small: fn(&mut Config) = |c| c.views.push(ViewGroup { size: Some(96), ..c.views[0].clone() });
        [
            (Recipe::Byol, |c| c.method.byol_mut().expect("BYOL").predictor = 0, "--predictor-hidden"),
            (Recipe::Byol, |c| c.method.byol_mut().expect("BYOL").momentum_start = 1.5, "--momentum-start"),
            (Recipe::Byol, |c| c.masking = recipes::saliency_moco().masking, "BYOL has none"),
            (Recipe::LewelM, |c| c.masking = recipes::saliency_moco().masking, "no aligned embedding"),
            (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").heads = 3, "--align-heads 3"),
            (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").scale = 0.0, "--align-scale"),
            (Recipe::LewelBEman, |c| c.method.align_mut().expect("aligned").weight = 2.0, "--align-weight"),
            (
                Recipe::LewelB,
                |c| c.mixing = recipes::mixed(Recipe::Mixmask, Mix::Mixmask).mixing,
                "with LEWEL",
            ),
            (Recipe::Byol, |c| c.views.truncate(1), "has to come first"),
            (Recipe::Byol, |c| c.views[1].size = Some(96), "[224, 96] px"),
            (Recipe::Byol, |c| c.views[1].count = 0, "0 views"),
            (Recipe::Byol, |c| c.views[1].size = Some(8), "8 px"),
            (Recipe::MocoV2, small, "compares two"),
        ]
    }

    /// Configurations of versions before groups of views: two alike.
    #[test]
    fn one_distribution_is_that_of_two_views() {
        let config = Config::new(Recipe::MocoV2);
        let mut json = serde_json::to_value(&config).expect("serialisable");
        let fields = json.as_object_mut().expect("an object");
        let groups = fields.remove("views").expect("views");
        fields.insert("augment".into(), groups[0]["augment"].clone());
        assert_eq!(serde_json::from_value::<Config>(json).expect("readable"), config);
    }

    /// Pictures of 32 px, like CIFAR's, show their object from border to border.
    #[test]
    fn a_contract_without_a_crop_shows_the_whole_picture() {
        let config = Config { image_size: 32, ..Config::new(Recipe::MocoV2) };
        let sides = |c: &Config| (c.preprocess().resize, c.preprocess().crop);
        assert_eq!(sides(&config), (37, 32));
        assert_eq!(sides(&Config { trim: false, ..config.clone() }), (32, 32));
        let mut json = serde_json::to_value(&config).expect("serialisable");
        json.as_object_mut().expect("an object").remove("trim");
        assert_eq!(serde_json::from_value::<Config>(json).expect("readable"), config, "as it always was");
    }

    #[test]
    fn only_the_high_pass_strategy_filters_the_input() {
        let mut config = Config::new(Recipe::SaliencyMoco);
        let filter = |kernel, sigma| Some(occlude_preprocess::HighPass { kernel, sigma });
        assert_eq!(config.preprocess().high_pass, filter(11, 5.0));
        config.image_size = 64;
        assert_eq!(config.preprocess().high_pass, filter(3, 5.0 * 64.0 / 224.0));
        assert_eq!(config.resolved().expect("JSON")["resolved"]["masking"]["high_pass"]["side"], 3);
        config.masking.as_mut().expect("masked").fills = FillScale::Published;
        assert_eq!(config.preprocess().high_pass, filter(11, 5.0));
        config.masking.as_mut().expect("masked").strategy = Strategy::Blur;
        assert_eq!(config.preprocess().high_pass, None);
        assert_eq!(Config::new(Recipe::MocoV2).preprocess().high_pass, None);
    }
}
