//! BYOL (arXiv 2006.07733), and LEWEL on it (arXiv 2203.14898): a network predicts what its moving average says of
//! another view of the picture. Plain, with masking (arXiv 2309.12757), or with mixtures (arXiv 2210.11456).

use anyhow::{Result, bail};
use occlude_distributed::World;
use occlude_encoder::Mlp as Description;
use occlude_torch_ext::Autocast;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::occluder::{Occluder, Side};
use super::view::View;
use super::{Health, Method, Preview, Step, StepOutput, Views, show, show_maps};
use crate::config::{self, Config, Mixing, TargetNorm};
use crate::loss::{distances, normalize};
use crate::mask::Purpose;
use crate::mix::{self, Mixed};
use crate::model::{Branch, Follower, Head, Init, Mlp, Mode, Named, Projected, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};

/// BYOL: plain, with aligned embeddings, with masking, or with mixtures.
pub struct Byol {
    settings: config::Byol,
    mixing: Option<Mixing>,
    seed: u64,
    bf16: bool,
    online: Branch,
    target: Follower,
    /// The predictor, and that of aligned embeddings where there are such.
    predictors: Vec<Head>,
    occluder: Occluder,
    world: World,
}

/// Projections of a batch, or predictions of them.
struct Vectors {
    /// `(B, d)`.
    global: Tensor,
    /// `(B, n, d)`.
    aligned: Option<Tensor>,
}

impl Byol {
    /// Fresh networks. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration is another method's, or names a localisation checkpoint that cannot be used.
    pub fn new(config: &Config, bf16: bool, device: Device) -> Result<Self> {
        let config::Method::Byol(settings) = &config.method else { bail!("the configuration is not BYOL's") };
        let occluder = Occluder::new(config, device)?;
        let align = settings.align.as_ref();
        let online = Branch::new(config.architecture()?, config.seed, (&settings.head, align), device)?;
        let target = Follower::new(&online, settings.follow(), settings.target == TargetNorm::Eman);
        let dim = settings.head.dim;
        // as the projectors: LEWEL's are convolutions of one position, without biases
        let (bias, init) = if align.is_some() { (false, Init::HeNormal) } else { (true, Init::Uniform) };
        let predictor = |prefix: &str| {
            let description = Description::two_layers([dim, settings.predictor, dim], true, bias);
            Head { prefix: prefix.into(), mlp: Mlp::new(description, init, device) }
        };
        let names = ["predictor.", "predictor_obj."];
        Ok(Self {
            predictors: names[..=usize::from(align.is_some())].iter().map(|name| predictor(name)).collect(),
            settings: settings.clone(),
            mixing: config.mixing.clone(),
            seed: config.seed,
            bf16,
            online,
            target,
            occluder,
            world: World::single(),
        })
    }

    fn splits(&self) -> i64 {
        self.settings.bn_splits as i64
    }

    fn rng(&self, domain: Domain, step: Step, of: usize) -> ChaCha8Rng {
        stream(self.seed, domain, step.number, of as u64)
    }

    /// The map that localises, where the target does.
    fn own_map(&self, x: &Tensor) -> Tensor {
        let mode = self.target.peek(self.splits());
        self.target.branch().encode(x, mode, self.occluder.tap()).tap()
    }

    /// A masked copy of a view, where that side is masked. `of` names the draws.
    fn input(
        &self,
        view: &mut View,
        (side, title): (Side, &'static str),
        (step, of): (Step, usize),
        preview: &mut Option<Preview>,
    ) -> Tensor {
        if !self.occluder.masks(side, step) {
            return view.input.shallow_clone();
        }
        let x = self.occluder.hide(
            view,
            Purpose::Positive,
            |x| self.own_map(x),
            &mut self.rng(Domain::Mask, step, of),
        );
        show(preview, title, &x);
        x
    }

    /// What the target says of a view.
    fn targets(&self, view: &mut View, step: Step, of: usize, preview: &mut Option<Preview>) -> Vectors {
        let input = self.input(view, (Side::Key, "masked target"), (step, 2 + of), preview);
        let _key = within(Phase::Key);
        let mode = self.target.mode(self.splits());
        let projected = self.target.branch().project(&input, mode, self.occluder.tap());
        // the features of an unmasked view tell where its foreground is, for nothing
        let told = self.occluder.by_method() && !self.occluder.masks(Side::Key, step);
        if told && view.foreground.is_none() {
            let map = projected.output.taps.first();
            view.foreground = map.and_then(|map| self.occluder.foreground(map, view));
        }
        Vectors { global: projected.global, aligned: projected.aligned.map(|a| a.vectors) }
    }

    /// What the network makes of an input, with its graph, and what it predicts.
    fn predict(&self, input: &Tensor) -> (Projected, Vectors) {
        let _query = within(Phase::Query);
        let mode = Mode::Train { splits: self.splits() };
        let _guard = Autocast::bf16(input.device(), self.bf16);
        let projected = self.online.project(input, mode, &[]);
        let global = self.predictors[0].mlp.forward(&projected.global, mode);
        let aligned = projected.aligned.as_ref().map(|a| {
            let (b, n, d) = a.vectors.size3().unwrap_or_else(|e| panic!("vectors are (B, n, d): {e}"));
            self.predictors[1].mlp.forward(&a.vectors.reshape([b * n, d]), mode).view([b, n, d])
        });
        (projected, Vectors { global, aligned })
    }

    /// The mean distance of predictions from targets.
    fn loss(&self, prediction: &Vectors, target: &Vectors) -> Tensor {
        let mean = |p: &Tensor, t: &Tensor| distances(p, t).mean(Kind::Float);
        let global = mean(&prediction.global, &target.global);
        match (&self.settings.align, &prediction.aligned, &target.aligned) {
            (Some(align), Some(p), Some(t)) => global * align.weight + mean(p, t) * (1.0 - align.weight),
            _ => global,
        }
    }

    /// A mixture is to predict both of its pictures, each by its share.
    fn mixed_loss(&self, mixed: &Mixed, target: &Vectors) -> Result<Tensor> {
        let (_, prediction) = self.predict(&mixed.images);
        let _loss = within(Phase::Loss);
        let from = |target: &Tensor| distances(&prediction.global, target);
        // of the batch of all ranks
        let partners =
            self.world.gather(&target.global, "targets of mixtures")?.index_select(0, &mixed.partner);
        let other = from(&self.world.own(&partners));
        let both: Tensor = from(&target.global) * &mixed.share + other * (1.0 - &mixed.share);
        Ok(both.mean(Kind::Float))
    }

    fn mixtures(
        &self,
        input: &Tensor,
        step: Step,
        of: usize,
        preview: &mut Option<Preview>,
    ) -> Result<Vec<Mixed>> {
        let Some(config) = &self.mixing else { return Ok(Vec::new()) };
        let _mask = within(Phase::Mask);
        let rng = &mut self.rng(Domain::Mix, step, of);
        let mixed = tch::no_grad(|| mix::mixtures(input, config, &self.world, rng))?;
        mixed.iter().for_each(|m| show(preview, "mixture", &m.images));
        Ok(mixed)
    }

    /// What the target says of the first two views, and what the network sees of all.
    fn sides(
        &self,
        views: &mut [View; 2],
        more: &[Tensor],
        step: Step,
        preview: &mut Option<Preview>,
    ) -> ([Vectors; 2], Vec<Tensor>) {
        let _guard = Autocast::bf16(self.online.encoder().device(), self.bf16);
        tch::no_grad(|| {
            let targets = [0, 1].map(|i| self.targets(&mut views[i], step, i, preview));
            let first = (0..)
                .zip(views)
                .map(|(i, view)| self.input(view, (Side::Query, "masked view"), (step, i), preview));
            let mut inputs: Vec<Tensor> = first.collect();
            // smaller views have no map to be masked by
            inputs.extend(more.iter().map(|view| self.occluder.view(view, step).input));
            (targets, inputs)
        })
    }
}

impl Method for Byol {
    fn join(&mut self, world: &World) -> Result<()> {
        self.online.join(world);
        self.target.join(world);
        self.predictors.iter_mut().for_each(|head| head.mlp.join(world));
        self.occluder.join(world)?;
        self.world = world.clone();
        Ok(())
    }

    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let mut preview = step.preview.then(Preview::default);
        let pair = views.pair()?;
        let mut pair = tch::no_grad(|| pair.map(|v| self.occluder.view(v, step)));
        for (title, v) in ["view 1", "view 2"].into_iter().zip(&pair) {
            show(&mut preview, title, &v.input);
        }
        let (targets, inputs) = self.sides(&mut pair, views.more(), step, &mut preview);
        let (mut losses, mut health) = (vec![], vec![]);
        for (i, input) in inputs.iter().enumerate() {
            let mixtures = if i < 2 { self.mixtures(input, step, i, &mut preview)? } else { Vec::new() };
            let (projected, prediction) = self.predict(input);
            let _loss = within(Phase::Loss);
            for (_, target) in targets.iter().enumerate().filter(|(j, _)| *j != i) {
                let mut loss = self.loss(&prediction, target);
                for mixed in &mixtures {
                    loss += self.mixed_loss(mixed, target)?;
                }
                losses.push(loss);
            }
            if i < 2 {
                show_maps(&mut preview, i, &projected);
            }
            if i < 2 && step.measure {
                let _metrics = within(Phase::Metrics);
                let all = |x: &Tensor| self.world.gather(x, "features and predictions");
                let [p, t] = [&prediction.global, &targets[1 - i].global].map(normalize);
                let (p, t, features) = (all(&p)?, all(&t)?, all(&projected.output.embedding)?);
                health.push(tch::no_grad(|| Health::of(&p, &t, &features)));
            }
        }
        tch::no_grad(|| {
            let rng = &mut self.rng(Domain::Preview, step, 0);
            self.occluder.complete(&mut preview, &mut pair, |x| self.own_map(x), rng);
        });
        // both directions of the pair are summed; further views weigh as much as these, however many they are
        let loss = Tensor::stack(&losses, 0).mean(Kind::Float) * 2.0;
        Ok(StepOutput { loss, health: Health::mean(health), metrics: Vec::new(), preview })
    }

    fn after_step(&mut self, step: Step) -> Result<()> {
        let _ema = within(Phase::Ema);
        self.target.follow(&self.online, step.epoch)
    }

    fn trainable(&self) -> Vec<Named> {
        let predictors = self.predictors.iter().flat_map(|h| h.mlp.trainable_named(&h.prefix));
        self.online.trainable().into_iter().chain(predictors).collect()
    }

    fn state(&self) -> Vec<Named> {
        let predictors = self.predictors.iter().flat_map(|h| h.mlp.named(&h.prefix));
        let branches = self.online.named().into_iter().chain(self.target.branch().named());
        branches.chain(predictors).collect()
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load_branches(&self.state(), &[&self.online, self.target.branch()], state)
    }

    fn branch(&self) -> &Branch {
        &self.online
    }
}

#[cfg(test)]
mod tests;
