//! Self-distillation: DINO, iBOT and AttMask.

use occlude_encoder::Arch;
use occlude_saliency::{Making, MapRule};
use serde::{Deserialize, Serialize};

use super::masking::background_biased;
use super::{Head, Invalid, Momentum, check, positive, unit};

/// DINO (arXiv 2104.14294), and iBOT on it (arXiv 2111.07832).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dino {
    /// Head: three layers with GELU, of which `dim` is the length of the last one's output.
    pub head: Head,
    /// Prototypes that embeddings are compared with.
    pub prototypes: usize,
    /// Whether prototypes have length one; otherwise their lengths are learnt.
    pub norm_last_layer: bool,
    /// Epochs at the start in which prototypes stay as they are.
    pub frozen_epochs: f64,
    /// Momentum of the teacher at the end of its warm-up.
    pub momentum: f64,
    /// Momentum of the teacher at the first step.
    pub momentum_start: f64,
    /// Epochs over which it goes from start to end along a half cosine.
    pub momentum_warmup_epochs: f64,
    /// Temperature of the student's softmax.
    pub temperature: f64,
    /// Temperature of the teacher's softmax in the first epoch, and from the end of its warm-up on.
    pub teacher_temperature: [f64; 2],
    /// Epochs over which that rises, by as much at the end of each.
    pub teacher_warmup_epochs: usize,
    /// Momentum of the centre, which is taken from what the teacher says.
    pub center_momentum: f64,
    /// Share of pictures whose last block the student drops (arXiv 1603.09382); earlier blocks are dropped less. ResNets drop
    /// none.
    pub drop_path: f64,
    /// Hidden patches, which the student is to tell; absent: DINO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches: Option<Patches>,
    /// Patches of both large views that are compared with each other; absent: none are. Only where patches are hidden.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<Dense>,
}

/// A contrastive loss of patches: those with the largest scores of one large view are alike those of the other, and unlike those
/// with the smallest scores of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dense {
    /// Weight of its loss; that of class tokens has 1.
    pub weight: f64,
    /// What cosines are divided by.
    pub temperature: f64,
    /// Patches of a view with the largest scores.
    pub positives: usize,
    /// Patches of a view with the smallest.
    pub negatives: usize,
}

/// Patches of the large views that the student does not see: how many, and which.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patches {
    /// Weight of the loss of hidden patches; that of class tokens has 1.
    pub weight: f64,
    /// Which patches are hidden.
    pub choice: PatchChoice,
    /// What patches are ranked by; of two the second is for the second view.
    pub score: Vec<PatchScore>,
    /// Block whose attention `raw`, `log` and `pow` read, from 0; of two the second is for the second view. Empty: the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer: Vec<usize>,
    /// The exponent of `pow`.
    pub power: f64,
    /// Ranges of the hidden share; one of them is drawn, then a share of it.
    pub ratio: Vec<[f64; 2]>,
    /// Share of the views of which patches are hidden at all.
    pub share: f64,
    /// What these two are drawn for.
    pub per: PatchPer,
    /// Share of the patches that `hint` takes for the most attended; of these it shows as large a share as is hidden of all.
    pub hint: f64,
    /// Probability that `background` hides a patch of the foreground, and one of the background.
    #[serde(default = "background_biased")]
    pub probability: [f64; 2],
}

/// Which patches are hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PatchChoice {
    /// Rectangles anywhere, as in iBOT
    Block,
    /// Any
    Random,
    /// Those with the largest scores
    High,
    /// Those with the smallest scores
    Low,
    /// Those with the largest scores, but for a few of the very largest (AttMask, arXiv 2203.12719)
    Hint,
    /// Spread over foreground and background in proportion to their sizes (arXiv 2309.12757); what reaches the mean of the
    /// scores is foreground
    Spread,
    /// Each patch by itself, mostly in the background (`--patch-probability`)
    Background,
}

impl PatchChoice {
    /// Whether it looks at scores.
    pub fn looks(self) -> bool {
        matches!(self, Self::High | Self::Low | Self::Hint | Self::Spread | Self::Background)
    }
}

/// What patches are ranked by: mostly the attention that the teacher's class token pays to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PatchScore {
    /// Of one block, mean over heads
    Raw,
    /// The mean of the heads' logarithms
    Log,
    /// The mean of the heads' powers (`--patch-power`)
    Pow,
    /// Carried through all blocks (attention rollout, arXiv 2005.00928)
    RolloutAll,
    /// Carried through the last four blocks
    RolloutLast,
    /// Carried through the four blocks in the middle
    RolloutMid,
    /// No attention: how much the teacher's patches resemble the middle of the view and not its border, in features and colours
    Object,
}

impl PatchScore {
    /// The blocks of `depth` whose attention, or patches, it reads, from the first; `layer` is asked for, where it reads one.
    pub fn blocks(self, layer: Option<usize>, depth: usize) -> std::ops::Range<usize> {
        let from = |first: usize| first..(first + 4).min(depth);
        match self {
            Self::Raw | Self::Log | Self::Pow | Self::Object => {
                let block = layer.unwrap_or(depth.saturating_sub(1));
                block..block + 1
            }
            Self::RolloutAll => 0..depth,
            Self::RolloutLast => from(depth.saturating_sub(4)),
            Self::RolloutMid => from((depth / 2).saturating_sub(2)),
        }
    }

    /// Where the foreground begins, in standard deviations from the mean of a view's scores: as that of the rule of maps that it
    /// is, or is like.
    pub fn deviations(self) -> f64 {
        match self {
            Self::Object => MapRule::Object.deviations(),
            Self::Raw | Self::Log | Self::Pow | Self::RolloutAll | Self::RolloutLast | Self::RolloutMid => {
                MapRule::Attention.deviations()
            }
        }
    }
}

/// What a hidden share is drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PatchPer {
    /// Every view of every picture
    Picture,
    /// All pictures of a batch, as in AttMask's code; whether a view has hidden patches is drawn for each of the two
    /// views
    Batch,
}

impl Dino {
    /// How the teacher follows.
    pub fn follow(&self) -> Momentum {
        Momentum { start: self.momentum_start, end: self.momentum, epochs: self.momentum_warmup_epochs }
    }

    /// The teacher's temperature at a time in epochs: equal steps, one an epoch.
    pub fn temperature_at(&self, epoch: f64) -> f64 {
        let [start, end] = self.teacher_temperature;
        let (epoch, warmup) = (epoch.floor(), self.teacher_warmup_epochs as f64);
        if epoch >= warmup {
            return end;
        }
        start + (end - start) * epoch / (warmup - 1.0).max(1.0)
    }

    pub(super) fn validate(&self, arch: Arch) -> Result<(), Invalid> {
        check(!self.head.bn && !self.head.output_bn, || {
            "`--head-bn true`: heads that distil have no normalisation; hint: leave it out".into()
        })?;
        check(self.prototypes >= 2, || format!("`--prototypes {}`: expected at least 2", self.prototypes))?;
        positive("--temperature", self.temperature)?;
        positive("--teacher-temperature", self.teacher_temperature[0])?;
        positive("--teacher-temperature", self.teacher_temperature[1])?;
        unit("--momentum", self.momentum)?;
        unit("--momentum-start", self.momentum_start)?;
        unit("--center-momentum", self.center_momentum)?;
        check((0.0..1.0).contains(&self.drop_path), || {
            format!("`--drop-path {}`: expected a number from 0 to less than 1", self.drop_path)
        })?;
        check(self.frozen_epochs >= 0.0, || "`--frozen-epochs` must not be negative".into())?;
        self.patches.as_ref().map_or(Ok(()), |p| p.validate(arch))?;
        self.dense.as_ref().map_or(Ok(()), |d| d.validate(self.patches.is_some()))
    }
}

impl Dense {
    fn validate(&self, hides: bool) -> Result<(), Invalid> {
        check(hides, || {
            "patches are compared only where patches are hidden; hint: `--recipe ibot-dense`".into()
        })?;
        check(self.weight >= 0.0 && self.weight.is_finite(), || {
            format!("`--dense-weight {}`: expected 0 or more", self.weight)
        })?;
        positive("--dense-temperature", self.temperature)?;
        check(self.positives >= 1, || "`--dense-positives 0`: expected at least 1".into())?;
        check(self.negatives >= 1, || "`--dense-negatives 0`: expected at least 1".into())
    }

    /// Refuses more than large views of that many patches have.
    pub(super) fn fits(&self, patches: usize) -> Result<(), Invalid> {
        let (k, n) = (self.positives, self.negatives);
        check(k + n <= patches, || {
            format!(
                "`--dense-positives {k}` and `--dense-negatives {n}`: a large view has {patches} patches, expected no more"
            )
        })
    }
}

impl Patches {
    /// What the patches of a view, the first (0) or the second, are ranked by.
    pub fn score_at(&self, view: usize) -> PatchScore {
        self.score.get(view).or(self.score.first()).copied().unwrap_or(PatchScore::Raw)
    }

    /// The same, and of which blocks.
    pub fn score_of(&self, view: usize, depth: usize) -> (PatchScore, std::ops::Range<usize>) {
        let of = |all: &[usize]| all.get(view).or(all.first()).copied();
        let score = self.score_at(view);
        (score, score.blocks(of(&self.layer), depth))
    }

    /// The names of the encoder's values that [`Self::score_of`] is made of, from the first block to the last.
    pub fn taps_of(&self, view: usize, depth: usize) -> Vec<String> {
        let (score, blocks) = self.score_of(view, depth);
        let rule = if score == PatchScore::Object { MapRule::Object } else { MapRule::Attention };
        blocks.map(|block| Making::of_block(rule, block).tap()).collect()
    }

    fn validate(&self, arch: Arch) -> Result<(), Invalid> {
        let Some(vit) = arch.vit() else {
            return Err(Invalid(format!(
                "patches of a vision transformer are hidden, and {arch} has none; hint: `--recipe dino`, or `--arch vit_small_patch16_224`"
            )));
        };
        check(self.weight >= 0.0 && self.weight.is_finite(), || {
            format!("`--patch-weight {}`: expected 0 or more", self.weight)
        })?;
        check((1..=2).contains(&self.score.len()), || {
            format!("`--patch-score`: {} scores for two views, expected one or two", self.score.len())
        })?;
        check(self.layer.len() <= 2, || {
            format!("`--patch-layer`: {} blocks for two views, expected one or two", self.layer.len())
        })?;
        check(self.layer.iter().all(|&layer| layer < vit.depth), || {
            format!("`--patch-layer {:?}`: {arch} has blocks 0 to {}", self.layer, vit.depth - 1)
        })?;
        check(!self.ratio.is_empty(), || "`--patch-ratio`: expected at least one range".into())?;
        check(self.ratio.iter().all(|&[low, high]| 0.0 <= low && low <= high && high < 1.0), || {
            format!("`--patch-ratio {:?}`: expected ranges from 0 to less than 1", self.ratio)
        })?;
        let [inside, outside] = self.probability;
        check(self.probability.iter().all(|p| (0.0..=1.0).contains(p)) && inside + outside > 0.0, || {
            format!("`--patch-probability {inside} {outside}`: expected two numbers from 0 to 1, not both 0")
        })?;
        positive("--patch-power", self.power)?;
        unit("--patch-share", self.share)?;
        unit("--patch-hint", self.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Recipe};
    use super::*;

    fn dino(recipe: Recipe) -> Dino {
        Config::new(recipe).method.dino_mut().expect("DINO").clone()
    }

    /// numpy's `linspace(0.04, 0.07, 30)`, then 0.07.
    #[test]
    fn the_teachers_temperature_rises_by_epochs() {
        let d = dino(Recipe::Dino);
        assert_eq!((d.teacher_temperature, d.teacher_warmup_epochs), ([0.04, 0.07], 30));
        for (epoch, expected) in
            [(0.0, 0.04), (0.99, 0.04), (1.0, 0.04 + 0.03 / 29.0), (29.5, 0.07), (80.0, 0.07)]
        {
            assert!((d.temperature_at(epoch) - expected).abs() < 1e-12, "{epoch}");
        }
        let at = |warmup, epoch| Dino { teacher_warmup_epochs: warmup, ..d.clone() }.temperature_at(epoch);
        assert_eq!((at(0, 0.0), at(1, 0.5), at(1, 1.0)), (0.07, 0.04, 0.07));
    }

    #[test]
    fn scores_read_their_blocks() {
        for (score, layer, depth, blocks) in [
            (PatchScore::Raw, None, 12, 11..12),
            (PatchScore::Log, Some(4), 12, 4..5),
            (PatchScore::Pow, Some(0), 12, 0..1),
            (PatchScore::RolloutAll, Some(4), 12, 0..12),
            (PatchScore::RolloutLast, None, 12, 8..12),
            (PatchScore::RolloutMid, None, 12, 4..8),
            (PatchScore::RolloutLast, None, 2, 0..2),
            (PatchScore::RolloutMid, None, 2, 0..2),
        ] {
            assert_eq!(score.blocks(layer, depth), blocks, "{score:?}");
        }
        let mut p = dino(Recipe::IbotAttmask).patches.expect("hidden");
        assert_eq!(p.score_of(1, 12), (PatchScore::Raw, 11..12));
        (p.score, p.layer) = (vec![PatchScore::Log, PatchScore::Raw], vec![11, 4]);
        assert_eq!(p.score_of(0, 12), (PatchScore::Log, 11..12));
        assert_eq!(p.score_of(1, 12), (PatchScore::Raw, 4..5));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        type Change = fn(&mut Config, &mut Dino);
        let hidden = |d: &mut Dino, change: fn(&mut Patches)| d.patches.as_mut().map_or((), change);
        let cases: [(Change, &str); 15] = [
            (|_, d| d.head.bn = true, "--head-bn"),
            (|_, d| d.prototypes = 1, "--prototypes 1"),
            (|_, d| d.temperature = 0.0, "--temperature"),
            (|_, d| d.teacher_temperature[0] = 0.0, "--teacher-temperature 0"),
            (|_, d| d.center_momentum = 1.1, "--center-momentum 1.1"),
            (|_, d| d.drop_path = 1.0, "--drop-path 1"),
            (|_, d| d.frozen_epochs = -1.0, "--frozen-epochs"),
            (|c, _| c.arch = "resnet50".into(), "resnet50 has none; hint: `--recipe dino`"),
            (|_, d| d.patches.as_mut().expect("hidden").layer = vec![12], "has blocks 0 to 11"),
            (|_, d| d.patches.as_mut().expect("hidden").score.clear(), "--patch-score"),
            (|_, d| d.patches.as_mut().expect("hidden").ratio = vec![[0.5, 1.0]], "--patch-ratio"),
            (|_, d| d.patches.as_mut().expect("hidden").power = 0.0, "--patch-power"),
            (|_, d| d.patches.as_mut().expect("hidden").probability = [0.0, 0.0], "--patch-probability 0 0"),
            (|c, _| c.views[2].size = Some(40), "40 px"),
            (|c, _| c.masking = Config::new(Recipe::SaliencyMoco).masking, "has no masks of pixels"),
        ];
        for (change, part) in cases {
            let mut c = Config::new(Recipe::Ibot);
            let mut d = dino(Recipe::Ibot);
            change(&mut c, &mut d);
            *c.method.dino_mut().expect("DINO") = d;
            let message = c.validate().expect_err("refused").0;
            assert!(message.contains(part), "{message}");
        }
        let mut d = dino(Recipe::Ibot);
        hidden(&mut d, |p| p.share = 2.0);
        let vit = "vit_tiny_patch16_224".parse().expect("a network");
        assert!(d.validate(vit).expect_err("refused").0.contains("--patch-share 2"));
        let mut resnet = Config::new(Recipe::Dino);
        resnet.arch = "resnet50".into();
        resnet.validate().expect("DINO on a ResNet is published, too");
        resnet.masking = Config::new(Recipe::SaliencyMocoSmall).masking;
        assert!(resnet.validate().expect_err("refused").0.contains("has no masks of pixels"));
    }

    #[test]
    fn compared_patches_that_cannot_be_are_refused_by_name() {
        type Change = fn(&mut Dino);
        let cases: [(Change, &str); 6] = [
            (|d| d.patches = None, "--recipe ibot-dense"),
            (|d| d.dense.as_mut().expect("compared").weight = -1.0, "--dense-weight -1"),
            (|d| d.dense.as_mut().expect("compared").temperature = 0.0, "--dense-temperature 0"),
            (|d| d.dense.as_mut().expect("compared").positives = 0, "--dense-positives 0"),
            (|d| d.dense.as_mut().expect("compared").negatives = 0, "--dense-negatives 0"),
            (|d| d.dense.as_mut().expect("compared").negatives = 194, "a large view has 196 patches"),
        ];
        for (change, part) in cases {
            let mut c = Config::new(Recipe::IbotDense);
            change(c.method.dino_mut().expect("DINO"));
            let message = c.validate().expect_err("refused").0;
            assert!(message.contains(part), "{message}");
        }
    }

    /// Configurations of earlier versions have none of the fields that came later.
    #[test]
    fn what_an_old_configuration_does_not_say_is_as_it_was() {
        let recent = dino(Recipe::Ibot);
        let mut json = serde_json::to_value(&recent).expect("JSON");
        assert!(json.get("dense").is_none());
        assert!(json["patches"].as_object_mut().expect("an object").remove("probability").is_some());
        assert_eq!(serde_json::from_value::<Dino>(json).expect("readable"), recent);
    }
}
