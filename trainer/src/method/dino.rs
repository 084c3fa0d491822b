//! DINO (arXiv 2104.14294): a network tells, of a part of a picture, what its moving average says of another part, as a choice among
//! prototypes. iBOT on it (arXiv 2111.07832): it tells of patches that it does not see what the other says, which does; which
//! patches, attention may say (AttMask, arXiv 2203.12719).

use anyhow::{Context, Result, bail};
use occlude_encoder::TapId;
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use super::{Health, Method, Preview, Step, StepOutput, Views, show};
use crate::config::{self, Config, Patches};
use crate::loss::{distillation, normalize};
use crate::mask::enlarge;
use crate::mask::patches::{self, HiddenPatches};
use crate::model::{Branch, Encoder, Follower, Hidden, Mode, Named, Prototypes, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};

/// DINO, or iBOT where patches are hidden.
pub struct Dino {
    settings: config::Dino,
    seed: u64,
    bf16: bool,
    student: Branch,
    teacher: Follower,
    /// Mean of what the teacher says of class tokens, `(1, K)`, and of patches.
    centers: [Tensor; 2],
    hiding: Option<Hiding>,
}

/// What there is besides where patches are hidden.
struct Hiding {
    settings: Patches,
    /// What the student sees in place of hidden patches, `(1, D)`.
    token: Tensor,
    patch: usize,
    /// Tokens that are no patches.
    before: i64,
    /// All tokens behind the last normalisation.
    tokens: TapId,
    /// Of the blocks that are asked for, in rising order, number and attention.
    attention: Vec<(usize, TapId)>,
    depth: usize,
}

/// What the teacher makes of the two large views, those of all first ones first.
struct Taught {
    /// `(2 B, D)`.
    embedding: Tensor,
    /// In front of the prototypes, normalised, `(2 B, d)`.
    class: Tensor,
    /// The same of patches, `(2 B T, d)`, and the attention of [`Hiding::attention`].
    patches: Option<(Tensor, Vec<Tensor>)>,
}

/// What the student makes of all views.
struct Learnt {
    /// In front of the prototypes, normalised, `(V B, d)`.
    class: Tensor,
    /// The same of hidden patches, `(M, d)`.
    patches: Option<Tensor>,
}

/// The names of the centres in checkpoints, those of iBOT's code.
const CENTERS: [&str; 2] = ["center", "center2"];
const TOKEN: &str = "mask_token";

impl Hiding {
    fn new(settings: &Patches, encoder: &Encoder, device: Device) -> Result<Self> {
        let (graph, arch) = (encoder.graph(), encoder.arch());
        let vit = arch.vit().with_context(|| format!("{arch} has no patches to hide"))?;
        let tap = |name: &str| graph.tap(name).with_context(|| format!("{arch} has no tap `{name}`"));
        let mut blocks: Vec<usize> = match settings.choice.ranks() {
            true => [0, 1].into_iter().flat_map(|view| settings.score_of(view, vit.depth).1).collect(),
            false => Vec::new(),
        };
        blocks.sort_unstable();
        blocks.dedup();
        let attention = blocks.into_iter().map(|i| Ok((i, tap(&format!("attention{i}"))?)));
        Ok(Self {
            settings: settings.clone(),
            token: Tensor::zeros([1, vit.width as i64], (Kind::Float, device)).set_requires_grad(true),
            patch: vit.patch,
            before: graph.prefix() as i64,
            tokens: tap("tokens")?,
            attention: attention.collect::<Result<_>>()?,
            depth: vit.depth,
        })
    }

    /// Patches along the sides of a view.
    fn grid(&self, view: &Tensor) -> [usize; 2] {
        let size = view.size();
        [size[2], size[3]].map(|side| side as usize / self.patch)
    }

    /// Patches of all views below each other. Shape: `(N, T + before, D)` to `(N T, D)`.
    fn patches(&self, tokens: &Tensor) -> Tensor {
        tokens.narrow(1, self.before, tokens.size()[1] - self.before).flatten(0, 1)
    }

    /// The patches of both views by rank, where ranks say which are hidden. `attention`: of both views of B pictures.
    fn order(&self, attention: &[Tensor]) -> Option<Tensor> {
        let pictures = attention.first()?.size()[0] / 2;
        let scores = [0, 1].map(|view| {
            let (score, blocks) = self.settings.score_of(view, self.depth);
            let read = self.attention.iter().zip(attention).filter(|((i, _), _)| blocks.contains(i));
            let maps: Vec<Tensor> =
                read.map(|(_, map)| map.narrow(0, view as i64 * pictures, pictures)).collect();
            patches::scores(score, self.settings.power, &maps, self.before)
        });
        Some(patches::order(self.settings.choice, &Tensor::cat(&scores, 0)))
    }
}

impl Dino {
    /// Fresh networks. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration is another method's, or patches of a network without any are to be hidden.
    pub fn new(config: &Config, bf16: bool, device: Device) -> Result<Self> {
        let config::Method::Dino(settings) = &config.method else { bail!("the configuration is not DINO's") };
        let student = Branch::distilling(config.architecture()?, config.seed, settings, device);
        let teacher = Follower::new(&student, settings.follow(), false);
        student.encoder().set_drop_path(settings.drop_path);
        let hides = settings.patches.as_ref();
        let hiding = hides.map(|p| Hiding::new(p, student.encoder(), device)).transpose()?;
        let center = || Tensor::zeros([1, settings.prototypes as i64], (Kind::Float, device));
        Ok(Self {
            settings: settings.clone(),
            seed: config.seed,
            bf16,
            student,
            teacher,
            centers: [center(), center()],
            hiding,
        })
    }

    /// What the teacher says of both large views, `(2 B, 3, S, S)`.
    fn teach(&self, pair: &Tensor) -> Taught {
        let _key = within(Phase::Key);
        let _guard = Autocast::bf16(pair.device(), self.bf16);
        let (branch, mode) = (self.teacher.branch(), self.teacher.mode(1));
        let Some(hiding) = &self.hiding else {
            let embedding = branch.encode(pair, mode, &[]).embedding;
            return Taught { class: normalize(&branch.head(&embedding, mode)), embedding, patches: None };
        };
        let want: Vec<TapId> =
            std::iter::once(hiding.tokens).chain(hiding.attention.iter().map(|(_, tap)| *tap)).collect();
        let mut output = branch.encode(pair, mode, &want);
        let attention = output.taps.split_off(1);
        let of_patches = normalize(&branch.head(&hiding.patches(&output.taps[0]), mode));
        Taught {
            class: normalize(&branch.head(&output.embedding, mode)),
            embedding: output.embedding,
            patches: Some((of_patches, attention)),
        }
    }

    /// Which patches of the two large views the student does not see.
    fn hide(&self, pair: &Tensor, attention: &[Tensor], step: Step) -> Option<HiddenPatches> {
        let hiding = self.hiding.as_ref()?;
        let _mask = within(Phase::Mask);
        let [h, w] = hiding.grid(pair);
        let pictures = pair.size()[0] as usize / 2;
        let mut rng = stream(self.seed, Domain::Mask, step.number, 0);
        let drawn = patches::draw(&hiding.settings, [h, w], pictures, &mut rng);
        patches::hidden(&drawn, h * w, hiding.order(attention).as_ref(), pair.device())
    }

    /// What the student makes of the large views, some patches of which are hidden, and of all others; with its graph.
    fn learn(&self, pair: &Tensor, more: &[Tensor], hidden: Option<&HiddenPatches>) -> Learnt {
        let _query = within(Phase::Query);
        let _guard = Autocast::bf16(pair.device(), self.bf16);
        let mode = Mode::Train { splits: 1 };
        let both = self.hiding.as_ref().zip(hidden);
        let token = both.map(|(hiding, hidden)| Hidden { mask: &hidden.mask, token: &hiding.token });
        let want: Vec<TapId> = both.iter().map(|(hiding, _)| hiding.tokens).collect();
        let output = self.student.encode_hidden(pair, mode, &want, token.as_ref());
        let mut features = vec![output.embedding];
        // views of one size are one batch
        for alike in more.chunk_by(|a, b| a.size() == b.size()) {
            features.push(self.student.encode(&Tensor::cat(alike, 0), mode, &[]).embedding);
        }
        let classes = features.iter().map(|f| f.size()[0]).sum();
        if let (Some((hiding, hidden)), Some(tokens)) = (both, output.taps.first()) {
            let patches = hiding.patches(tokens).to_kind(Kind::Float);
            features.push(patches.index_select(0, &hidden.places));
        }
        let all = normalize(&self.student.head(&Tensor::cat(&features, 0), mode));
        let patches = all.size()[0] - classes;
        Learnt {
            class: all.narrow(0, 0, classes),
            patches: (patches > 0).then(|| all.narrow(0, classes, patches)),
        }
    }

    /// The prototypes of a branch, `(d, K)`, without a graph where `frozen`.
    fn prototypes(branch: &Branch, frozen: bool) -> Tensor {
        let known = branch.prototypes().map(|p| Prototypes::weights(p, frozen));
        known.unwrap_or_else(|| unreachable!("branches of this method have prototypes")).transpose(0, 1)
    }

    /// Targets of class tokens `(2 B, K)` and of hidden patches `(M, K)`; then the centres move.
    fn targets(
        &self,
        taught: &Taught,
        hidden: Option<&HiddenPatches>,
        epoch: f64,
    ) -> (Tensor, Option<Tensor>) {
        let prototypes = Self::prototypes(self.teacher.branch(), true);
        let temperature = self.settings.temperature_at(epoch);
        let says = |x: &Tensor, center| distillation::targets(&x.matmul(&prototypes), center, temperature);
        let class = says(&taught.class, &self.centers[0]);
        let seen = taught.patches.as_ref().map(|(patches, _)| patches);
        let patches = seen.zip(hidden).map(|(p, h)| says(&p.index_select(0, &h.places), &self.centers[1]));
        for (center, x) in self.centers.iter().zip([Some(&taught.class), seen]) {
            let Some(x) = x else { continue };
            // logits are linear in what is compared with prototypes, and so is their mean
            let mean = x.mean_dim([0i64].as_slice(), true, Kind::Float).matmul(&prototypes);
            let kept = self.settings.center_momentum;
            let _ = center.shallow_clone().g_mul_scalar_(kept).g_add_(&(mean * (1.0 - kept)));
        }
        (class, patches)
    }

    /// The losses of class tokens and of patches, and the targets of class tokens.
    fn losses(
        &self,
        taught: &Taught,
        learnt: &Learnt,
        hidden: Option<&HiddenPatches>,
        epoch: f64,
    ) -> [Tensor; 3] {
        let _loss = within(Phase::Loss);
        let (class, patches) = tch::no_grad(|| self.targets(taught, hidden, epoch));
        let prototypes = Self::prototypes(&self.student, epoch < self.settings.frozen_epochs);
        let (temperature, views) = (self.settings.temperature, class.size()[0]);
        let of_class = distillation::class_loss(&class, &learnt.class.matmul(&prototypes), temperature);
        let of_patches = match (&learnt.patches, patches, hidden) {
            (Some(x), Some(targets), Some(HiddenPatches { weights, .. })) => {
                distillation::patch_loss(&targets, &x.matmul(&prototypes), weights, views, temperature)
            }
            _ => of_class.zeros_like(),
        };
        [of_class, of_patches, class]
    }

    /// What readers of a metric line see.
    fn metrics(&self, [of_class, of_patches, targets]: &[Tensor; 3]) -> Vec<(&'static str, Tensor)> {
        let entropy = distillation::entropies(targets).mean(Kind::Float);
        let mean = targets.mean_dim([0i64].as_slice(), true, Kind::Float);
        let used = distillation::entropies(&mean).exp().mean(Kind::Float);
        let patches = self.hiding.as_ref().map(|_| ("patch_loss", of_patches.detach()));
        let all = [("class_loss", of_class.detach())].into_iter().chain(patches);
        all.chain([("target_entropy", entropy), ("prototypes_used", used)]).collect()
    }

    /// Adds the large views without their hidden patches to the pictures.
    fn show_hidden(preview: &mut Option<Preview>, pair: &Tensor, grid: [usize; 2], hidden: &HiddenPatches) {
        let [h, w] = grid.map(|n| n as i64);
        let mask = hidden.mask.to_kind(Kind::Float).view([-1, 1, h, w]);
        let seen: Tensor = pair * (1.0 - enlarge(&mask, pair.size()[3]));
        seen.chunk(2, 0).iter().for_each(|view| show(preview, "what the student sees", view));
    }
}

impl Method for Dino {
    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let mut preview = step.preview.then(Preview::default);
        for (title, v) in ["view 1", "view 2"].into_iter().zip(views.pair()) {
            show(&mut preview, title, v);
        }
        let (taught, pair, hidden) = tch::no_grad(|| {
            let pair = Tensor::cat(&views.pair(), 0); // (2 B, 3, S, S)
            let taught = self.teach(&pair);
            let attention = taught.patches.as_ref().map_or(&[][..], |(_, attention)| attention);
            let hidden = self.hide(&pair, attention, step);
            (taught, pair, hidden)
        });
        if let (Some(hiding), Some(hidden)) = (&self.hiding, &hidden) {
            Self::show_hidden(&mut preview, &pair, hiding.grid(&pair), hidden);
        }
        let learnt = self.learn(&pair, views.more(), hidden.as_ref());
        let losses = self.losses(&taught, &learnt, hidden.as_ref(), step.epoch);
        let weight = self.hiding.as_ref().map_or(0.0, |h| h.settings.weight);
        let loss =
            if self.hiding.is_some() { &losses[0] + &losses[1] * weight } else { losses[0].shallow_clone() };
        let (mut health, mut metrics) = (None, Vec::new());
        if step.measure {
            let _metrics = within(Phase::Metrics);
            tch::no_grad(|| {
                let half = pair.size()[0] / 2;
                let [q, k] = [learnt.class.narrow(0, 0, half), taught.class.narrow(0, half, half)];
                health = Some(Health::of(&q, &k, &taught.embedding.narrow(0, 0, half)));
                metrics = self.metrics(&losses);
            });
        }
        Ok(StepOutput { loss, health, metrics, preview })
    }

    fn after_step(&mut self, step: Step) -> Result<()> {
        let _ema = within(Phase::Ema);
        self.teacher.follow(&self.student, step.epoch)
    }

    fn trainable(&self) -> Vec<Named> {
        let token = self.hiding.iter().map(|h| Named::new(TOKEN, &h.token));
        self.student.trainable().into_iter().chain(token).collect()
    }

    fn state(&self) -> Vec<Named> {
        let token = self.hiding.iter().map(|h| Named::new(TOKEN, &h.token));
        let centers = if self.hiding.is_some() { 2 } else { 1 };
        let centers = CENTERS.iter().zip(&self.centers).take(centers).map(|(n, t)| Named::new(*n, t));
        let branches = self.student.named().into_iter().chain(self.teacher.branch().named());
        branches.chain(token).chain(centers).collect()
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load_branches(&self.state(), &[&self.student, self.teacher.branch()], state)
    }

    /// The teacher's, which is the better of the two as long as they learn.
    fn branch(&self) -> &Branch {
        self.teacher.branch()
    }
}

#[cfg(test)]
mod tests;
