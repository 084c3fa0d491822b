//! Distillation: a student learns what a finished network said of whole pictures, from crops of them, masked or not.

mod parts;

use anyhow::{Result, bail, ensure};
use occlude_distributed::World;
use occlude_torch_ext::Autocast;
use tch::{Device, Kind, Tensor};

use super::occluder::{Occluder, Side};
use super::view::View;
use super::{Health, Method, Preview, Step, StepOutput, Views, mean, show};
use crate::config::{self, Config};
use crate::data::Placed;
use crate::device::upload;
use crate::loss::{distances, normalize, relational::relational_loss};
use crate::mask::Purpose;
use crate::model::{Branch, Mode, Named, load_branches};
use crate::phase::{Phase, within};
use crate::rng::{Domain, stream};
use crate::teacher::Targets;
use parts::Parts;

/// Distillation by embeddings: projections point where the targets do, and are as alike as these are; what is said of parts of a
/// view may do so, too. The heads that make them are dropped where the encoder is used.
pub struct Distill {
    settings: config::Distill,
    seed: u64,
    bf16: bool,
    branch: Branch,
    occluder: Occluder,
    targets: Targets,
    /// What learns the targets of cells, where there are any.
    parts: Option<Parts>,
    world: World,
}

/// What the student says of a view.
struct Projection {
    /// `(B, C)`.
    features: Tensor,
    /// `(B, D)`, normalised.
    z: Tensor,
    /// `(B, h, w, d)`, where parts of pictures are learnt.
    cells: Option<Tensor>,
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
        let parts = settings.cells.as_ref().map(|cells| Parts::new(settings, cells, &targets, &branch));
        let (settings, parts, world) = (settings.clone(), parts.transpose()?, World::single());
        Ok(Self { settings, seed: config.seed, bf16, branch, occluder, targets, parts, world })
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

    /// What is said of the views; those of one size go through the network together.
    fn project(&self, inputs: &[Tensor]) -> Vec<Projection> {
        let _query = within(Phase::Query);
        let _guard = Autocast::bf16(self.branch.encoder().device(), self.bf16);
        let mut out = Vec::with_capacity(inputs.len());
        for alike in inputs.chunk_by(|a, b| a.size() == b.size()) {
            let mode = Mode::Train { splits: 1 };
            let x = Tensor::cat(alike, 0);
            let projected = self.branch.project(&x, mode, self.parts.as_ref().map_or(&[], Parts::tap));
            let (count, z) = (alike.len() as i64, normalize(&projected.global));
            let cells = self.parts.as_ref().map(|parts| {
                parts.project(self.branch.encoder(), &projected.output.taps[0], &x, mode).chunk(count, 0)
            });
            let mut cells = cells.into_iter().flatten();
            for (features, z) in projected.output.embedding.chunk(count, 0).into_iter().zip(z.chunk(count, 0))
            {
                out.push(Projection { features, z, cells: cells.next() });
            }
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

    /// The same with that of its cells, where these are learnt; `placed` tells where the view is on its `pictures` `(B)`.
    fn with_cells(
        &self,
        (loss, mut told): (Tensor, Vec<(&'static str, Tensor)>),
        said: &Projection,
        pictures: &Tensor,
        placed: Option<&[Placed]>,
    ) -> Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let (Some(parts), Some(cells)) = (&self.parts, &said.cells) else { return Ok((loss, told)) };
        let dense = parts.loss(cells, &self.targets, pictures, placed)?;
        told.push(("dense_loss", dense.detach()));
        Ok((loss + dense * parts.weight(), told))
    }
}

impl Method for Distill {
    fn join(&mut self, world: &World) -> Result<()> {
        ensure!(
            self.parts.is_none() || world.is_single(),
            "`--dense-weight` compares cells of each rank's own pictures, which several ranks cannot do yet; hint: one \
             process, or `--dense-weight 0`"
        );
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
        let pictures = upload(&pictures, device);
        let targets = self.targets.of(&pictures)?; // (B, D)
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
        for (i, said) in self.project(&inputs).iter().enumerate() {
            let z = self.world.gather_live(&said.z, "projections")?;
            let (loss, parts) = {
                let _loss = within(Phase::Loss);
                let loss = self.loss(&z, &targets);
                self.with_cells(loss, said, &pictures, views.placed().get(i).map(Vec::as_slice))?
            };
            losses.push(loss);
            if step.measure {
                let _metrics = within(Phase::Metrics);
                metrics.push(parts);
                let features = self.world.gather(&said.features, "features")?;
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
        let parts = self.parts.iter().flat_map(Parts::trainable);
        self.branch.trainable().into_iter().chain(parts).collect()
    }

    /// The branch, the head of cells, and how targets are made of embeddings, which a resumed run must not fit anew.
    fn state(&self) -> Vec<Named> {
        let parts = self.parts.iter().flat_map(Parts::named);
        self.branch.named().into_iter().chain(parts).chain(self.targets.named()).collect()
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
