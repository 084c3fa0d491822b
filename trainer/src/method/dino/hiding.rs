//! What an iBOT has besides a DINO: which patches its student does not see, and which of them are compared with each other.

use anyhow::{Context, Result, ensure};
use occlude_distributed::World;
use occlude_encoder::{TapId, Vit};
use tch::{Device, Kind, Tensor};

use crate::config::{Config, Dense, Dino, PatchChoice, PatchScore, Patches};
use crate::maps::{MapRule, Pictures, maps};
use crate::mask::patches::{self, HiddenPatches};
use crate::model::Encoder;
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};
use crate::share::Share;

/// What there is where patches are hidden.
pub(super) struct Hiding {
    pub(super) settings: Patches,
    pub(super) dense: Option<Dense>,
    /// What the student sees in place of hidden patches, `(1, D)`.
    pub(super) token: Tensor,
    /// All tokens behind the last normalisation.
    pub(super) tokens: TapId,
    /// The values of the teacher that scores are made of, by name.
    seen: Vec<(String, TapId)>,
    vit: Vit,
    seed: u64,
    /// Of the run's normalisation.
    std: [f32; 3],
    /// Draws are for the batches of all ranks.
    share: Share,
}

/// The patches of both large views that are compared: places among all `2 B T`.
pub(super) struct Compared {
    /// The best of each view, `(2 B k)`.
    pub(super) best: Tensor,
    /// The worst, `(2 B n)`.
    pub(super) worst: Tensor,
}

impl Hiding {
    pub(super) fn new(
        config: &Config,
        dino: &Dino,
        settings: &Patches,
        encoder: &Encoder,
        device: Device,
    ) -> Result<Self> {
        let (graph, arch) = (encoder.graph(), encoder.arch());
        let vit = arch.vit().with_context(|| format!("{arch} has no patches to hide"))?;
        let tap = |name: &str| graph.tap(name).with_context(|| format!("{arch} has no tap `{name}`"));
        let mut names: Vec<String> = Vec::new();
        if settings.choice.looks() || dino.dense.is_some() {
            for name in [0, 1].into_iter().flat_map(|view| settings.taps_of(view, vit.depth)) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        let seen = names.into_iter().map(|name| tap(&name).map(|tap| (name, tap)));
        Ok(Self {
            settings: settings.clone(),
            dense: dino.dense.clone(),
            token: Tensor::zeros([1, vit.width as i64], (Kind::Float, device)).set_requires_grad(true),
            tokens: tap("tokens")?,
            seen: seen.collect::<Result<_>>()?,
            vit,
            seed: config.seed,
            std: config.preprocess().std,
            share: Share::ALL,
        })
    }

    /// From now on pictures are those of this rank.
    ///
    /// # Errors
    /// Where patches are drawn on the device, without a look at other ranks.
    pub(super) fn join(&mut self, world: &World) -> Result<()> {
        ensure!(
            !matches!(self.settings.choice, PatchChoice::Spread | PatchChoice::Background),
            "patches hidden by foreground and background are for one process only; hint: another `--patch-choice`"
        );
        self.share = Share::of(world);
        Ok(())
    }

    /// The teacher's values that this asks for: its tokens, and what scores are made of.
    pub(super) fn wanted(&self) -> Vec<TapId> {
        std::iter::once(self.tokens).chain(self.seen.iter().map(|(_, tap)| *tap)).collect()
    }

    /// Patches along the sides of a view.
    pub(super) fn grid(&self, view: &Tensor) -> [usize; 2] {
        let size = view.size();
        [size[2], size[3]].map(|side| side as usize / self.vit.patch)
    }

    /// Patches of all views below each other. Shape: `(N, T + before, D)` to `(N T, D)`.
    pub(super) fn patches(&self, tokens: &Tensor) -> Tensor {
        let before = self.vit.prefix() as i64;
        tokens.narrow(1, before, tokens.size()[1] - before).flatten(0, 1)
    }

    /// Of vectors `(N m, d)` those of each of N views, `(N, m, d)`.
    pub(super) fn by_view(x: &Tensor, views: i64) -> Tensor {
        x.unflatten(0, [views, x.size()[0] / views])
    }

    /// The scores of the patches of both views of B pictures, `(2 B, T)`, by what the teacher makes of them (`wanted` but for
    /// the first); none where nobody asks.
    pub(super) fn scores(&self, teacher: &Encoder, pair: &Tensor, seen: &[Tensor]) -> Option<Tensor> {
        if self.seen.is_empty() {
            return None;
        }
        let (pictures, size) = (pair.size()[0] / 2, pair.size());
        let of_view = |view: usize| {
            let part = |x: &Tensor| x.narrow(0, view as i64 * pictures, pictures);
            let (score, _) = self.settings.score_of(view, self.vit.depth);
            let names = self.settings.taps_of(view, self.vit.depth);
            // in the order of the blocks, which rollouts go by
            let read: Vec<(TapId, Tensor)> = names
                .iter()
                .filter_map(|name| self.seen.iter().position(|(seen, _)| seen == name))
                .map(|i| (self.seen[i].1, part(&seen[i])))
                .collect();
            if score == PatchScore::Object {
                let (tap, tokens) = &read[0];
                let features = teacher.map(*tap, tokens, [size[2], size[3]]);
                let pictures = Pictures { pixels: &part(pair), std: self.std };
                return maps(MapRule::Object, &features, pictures).flatten(1, 2);
            }
            let attention: Vec<Tensor> = read.into_iter().map(|(_, value)| value).collect();
            patches::scores(score, self.settings.power, &attention, self.vit.prefix() as i64)
        };
        Some(Tensor::cat(&[of_view(0), of_view(1)], 0))
    }

    /// Which patches of the two large views the student does not see in that step.
    pub(super) fn hide(&self, pair: &Tensor, scores: Option<&Tensor>, step: u64) -> Option<HiddenPatches> {
        let _mask = within(Phase::Mask);
        let grid = self.grid(pair);
        let pictures = self.share.all(pair.size()[0] / 2) as usize;
        let mut rng = stream(self.seed, Domain::Mask, step, 0);
        let drawn = patches::draw(&self.settings, grid, pictures, &mut rng).part(self.share);
        patches::hidden(&self.settings, &drawn, grid, scores, pair.device())
    }

    /// The patches of the two large views that are compared, where some are.
    pub(super) fn compare(&self, scores: Option<&Tensor>) -> Option<Compared> {
        let (dense, scores) = (self.dense.as_ref()?, scores?);
        let (views, patches) = scores.size2().unwrap_or_else(|e| panic!("scores are (N, T): {e}"));
        let order = scores.argsort_stable(true, 1, true);
        let rows = Tensor::arange(views, (Kind::Int64, scores.device())).unsqueeze(1) * patches;
        let places = |start: i64, count: i64| (order.narrow(1, start, count) + &rows).flatten(0, 1);
        let (k, n) = (dense.positives as i64, dense.negatives as i64);
        Some(Compared { best: places(0, k), worst: places(patches - n, n) })
    }
}
