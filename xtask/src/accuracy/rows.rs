//! The arms that there are: a table.

use super::flags::Flags;

/// One arm: what it is, and the recipe with its flags besides those that all arms share.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    recipe: &'static str,
    flags: &'static [Set],
    /// What it has to beat.
    pub(super) against: &'static [&'static str],
}

/// Flags that several arms share.
#[derive(Clone, Copy)]
enum Set {
    /// The budget's optimiser, head and augmentation, for recipes that are written for another.
    Common,
    /// Negatives from the batch, and the key's momentum, for MoCo's recipes.
    InBatch,
    /// Which cells are masked.
    Cells,
    /// Background-biased masks (arXiv 2103.12719) by the map that finds objects best (docs/maps.md).
    Background,
    /// Background-biased masks, constrained crops (arXiv 2202.03278), a course of the masked share, and scores that begin
    /// with the prior.
    Combined,
    These(&'static str),
}

const COMMON: &str = "--optimizer adamw --lr 1e-3 --weight-decay 0.05 --decay weights --warmup-epochs 0.5 --hidden 1024 \
                      --temperature 0.1 --bn-splits 1 --crop-min 0.2 --blur-sigma 0.1 1.0";
const IN_BATCH: &str = "--head-bn true --queue 0 --in-batch true --momentum 0.99 --momentum-start 0.95";
const BACKGROUND: &str =
    "--saliency-rule object --choice background --cell-probability 0.05 0.5 --mask-share 0.5";
const COMBINED: &str = "--crop-foreground 0.5 --mask-course 0.2 0.6 0.9 --prior-until 0.5";

const SMALL: &str = "saliency-moco-small";
const IBOT: &str = "ibot-small";

use Set::{Background, Cells, Combined, Common, InBatch, These};

/// Every method of the papers.
pub(super) const METHODS: [Row; 21] = [
    row("plain", "MoCo v2", "moco-v2", &[Common, InBatch], &[]),
    row("blur", "saliency masks, blurred", SMALL, &[Cells], &["plain", "random-blur", "other-blur"]),
    row(
        "hp",
        "saliency masks, high-pass",
        SMALL,
        &[Cells, These("--strategy hp")],
        &["plain", "random-hp", "other-hp"],
    ),
    row("mean", "saliency masks, mean colour", SMALL, &[Cells, These("--strategy mean")], &["plain"]),
    row(
        "blur-neg",
        "blurred, one hard negative",
        SMALL,
        &[Cells, These("--num-nonsem 1 --alpha 2")],
        &["plain", "blur"],
    ),
    row(
        "blur-neg-one",
        "the same, its logit not doubled",
        SMALL,
        &[Cells, These("--num-nonsem 1 --alpha 1")],
        &["plain", "blur"],
    ),
    row(
        "hp-neg",
        "high-pass, one hard negative",
        SMALL,
        &[Cells, These("--strategy hp --num-nonsem 1 --alpha 2")],
        &["plain", "hp"],
    ),
    row(
        "mean-neg",
        "mean colour, one hard negative",
        SMALL,
        &[Cells, These("--strategy mean --num-nonsem 1 --alpha 2")],
        &["plain", "mean"],
    ),
    row("key", "blurred, key branch masked", SMALL, &[Cells, These("--branch key")], &["plain", "blur"]),
    row(
        "both-branches",
        "blurred, both branches masked",
        SMALL,
        &[Cells, These("--branch both")],
        &["plain", "blur"],
    ),
    row("random-blur", "blurred, random cells", SMALL, &[Cells, These("--guidance random")], &["plain"]),
    row("random-hp", "random masks of MSCN, high-pass", "mscn-moco", &[Common, InBatch, Cells], &["plain"]),
    row("simclr", "SimCLR", "simclr", &[Common, These("--jitter 0.5")], &["plain"]),
    row(
        "saliency-simclr",
        "SimCLR, saliency masks, blurred",
        "saliency-simclr",
        &[Common, Cells, These("--jitter 0.5 --strategy blur --num-nonsem 0")],
        &["simclr"],
    ),
    row("mixmask", "MixMask", "mixmask", &[Common, InBatch], &["plain"]),
    row("unmix", "Un-Mix", "unmix", &[Common, InBatch], &["plain"]),
    row("unmix+mixmask", "Un-Mix and MixMask", "unmix+mixmask", &[Common, InBatch], &["plain"]),
    row("byol", "BYOL", "byol-small", &[], &["plain"]),
    row(
        "lewel-b",
        "LEWEL on BYOL",
        "lewel-small",
        &[These("--target batch --momentum-start 0.99")],
        &["byol"],
    ),
    row("lewel-b-eman", "LEWEL on BYOL, averaged statistics", "lewel-small", &[], &["byol"]),
    row("lewel-m", "LEWEL on MoCo v2", "lewel-m", &[Common, InBatch], &["plain"]),
];

/// Which patches iBOT hides from a vision transformer; `--arch` has to be one.
pub(super) const PATCHES: [Row; 10] = [
    row("ibot-random", "iBOT, any patches", IBOT, &[These("--patch-choice random")], &[]),
    row("ibot-none", "no patches hidden", IBOT, &[These("--patch-share 0")], &["ibot-random"]),
    row("ibot-block", "rectangles", IBOT, &[These("--patch-choice block")], &["ibot-random"]),
    row("ibot-high", "the most attended", IBOT, &[These("--patch-choice high")], &["ibot-random"]),
    row(
        "ibot-hint",
        "the most attended, a few shown (AttMask)",
        IBOT,
        &[These("--patch-choice hint")],
        &["ibot-random", "ibot-high"],
    ),
    row(
        "ibot-log",
        "the most attended, logarithms of the heads",
        IBOT,
        &[These("--patch-choice high --patch-score log")],
        &["ibot-random", "ibot-high"],
    ),
    row(
        "ibot-pow",
        "the most attended, powers of the heads",
        IBOT,
        &[These("--patch-choice high --patch-score pow")],
        &["ibot-random", "ibot-high"],
    ),
    row(
        "ibot-rollout",
        "the most attended through all blocks",
        IBOT,
        &[These("--patch-choice high --patch-score rollout-all")],
        &["ibot-random", "ibot-high"],
    ),
    row(
        "ibot-spread",
        "foreground and background in proportion",
        IBOT,
        &[These("--patch-choice spread --patch-score object")],
        &["ibot-random"],
    ),
    row(
        "ibot-background",
        "mostly of the background",
        IBOT,
        &[These("--patch-choice background --patch-score object")],
        &["ibot-random"],
    ),
];

/// What the experiment adds. Every arm with a map has two controls of its own, equal in everything but where its cells
/// lie: anywhere, or by the map of another picture.
pub(super) const ADDED: [Row; 16] = [
    row(
        "other-blur",
        "blurred, another picture's map",
        SMALL,
        &[Cells, These("--guidance other")],
        &["plain", "random-blur"],
    ),
    row(
        "other-hp",
        "high-pass, another picture's map",
        SMALL,
        &[Cells, These("--strategy hp --guidance other")],
        &["plain", "random-hp"],
    ),
    row(
        "background",
        "background-biased masks, blurred",
        SMALL,
        &[Cells, Background],
        &["plain", "background-random", "background-other"],
    ),
    row(
        "background-random",
        "the same number of cells, anywhere",
        SMALL,
        &[Cells, Background, These("--guidance random")],
        &["plain"],
    ),
    row(
        "background-other",
        "the same by another picture's map",
        SMALL,
        &[Cells, Background, These("--guidance other")],
        &["plain", "background-random"],
    ),
    row(
        "background-paste",
        "background-biased, filled from another picture",
        SMALL,
        &[Cells, Background, These("--strategy other-picture")],
        &["plain", "background"],
    ),
    row(
        "background-mean",
        "background-biased, mean colour",
        SMALL,
        &[Cells, Background, These("--strategy mean")],
        &["plain", "background"],
    ),
    row(
        "crops",
        "no masks, crops that hold the foreground",
        "moco-v2",
        &[Common, InBatch, These("--crop-foreground 0.5")],
        &["plain"],
    ),
    row(
        "combined",
        "background-biased masks with a course, constrained crops, prior",
        SMALL,
        &[Cells, Background, Combined],
        &["plain", "combined-random", "combined-other"],
    ),
    row(
        "combined-random",
        "the same, cells anywhere",
        SMALL,
        &[Cells, Background, Combined, These("--guidance random")],
        &["plain", "crops"],
    ),
    row(
        "combined-other",
        "the same by another picture's map",
        SMALL,
        &[Cells, Background, Combined, These("--guidance other")],
        &["plain", "combined-random"],
    ),
    row(
        "simclr-background",
        "SimCLR, background-biased masks",
        "saliency-simclr",
        &[Common, Cells, Background, These("--jitter 0.5 --strategy blur --num-nonsem 0")],
        &["simclr", "simclr-random", "simclr-other"],
    ),
    row(
        "simclr-random",
        "the same number of cells, anywhere",
        "saliency-simclr",
        &[Common, Cells, Background, These("--jitter 0.5 --strategy blur --num-nonsem 0 --guidance random")],
        &["simclr"],
    ),
    row(
        "simclr-other",
        "the same by another picture's map",
        "saliency-simclr",
        &[Common, Cells, Background, These("--jitter 0.5 --strategy blur --num-nonsem 0 --guidance other")],
        &["simclr", "simclr-random"],
    ),
    row(
        "byol-background",
        "BYOL, background-biased masks, blurred",
        "byol-small",
        &[Cells, Background, These("--masks true --strategy blur")],
        &["byol"],
    ),
    row(
        "blur-object",
        "masks of the paper's rule by the map `object`",
        SMALL,
        &[Cells, These("--saliency-rule object")],
        &["plain", "blur"],
    ),
];

/// The arms of the experiment, those first that others are held against.
pub(super) const EXPERIMENT: [&str; 19] = [
    "plain",
    "random-blur",
    "other-blur",
    "blur",
    "random-hp",
    "hp",
    "background-random",
    "background-other",
    "background",
    "crops",
    "combined-random",
    "combined-other",
    "combined",
    "mixmask",
    "simclr",
    "simclr-random",
    "simclr-other",
    "simclr-background",
    "byol",
];

const fn row(
    name: &'static str,
    about: &'static str,
    recipe: &'static str,
    flags: &'static [Set],
    against: &'static [&'static str],
) -> Row {
    Row { name, about, recipe, flags, against }
}

/// What the flags of an arm depend on.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    pub(super) saliency_stage: u32,
    pub(super) epochs: u32,
}

impl Row {
    /// Flags of `pretrain` for this arm.
    pub(super) fn flags(&self, budget: Budget) -> Flags {
        let mut flags = format!("--recipe {}", self.recipe);
        for set in self.flags {
            flags += " ";
            match set {
                Common => flags += COMMON,
                InBatch => flags += IN_BATCH,
                Cells => flags += &format!("--saliency-stage {}", budget.saliency_stage),
                Background => flags += BACKGROUND,
                Combined => flags += COMBINED,
                These(these) => flags += these,
            }
        }
        let small = [SMALL, IBOT, "byol-small", "lewel-small"].contains(&self.recipe);
        if small || self.flags.iter().any(|set| matches!(set, InBatch)) {
            flags += &format!(" --momentum-warmup-epochs {}", budget.epochs);
        }
        Flags::parse(&flags).unwrap_or_default()
    }
}
