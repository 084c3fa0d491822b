//! SimCLR (arXiv 2002.05709), plain or with saliency-guided masking (arXiv 2309.12757).

use anyhow::{Result, bail};
use occlude_distributed::World;
use occlude_torch_ext::Autocast;
use tch::{Device, Tensor};

use super::occluder::{Occluder, Side};
use super::view::View;
use super::{Health, Method, Preview, Step, StepOutput, Views, show};
use crate::config::{self, Config};
use crate::loss::{normalize, nt_xent};
use crate::mask::Purpose;
use crate::model::{Branch, Mode, Named, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};

/// SimCLR. The first view is the query: where one branch is masked it is that one, and hard negatives,
/// made from the second, are its own.
pub struct Simclr {
    settings: config::Simclr,
    seed: u64,
    bf16: bool,
    branch: Branch,
    occluder: Occluder,
    world: World,
}

impl Simclr {
    /// A fresh network. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration is another method's, or names a localisation checkpoint that cannot be used.
    pub fn new(config: &Config, bf16: bool, device: Device) -> Result<Self> {
        let config::Method::Simclr(settings) = &config.method else {
            bail!("the configuration is not SimCLR's")
        };
        let arch = config.architecture()?;
        let occluder = Occluder::new(config, device)?;
        let branch = Branch::new(arch, config.seed, (&settings.head, None), device)?;
        let world = World::single();
        Ok(Self { settings: settings.clone(), seed: config.seed, bf16, branch, occluder, world })
    }

    /// The map that localises, where the encoder does.
    fn own_map(&self, x: &Tensor) -> Tensor {
        let splits = self.settings.bn_splits as i64;
        self.branch.encode(x, Mode::Peek { splits }, self.occluder.tap()).tap()
    }

    /// What the encoder sees of the two views, and the hard negatives of the first.
    fn inputs(
        &self,
        views: &mut [View; 2],
        step: Step,
        preview: &mut Option<Preview>,
    ) -> ([Tensor; 2], Vec<Tensor>) {
        let own = |x: &Tensor| self.own_map(x);
        let rng = |of| stream(self.seed, Domain::Mask, step.number, of);
        let mut seen = |side: Side, of: usize, title, preview: &mut Option<Preview>| {
            if !self.occluder.masks(side, step) {
                return views[of].input.shallow_clone();
            }
            let x = self.occluder.hide(&mut views[of], Purpose::Positive, own, &mut rng(of as u64));
            show(preview, title, &x);
            x
        };
        let inputs =
            [seen(Side::Query, 0, "masked query", preview), seen(Side::Key, 1, "masked key", preview)];
        let rng = &mut rng(4);
        let hard = (0..self.occluder.nonsem())
            .map(|_| {
                let x = self.occluder.hide(&mut views[1], Purpose::HardNegative, own, rng);
                show(preview, "hard negative", &x);
                x
            })
            .collect();
        (inputs, hard)
    }

    /// Features and normalised projections of `parts` (`(B, 3, S, S)` each) in one forward pass, so that all of them
    /// share their normalisation: `(B, parts, D)` both, with their graph.
    fn encode(&self, parts: &[&Tensor]) -> (Tensor, Tensor) {
        let _query = within(Phase::Query);
        let (b, n) = (parts[0].size()[0], parts.len() as i64);
        let mode = Mode::Train { splits: self.settings.bn_splits as i64 };
        // picture by picture, so that the groups of a split normalisation hold whole pairs
        let together = Tensor::stack(parts, 1).flatten(0, 1); // (B * parts, 3, S, S)
        let _guard = Autocast::bf16(together.device(), self.bf16);
        let out = self.branch.encode(&together, mode, &[]);
        let z = normalize(&self.branch.head(&out.embedding, mode));
        (out.embedding.view([b, n, -1]), z.view([b, n, -1]))
    }
}

impl Method for Simclr {
    fn join(&mut self, world: &World) -> Result<()> {
        self.branch.join(world);
        self.occluder.join(world)?;
        self.world = world.clone();
        Ok(())
    }

    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let mut preview = step.preview.then(Preview::default);
        let pair = views.pair()?;
        let mut views = tch::no_grad(|| pair.map(|v| self.occluder.view(v, step)));
        for (title, v) in ["view 1", "view 2"].into_iter().zip(&views) {
            show(&mut preview, title, &v.input);
        }
        let (inputs, hard) = {
            let _guard = Autocast::bf16(self.branch.encoder().device(), self.bf16);
            tch::no_grad(|| self.inputs(&mut views, step, &mut preview))
        };
        let parts: Vec<&Tensor> = inputs.iter().chain(&hard).collect();
        let (embedding, z) = self.encode(&parts);
        // every rank computes the loss of all rows: each of them is a negative of all others
        let z = self.world.gather_live(&z, "projections")?;
        let (a, b) = (z.select(1, 0), z.select(1, 1)); // (B, D)
        let _loss = within(Phase::Loss);
        let n = hard.len() as i64;
        let hard = (n > 0).then(|| z.narrow(1, 2, n)); // (B, n, D)
        let l = nt_xent(&a, &b, hard.as_ref().map(|h| (h, self.occluder.alpha())), self.settings.temperature);
        let loss = l.loss();
        let (health, metrics) = if step.measure {
            let _metrics = within(Phase::Metrics);
            let features = self.world.gather(&embedding.select(1, 0), "features")?;
            tch::no_grad(|| (Some(Health::of(&a, &b, &features)), vec![("acc1", l.accuracy())]))
        } else {
            (None, Vec::new())
        };
        tch::no_grad(|| {
            let rng = &mut stream(self.seed, Domain::Preview, step.number, 0);
            self.occluder.complete(&mut preview, &mut views, |x| self.own_map(x), rng);
        });
        Ok(StepOutput { loss, health, metrics, preview })
    }

    fn after_step(&mut self, _step: Step) -> Result<()> {
        Ok(())
    }

    fn trainable(&self) -> Vec<Named> {
        self.branch.trainable()
    }

    fn state(&self) -> Vec<Named> {
        self.branch.named()
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load_branches(&self.state(), &[&self.branch], state)
    }

    fn branch(&self) -> &Branch {
        &self.branch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Branch as Masked, Recipe, Strategy};
    use crate::method::fixture::{config, distance, step, views};
    use crate::tolerance;

    /// Both views go through the network as one batch, and each group of a split normalisation holds whole pairs.
    #[test]
    fn views_share_their_normalisation() {
        let _alone = crate::rng::alone();
        let [a, b] = views();
        for splits in [1, 2] {
            let mut config = config(Recipe::Simclr);
            *config.method.bn_splits_mut().expect("groups") = splits as usize;
            let simclr = Simclr::new(&config, false, Device::Cpu).expect("a method");
            let (_, z) = simclr.encode(&[&a, &b]);
            let len = 8 / splits;
            for group in 0..splits {
                let of = |x: &Tensor| x.narrow(0, group * len, len);
                let batch = Tensor::cat(&[of(&a), of(&b)], 0);
                let mode = Mode::Peek { splits: 1 };
                let embedding = simclr.branch.encode(&batch, mode, &[]).embedding;
                if splits > 1 {
                    // the head's normalisation is never split, so only the features can be compared
                    let features = simclr.encode(&[&a, &b]).0;
                    let ours = Tensor::cat(&[of(&features.select(1, 0)), of(&features.select(1, 1))], 0);
                    assert!(distance(&ours, &embedding) < tolerance::SAME_MATH * 10.0);
                } else {
                    let theirs = normalize(&simclr.branch.head(&embedding, mode));
                    let ours = Tensor::cat(&[z.select(1, 0), z.select(1, 1)], 0);
                    assert!(distance(&ours, &theirs) < tolerance::SAME_MATH * 10.0);
                }
            }
        }
    }

    #[test]
    fn branches_mask_what_they_say() {
        let _alone = crate::rng::alone();
        let titles = |branch, nonsem| {
            let mut config = config(Recipe::SaliencySimclr);
            let masking = config.masking.as_mut().expect("masked");
            (masking.branch, masking.num_nonsem, masking.stage) = (branch, nonsem, 4);
            let out =
                Simclr::new(&config, false, Device::Cpu).and_then(|mut m| m.step(&views().into(), step(0)));
            let columns = out.expect("a step").preview.expect("asked").columns;
            columns.into_iter().skip(2).map(|c| c.0).collect::<Vec<_>>()
        };
        assert_eq!(titles(Masked::Query, 0), ["masked query"]);
        assert_eq!(titles(Masked::Key, 1), ["masked key", "hard negative"]);
        assert_eq!(titles(Masked::Both, 0), ["masked query", "masked key"]);
        assert_eq!(titles(Masked::None, 2), ["hard negative", "hard negative"]);
    }

    #[test]
    fn gradients_reach_every_parameter_and_hard_negatives_raise_the_loss() {
        let _alone = crate::rng::alone();
        let loss = |nonsem| {
            let mut config = config(Recipe::SaliencySimclr);
            let masking = config.masking.as_mut().expect("masked");
            (masking.num_nonsem, masking.stage, masking.strategy) = (nonsem, 4, Strategy::Mean);
            let mut simclr = Simclr::new(&config, false, Device::Cpu).expect("a method");
            let out = simclr.step(&views().into(), step(0)).expect("a step");
            out.loss.backward();
            assert!(simclr.trainable().iter().all(|n| n.tensor.grad().defined()));
            out.loss.double_value(&[])
        };
        assert!(loss(2) > loss(0));
    }

    #[test]
    fn state_survives_a_round_trip() {
        let _alone = crate::rng::alone();
        let config = config(Recipe::Simclr);
        let mut a = Simclr::new(&config, false, Device::Cpu).expect("a method");
        a.step(&views().into(), step(0)).expect("a step");
        let mut b = Simclr::new(&Config { seed: 5, ..config }, false, Device::Cpu).expect("a method");
        b.load_state(&a.state()).expect("loaded");
        for (x, y) in a.state().iter().zip(b.state()) {
            assert_eq!((&x.name, &x.tensor), (&y.name, &y.tensor));
        }
    }
}
