//! DINO (arXiv 2104.14294): a network tells, of a part of a picture, what its moving average says of another part, as a choice among
//! prototypes. iBOT on it (arXiv 2111.07832): it tells of patches that it does not see what the other says, which does; which
//! patches, attention may say (AttMask, arXiv 2203.12719).

mod hiding;

use anyhow::{Result, bail};
use occlude_distributed::World;
use occlude_encoder::TapId;
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use super::{Health, Method, Preview, Step, StepOutput, Views, show};
use crate::config::{self, Config};
use crate::loss::dense::dense_loss;
use crate::loss::{distillation, normalize};
use crate::mask::enlarge;
use crate::mask::patches::HiddenPatches;
use crate::model::{Branch, Follower, Hidden, Mode, Named, Prototypes, load_branches};
use crate::phase::{Phase, within};
use hiding::{Compared, Hiding};

/// DINO, or iBOT where patches are hidden.
pub struct Dino {
    settings: config::Dino,
    bf16: bool,
    student: Branch,
    teacher: Follower,
    /// Mean of what the teacher says of class tokens, `(1, K)`, and of patches.
    centers: [Tensor; 2],
    hiding: Option<Hiding>,
    world: World,
}

/// What the teacher makes of the two large views, those of all first ones first.
struct Taught {
    /// `(2 B, D)`.
    embedding: Tensor,
    /// In front of the prototypes, normalised, `(2 B, d)`.
    class: Tensor,
    /// The same of patches, `(2 B T, d)`.
    patches: Option<Tensor>,
    /// Scores of patches, `(2 B, T)`, where anything looks at them.
    scores: Option<Tensor>,
}

/// What the student makes of all views.
struct Learnt {
    /// In front of the prototypes, normalised, `(V B, d)`.
    class: Tensor,
    /// The same of hidden patches, `(M, d)`.
    patches: Option<Tensor>,
    /// The same of patches that are compared, `(2 B, k, d)`.
    compared: Option<Tensor>,
}

/// Losses, and what metrics are taken from besides.
struct Losses {
    of_class: Tensor,
    of_patches: Option<Tensor>,
    of_compared: Option<Tensor>,
    /// Of class tokens, `(2 B, K)`.
    targets: Tensor,
}

/// The names of the centres in checkpoints, those of iBOT's code.
const CENTERS: [&str; 2] = ["center", "center2"];
const TOKEN: &str = "mask_token";

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
        let hiding = hides.map(|p| Hiding::new(config, settings, p, student.encoder(), device));
        let hiding = hiding.transpose()?;
        let center = || Tensor::zeros([1, settings.prototypes as i64], (Kind::Float, device));
        let (centers, world) = ([center(), center()], World::single());
        Ok(Self { settings: settings.clone(), bf16, student, teacher, centers, hiding, world })
    }

    /// What the teacher says of both large views, `(2 B, 3, S, S)`.
    fn teach(&self, pair: &Tensor) -> Taught {
        let _key = within(Phase::Key);
        let _guard = Autocast::bf16(pair.device(), self.bf16);
        let (branch, mode) = (self.teacher.branch(), self.teacher.mode(1));
        let Some(hiding) = &self.hiding else {
            let embedding = branch.encode(pair, mode, &[]).embedding;
            let class = normalize(&branch.head(&embedding, mode));
            return Taught { class, embedding, patches: None, scores: None };
        };
        let mut output = branch.encode(pair, mode, &hiding.wanted());
        let seen = output.taps.split_off(1);
        let of_patches = normalize(&branch.head(&hiding.patches(&output.taps[0]), mode));
        Taught {
            class: normalize(&branch.head(&output.embedding, mode)),
            embedding: output.embedding,
            patches: Some(of_patches),
            scores: hiding.scores(branch.encoder(), pair, &seen),
        }
    }

    /// Which patches of the two large views the student does not see, and which are compared.
    fn choose(
        &self,
        pair: &Tensor,
        scores: Option<&Tensor>,
        step: Step,
    ) -> (Option<HiddenPatches>, Option<Compared>) {
        let Some(hiding) = &self.hiding else { return (None, None) };
        (hiding.hide(pair, scores, step.number), hiding.compare(scores))
    }

    /// What the student makes of the large views, some patches of which are hidden, and of all others; with its graph.
    fn learn(
        &self,
        pair: &Tensor,
        more: &[Tensor],
        hidden: Option<&HiddenPatches>,
        compared: Option<&Compared>,
    ) -> Learnt {
        let _query = within(Phase::Query);
        let _guard = Autocast::bf16(pair.device(), self.bf16);
        let mode = Mode::Train { splits: 1 };
        let both = self.hiding.as_ref().zip(hidden);
        let token = both.map(|(hiding, hidden)| Hidden { mask: &hidden.mask, token: &hiding.token });
        let reads = self.hiding.as_ref().filter(|_| hidden.is_some() || compared.is_some());
        let want: Vec<TapId> = reads.iter().map(|hiding| hiding.tokens).collect();
        let output = self.student.encode_hidden(pair, mode, &want, token.as_ref());
        let mut features = vec![output.embedding];
        // views of one size are one batch
        for alike in more.chunk_by(|a, b| a.size() == b.size()) {
            features.push(self.student.encode(&Tensor::cat(alike, 0), mode, &[]).embedding);
        }
        let classes: i64 = features.iter().map(|f| f.size()[0]).sum();
        let places = [hidden.map(|h| &h.places), compared.map(|c| &c.best)];
        if let (Some(hiding), Some(tokens)) = (reads, output.taps.first()) {
            let patches = hiding.patches(tokens).to_kind(Kind::Float);
            features.extend(places.iter().flatten().map(|places| patches.index_select(0, places)));
        }
        let all = normalize(&self.student.head(&Tensor::cat(&features, 0), mode));
        let mut at = classes;
        let [patches, compared] = places.map(|places| {
            places.map(|places| {
                let count = places.size()[0];
                at += count;
                all.narrow(0, at - count, count)
            })
        });
        Learnt {
            class: all.narrow(0, 0, classes),
            patches,
            compared: compared.map(|x| Hiding::by_view(&x, pair.size()[0])),
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
    ) -> Result<(Tensor, Option<Tensor>)> {
        let prototypes = Self::prototypes(self.teacher.branch(), true);
        let temperature = self.settings.temperature_at(epoch);
        let says = |x: &Tensor, center| distillation::targets(&x.matmul(&prototypes), center, temperature);
        let class = says(&taught.class, &self.centers[0]);
        let seen = taught.patches.as_ref();
        let patches = seen.zip(hidden).map(|(p, h)| says(&p.index_select(0, &h.places), &self.centers[1]));
        for (center, x) in self.centers.iter().zip([Some(&taught.class), seen]) {
            let Some(x) = x else { continue };
            // logits are linear in what is compared with prototypes, and so is their mean
            let mean = self.world.mean(&x.mean_dim([0i64].as_slice(), true, Kind::Float), "centres")?;
            let mean = mean.matmul(&prototypes);
            let kept = self.settings.center_momentum;
            let _ = center.shallow_clone().g_mul_scalar_(kept).g_add_(&(mean * (1.0 - kept)));
        }
        Ok((class, patches))
    }

    fn losses(
        &self,
        taught: &Taught,
        learnt: &Learnt,
        (hidden, compared): (Option<&HiddenPatches>, Option<&Compared>),
        epoch: f64,
    ) -> Result<Losses> {
        let _loss = within(Phase::Loss);
        let (class, patches) = tch::no_grad(|| self.targets(taught, hidden, epoch))?;
        let prototypes = Self::prototypes(&self.student, epoch < self.settings.frozen_epochs);
        let (temperature, views) = (self.settings.temperature, class.size()[0]);
        let of_class = distillation::class_loss(&class, &learnt.class.matmul(&prototypes), temperature);
        let of_patches = match (&learnt.patches, patches, hidden) {
            (Some(x), Some(targets), Some(HiddenPatches { weights, .. })) => {
                distillation::patch_loss(&targets, &x.matmul(&prototypes), weights, views, temperature)
            }
            _ => of_class.zeros_like(),
        };
        let of_compared = match (&self.settings.dense, &learnt.compared, &taught.patches, compared) {
            (Some(dense), Some(student), Some(said), Some(Compared { best, worst })) => {
                let of = |places| Hiding::by_view(&said.index_select(0, places), views);
                Some(dense_loss(student, &of(best), &of(worst), dense.temperature))
            }
            _ => None,
        };
        let of_patches = self.hiding.is_some().then_some(of_patches);
        Ok(Losses { of_class, of_patches, of_compared, targets: class })
    }

    /// All of them by their weights.
    fn total(&self, losses: &Losses) -> Tensor {
        let weight = |part: Option<f64>| part.unwrap_or_default();
        let patches = weight(self.hiding.as_ref().map(|h| h.settings.weight));
        let dense = weight(self.settings.dense.as_ref().map(|d| d.weight));
        let more = [(&losses.of_patches, patches), (&losses.of_compared, dense)];
        let first = losses.of_class.shallow_clone();
        more.into_iter().fold(first, |sum, (loss, weight)| match loss {
            Some(loss) => sum + loss * weight,
            None => sum,
        })
    }

    /// What readers of a metric line see.
    fn metrics(&self, losses: &Losses) -> Result<Vec<(&'static str, Tensor)>> {
        let targets = &losses.targets;
        let entropy = distillation::entropies(targets).mean(Kind::Float);
        let mean = self.world.mean(&targets.mean_dim([0i64].as_slice(), true, Kind::Float), "targets")?;
        let used = distillation::entropies(&mean).exp().mean(Kind::Float);
        let mut all = vec![("class_loss", losses.of_class.detach())];
        all.extend(losses.of_patches.as_ref().map(|loss| ("patch_loss", loss.detach())));
        all.extend(losses.of_compared.as_ref().map(|loss| ("dense_loss", loss.detach())));
        all.extend([("target_entropy", entropy), ("prototypes_used", used)]);
        Ok(all)
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
    fn join(&mut self, world: &World) -> Result<()> {
        self.hiding.as_mut().map_or(Ok(()), |hiding| hiding.join(world))?;
        self.student.join(world);
        self.teacher.join(world);
        self.world = world.clone();
        Ok(())
    }

    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let mut preview = step.preview.then(Preview::default);
        let first = views.pair()?;
        if !self.world.is_single() {
            self.student.encoder().set_pictures(first[0].size()[0]);
        }
        for (title, v) in ["view 1", "view 2"].into_iter().zip(first) {
            show(&mut preview, title, v);
        }
        let (taught, pair, (hidden, compared)) = tch::no_grad(|| {
            let pair = Tensor::cat(&first, 0); // (2 B, 3, S, S)
            let taught = self.teach(&pair);
            let chosen = self.choose(&pair, taught.scores.as_ref(), step);
            (taught, pair, chosen)
        });
        if let (Some(hiding), Some(hidden)) = (&self.hiding, &hidden) {
            Self::show_hidden(&mut preview, &pair, hiding.grid(&pair), hidden);
        }
        let learnt = self.learn(&pair, views.more(), hidden.as_ref(), compared.as_ref());
        let losses = self.losses(&taught, &learnt, (hidden.as_ref(), compared.as_ref()), step.epoch)?;
        let loss = self.total(&losses);
        let (mut health, mut metrics) = (None, Vec::new());
        if step.measure {
            let _metrics = within(Phase::Metrics);
            tch::no_grad(|| {
                let half = pair.size()[0] / 2;
                let all = |x: &Tensor| self.world.gather(x, "features and projections");
                let [q, k] = [learnt.class.narrow(0, 0, half), taught.class.narrow(0, half, half)];
                health = Some(Health::of(&all(&q)?, &all(&k)?, &all(&taught.embedding.narrow(0, 0, half))?));
                metrics = self.metrics(&losses)?;
                Ok::<(), anyhow::Error>(())
            })?;
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
