//! Distillation: a student learns what a finished network said of whole pictures, from crops of them, masked or not.

use anyhow::{Result, bail, ensure};
use occlude_distributed::World;
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use super::occluder::{Occluder, Side};
use super::view::View;
use super::{Health, Method, Preview, Step, StepOutput, Views, mean, show};
use crate::config::{self, Config};
use crate::device::upload;
use crate::loss::{distances, normalize, relational::relational_loss};
use crate::mask::Purpose;
use crate::model::{Branch, Mode, Named, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};
use crate::teacher::Targets;

/// Distillation by embeddings: projections point where the targets do, and are as alike as these are. The head that makes them
/// is dropped where the encoder is used.
pub struct Distill {
    settings: config::Distill,
    seed: u64,
    bf16: bool,
    branch: Branch,
    occluder: Occluder,
    targets: Targets,
    world: World,
}

/// What the masks of the first views are called.
const MASKED: [(Side, &str); 2] = [(Side::Query, "masked view 1"), (Side::Key, "masked view 2")];

impl Distill {
    /// A fresh student of `targets`. `bf16`: convolutions and matrix products in bfloat16.
    ///
    /// # Errors
    /// Where the configuration is another method's, does not fit the targets, or names a localisation checkpoint that cannot be used.
    pub fn new(config: &Config, targets: &Targets, bf16: bool, device: Device) -> Result<Self> {
        let config::Method::Distill(settings) = &config.method else {
            bail!("the configuration is not distillation's")
        };
        ensure!(
            settings.head.dim == targets.dim(),
            "projections of {} numbers cannot learn targets of {}",
            settings.head.dim,
            targets.dim()
        );
        let occluder = Occluder::new(config, device)?;
        let branch = Branch::new(config.architecture()?, config.seed, (&settings.head, None), device)?;
        let targets = targets.to(device);
        let (seed, world) = (config.seed, World::single());
        Ok(Self { settings: settings.clone(), seed, bf16, branch, occluder, targets, world })
    }

    /// The map that localises, where the student does.
    fn own_map(&self, x: &Tensor) -> Tensor {
        self.branch.encode(x, Mode::Peek { splits: 1 }, self.occluder.tap()).tap()
    }

    /// What the student sees of each view.
    fn inputs(&self, views: &mut [View], step: Step, preview: &mut Option<Preview>) -> Vec<Tensor> {
        let mut inputs = Vec::with_capacity(views.len());
        for (i, view) in views.iter_mut().enumerate() {
            // views behind the first two may be smaller, and have no map to be masked by
            let side = MASKED.get(i).filter(|(side, _)| self.occluder.masks(*side, step));
            let Some((_, title)) = side else {
                inputs.push(view.input.shallow_clone());
                continue;
            };
            let mut rng = stream(self.seed, Domain::Mask, step.number, i as u64);
            let x = self.occluder.hide(view, Purpose::Positive, |x| self.own_map(x), &mut rng);
            show(preview, title, &x);
            inputs.push(x);
        }
        inputs
    }

    /// Features and normalised projections of the views, `(B, C)` and `(B, D)` each; those of one size go through the network
    /// together.
    fn project(&self, inputs: &[Tensor]) -> Vec<(Tensor, Tensor)> {
        let _query = within(Phase::Query);
        let _guard = Autocast::bf16(self.branch.encoder().device(), self.bf16);
        let mut out = Vec::with_capacity(inputs.len());
        for alike in inputs.chunk_by(|a, b| a.size() == b.size()) {
            let mode = Mode::Train { splits: 1 };
            let projected = self.branch.project(&Tensor::cat(alike, 0), mode, &[]);
            let (count, z) = (alike.len() as i64, normalize(&projected.global));
            let parts = projected.output.embedding.chunk(count, 0).into_iter().zip(z.chunk(count, 0));
            out.extend(parts);
        }
        out
    }

    /// The loss of a view's projections, and its parts.
    fn loss(&self, z: &Tensor, targets: &Tensor) -> (Tensor, Vec<(&'static str, Tensor)>) {
        let cosine = distances(z, targets).mean(Kind::Float) / 2.0;
        let mut parts = vec![("cosine_loss", cosine.detach())];
        if self.settings.relation_weight == 0.0 {
            return (cosine, parts);
        }
        let relation = relational_loss(z, targets);
        parts.push(("relation_loss", relation.detach()));
        (cosine + relation * self.settings.relation_weight, parts)
    }
}

impl Method for Distill {
    fn join(&mut self, world: &World) -> Result<()> {
        self.branch.join(world);
        self.occluder.join(world)?;
        self.world = world.clone();
        Ok(())
    }

    fn step(&mut self, views: &Views, step: Step) -> Result<StepOutput> {
        let mut preview = step.preview.then(Preview::default);
        let device = self.branch.encoder().device();
        // relations are between pictures of all ranks
        let pictures = self.world.gather(&Tensor::from_slice(views.pictures()), "pictures")?;
        let targets = self.targets.of(&upload(&pictures, device))?; // (B, D)
        let mut seen: Vec<View> =
            tch::no_grad(|| views.all().iter().map(|v| self.occluder.view(v, step)).collect());
        for (title, v) in ["view 1", "view 2"].into_iter().zip(&seen) {
            show(&mut preview, title, &v.input);
        }
        let inputs = {
            let _guard = Autocast::bf16(device, self.bf16);
            tch::no_grad(|| self.inputs(&mut seen, step, &mut preview))
        };
        let (mut losses, mut metrics, mut health) = (Vec::new(), Vec::new(), Vec::new());
        for (features, z) in self.project(&inputs) {
            let z = self.world.gather_live(&z, "projections")?;
            let (loss, parts) = {
                let _loss = within(Phase::Loss);
                self.loss(&z, &targets)
            };
            losses.push(loss);
            if step.measure {
                let _metrics = within(Phase::Metrics);
                metrics.push(parts);
                let features = self.world.gather(&features, "features")?;
                health.push(tch::no_grad(|| Health::of(&z, &targets, &features)));
            }
        }
        tch::no_grad(|| {
            let rng = &mut stream(self.seed, Domain::Preview, step.number, 0);
            let first = seen.len().min(MASKED.len());
            self.occluder.complete(&mut preview, &mut seen[..first], |x| self.own_map(x), rng);
        });
        let loss = Tensor::stack(&losses, 0).mean(Kind::Float);
        Ok(StepOutput { loss, health: Health::mean(health), metrics: mean(metrics), preview })
    }

    fn after_step(&mut self, _step: Step) -> Result<()> {
        Ok(())
    }

    fn trainable(&self) -> Vec<Named> {
        self.branch.trainable()
    }

    /// The branch, and how targets are made of embeddings, which a resumed run must not fit anew.
    fn state(&self) -> Vec<Named> {
        self.branch.named().into_iter().chain(self.targets.named()).collect()
    }

    fn load_state(&mut self, state: &[Named]) -> Result<()> {
        load_branches(&self.state(), &[&self.branch], state)
    }

    fn branch(&self) -> &Branch {
        &self.branch
    }
}

#[cfg(test)]
mod tests;
