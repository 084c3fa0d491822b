//! A linear classifier, and what is trained together with it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use occlude_checkpoint::save_safetensors;
use occlude_distributed::{Gradients, Reducer, World};
use occlude_torch_ext::Autocast;
use rand::Rng;
use tch::{Device, Kind, Reduction, Tensor};

use super::protocol::Protocol;
use super::score::{Scores, ranks};
use super::source::Examples;
use crate::engine::snapshot::to_out;
use crate::model::{Encoder, Mode, Named, Optimizer};
use crate::rng::{Domain, stream};

/// Standard deviation of the first weights, as published.
const INITIAL_STD: f64 = 0.01;
/// Pictures that a frozen encoder sees at a time, which bounds memory.
const BLOCK: i64 = 64;
/// The counter of batches that every normalisation of a checkpoint has.
pub(super) const COUNTER: &str = "bn1.num_batches_tracked";

/// `fc`: a fully connected layer from features to scores of classes.
#[derive(Debug)]
pub struct Classifier {
    /// `(C, D)`
    weight: Tensor,
    /// `(C)`
    bias: Tensor,
}

impl Classifier {
    /// Weights N(0, 0.01), biases 0.
    pub fn new(features: i64, classes: i64, seed: u64, device: Device) -> Self {
        let word: u64 = stream(seed, Domain::Init, 1, 0).random();
        tch::manual_seed((word >> 1) as i64);
        let options = (Kind::Float, Device::Cpu);
        let trained = |t: Tensor| t.to(device).set_requires_grad(true);
        Self {
            weight: trained(Tensor::randn([classes, features], options) * INITIAL_STD),
            bias: trained(Tensor::zeros([classes], options)),
        }
    }

    /// Scores `(N, C)` of features `(N, D)`.
    pub fn forward(&self, features: &Tensor) -> Tensor {
        features.linear(&self.weight, Some(&self.bias))
    }

    /// Its tensors with torchvision's names.
    pub fn named(&self) -> Vec<Named> {
        vec![Named::new("fc.weight", &self.weight), Named::new("fc.bias", &self.bias)]
    }

    /// Writes it alone.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let all = self.named().iter().map(to_out).collect::<Result<Vec<_>>>()?;
        save_safetensors(path, &all, &BTreeMap::new())
            .with_context(|| format!("cannot save `{}`; hint: is the disk full?", path.display()))
    }

    /// How often it is right on features `(N, D)` of the classes `labels`.
    pub fn scores(&self, features: &Tensor, labels: &[i64]) -> Scores {
        Scores::new(&self.ranks(features, labels), labels)
    }

    /// Of every picture, how many classes come before its own.
    pub(super) fn ranks(&self, features: &Tensor, labels: &[i64]) -> Vec<i64> {
        let scores = tch::no_grad(|| self.forward(&features.to(self.weight.device())));
        ranks(&scores, &Tensor::from_slice(labels))
    }
}

/// What makes features of a batch.
pub(super) enum Body<'a> {
    /// The batch is features already.
    Done,
    /// An encoder in evaluation mode, without gradients.
    Frozen(&'a Encoder),
    /// An encoder that is trained too, in bfloat16 on request.
    Trained(&'a Encoder, bool),
}

impl Body<'_> {
    /// Features `(N, D)` of a batch.
    pub(super) fn features(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Done => x.shallow_clone(),
            Self::Frozen(encoder) => tch::no_grad(|| {
                let n = x.size()[0];
                let block = |start: i64| x.narrow(0, start, BLOCK.min(n - start));
                let of = |start| encoder.forward(&block(start), Mode::Eval, &[]).embedding;
                Tensor::cat(&(0..n).step_by(BLOCK as usize).map(of).collect::<Vec<_>>(), 0)
            }),
            Self::Trained(encoder, bf16) => {
                let _guard = Autocast::bf16(encoder.device(), *bf16);
                encoder.forward(x, Mode::Train { splits: 1 }, &[]).embedding
            }
        }
    }
}

/// A classifier in training.
pub(super) struct Learner<'a> {
    body: Body<'a>,
    fc: Classifier,
    optimizers: Vec<(Optimizer, f64)>,
    world: World,
    /// Averages the gradients of a body that several ranks train.
    reducer: Option<Reducer>,
}

impl<'a> Learner<'a> {
    /// `lr` is the classifier's; a trained body has the protocol's own.
    pub(super) fn new(body: Body<'a>, fc: Classifier, protocol: &Protocol, lr: f64) -> Self {
        let settings = protocol.optimizer();
        let mut optimizers = vec![(Optimizer::new(fc.named(), &settings), lr)];
        if let (Body::Trained(encoder, _), Some(lr)) = (&body, protocol.lr_backbone) {
            optimizers.push((Optimizer::new(encoder.trainable_named(""), &settings), lr));
        }
        Self { body, fc, optimizers, world: World::single(), reducer: None }
    }

    /// From now on batches are parts of those of all ranks. A trained body has joined them already.
    ///
    /// # Errors
    /// Where the ranks cannot be reached.
    pub(super) fn joined(mut self, world: &World) -> Result<Self> {
        if let Body::Trained(encoder, _) = &self.body {
            let fc = self.fc.named().into_iter().map(|n| n.tensor);
            let params: Vec<Tensor> = encoder.trainable().into_iter().chain(fc).collect();
            self.reducer = Reducer::new(world, &params, Gradients::default())?;
        }
        self.world = world.clone();
        Ok(self)
    }

    /// One step at `factor` times the learning rates; the cross-entropy before it, on the device: of several ranks the sum of
    /// theirs.
    ///
    /// # Errors
    /// What libtorch refuses; where the ranks cannot be reached.
    pub(super) fn step(&mut self, examples: &Examples, factor: f64) -> Result<Tensor> {
        if let Some(reducer) = &self.reducer {
            reducer.forward()?;
        }
        let Some((features, labels)) = self.features(examples)? else {
            return Ok(Tensor::zeros([0i64; 0], (Kind::Float, examples.x.device())));
        };
        let scores = self.fc.forward(&features);
        self.optimizers.iter_mut().for_each(|(optimizer, _)| optimizer.zero_grad());
        let loss = match &self.reducer {
            None => {
                let loss = scores.cross_entropy_for_logits(&labels);
                loss.f_backward()?;
                loss
            }
            Some(reducer) => {
                // parts may be of different sizes: the mean of the gradients of these sums is that of the batch's mean
                let sum = scores.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
                let loss = sum / examples.total as f64;
                let scaled = &loss * self.world.size() as f64;
                reducer.backward(&scaled)?;
                let done = scaled.f_backward();
                done.map_err(|error| self.world.failed("the mean of gradients", error))?;
                loss
            }
        };
        for (optimizer, lr) in &mut self.optimizers {
            optimizer.step(*lr * factor)?;
        }
        Ok(loss.detach())
    }

    /// Features and labels that this rank learns from. A frozen encoder's are gathered, and the rank that writes learns from
    /// them as one process would: `None` on the others.
    fn features(&self, examples: &Examples) -> Result<Option<(Tensor, Tensor)>> {
        let features = self.body.features(&examples.x);
        if self.world.is_single() || matches!(self.body, Body::Trained(..)) {
            return Ok(Some((features, examples.labels.shallow_clone())));
        }
        let features = self.world.gather_uneven(&features, "features of a batch")?;
        let labels = self.world.gather_uneven(&examples.labels, "classes of a batch")?;
        Ok(self.world.is_main().then_some((features, labels)))
    }

    /// The classifier as it stands.
    pub(super) fn classifier(&self) -> &Classifier {
        &self.fc
    }

    /// Everything that the next step depends on.
    pub(super) fn state(&self) -> Vec<Named> {
        let mut state = self.fc.named();
        if let Body::Trained(encoder, _) = self.body {
            state.extend(encoder.named(""));
        }
        state.extend(self.optimizers.iter().flat_map(|(optimizer, _)| optimizer.state()));
        state
    }

    /// Takes over a state that [`Self::state`] gave.
    ///
    /// # Errors
    /// Where a tensor is missing, left over or of another shape.
    pub(super) fn load_state(&mut self, state: &[Named]) -> Result<()> {
        crate::model::load(&self.state(), state)?;
        if let Body::Trained(encoder, _) = self.body {
            encoder.load_batches(state, "")?;
        }
        Ok(())
    }
}
