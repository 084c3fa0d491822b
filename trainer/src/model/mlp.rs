//! Multilayer perceptrons with weights: an interpreter of [`occlude_encoder::Mlp`], with torch's `nn.Sequential` names.

use occlude_distributed::World;
use occlude_encoder::{Graph, Mlp as Description, MlpLayer};
use tch::{Device, Kind, Tensor};

use super::mode::Mode;
use super::named::Named;
use super::ops::{VIT_STD, joint_norm, single};

/// How the weights of linear layers begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// As PyTorch's `nn.Linear`: uniform by fan-in, biases too.
    Uniform,
    /// He-normal by fan-out.
    HeNormal,
    /// As the matrices of vision transformers: normal with a deviation of 0.02, biases zero.
    Small,
}

/// A multilayer perceptron with weights.
pub struct Mlp {
    description: Description,
    /// Of every layer, the tensors of [`MlpLayer::leaves`].
    layers: Vec<Vec<Tensor>>,
    /// With whom it normalises.
    world: World,
}

impl Mlp {
    /// Random weights.
    pub fn new(description: Description, init: Init, device: Device) -> Self {
        let layers = description.layers.iter().map(|layer| {
            let leaves = layer.leaves().into_iter();
            leaves.map(|(leaf, shape)| initial(layer, leaf, &shape, init, device)).collect()
        });
        Self { layers: layers.collect(), description, world: World::single() }
    }

    /// A copy without gradients.
    pub fn frozen_copy(other: &Self) -> Self {
        let copy = |t: &Tensor| tch::no_grad(|| t.detach().copy());
        let layers = other.layers.iter().map(|tensors| tensors.iter().map(copy).collect());
        Self { layers: layers.collect(), description: other.description.clone(), world: other.world.clone() }
    }

    /// From now on batches are parts of those of all ranks, which normalise together.
    pub fn join(&mut self, world: &World) {
        self.world = world.clone();
    }

    /// What it is.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// `(N, in)` -> `(N, out)`, in float32.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut x = x.shallow_clone();
        for (layer, tensors) in self.description.layers.iter().zip(&self.layers) {
            x = match layer {
                MlpLayer::Linear { .. } => x.linear(&tensors[0], tensors.get(1)),
                MlpLayer::BatchNorm { affine, .. } => {
                    let (affine, running) = tensors.split_at(if *affine { 2 } else { 0 });
                    // over the whole batch: splitting is there to hide the batch from the encoder's features
                    let (running, training) = match mode {
                        Mode::Eval => (running, false),
                        Mode::Train { .. } => (running, true),
                        Mode::Peek { .. } => (&[][..], true),
                    };
                    let (w, b) = (affine.first(), affine.get(1));
                    let (m, v) = (running.first(), running.get(1));
                    if training && !self.world.is_single() {
                        let running = m.zip(v).map(|(m, v)| [m, v]);
                        x = joint_norm(&self.world, &x, w.zip(b).map(|(w, b)| [w, b]), running);
                        continue;
                    }
                    x.batch_norm(w, b, m, v, training, Graph::BN_MOMENTUM, Graph::BN_EPS, true)
                }
                MlpLayer::Relu => x.relu(),
                MlpLayer::Gelu => x.gelu("none"),
            };
        }
        single(&x)
    }

    /// All tensors, named `0.weight`, `0.bias`, ... behind `prefix`.
    pub fn named(&self, prefix: &str) -> Vec<Named> {
        let layers = self.description.layers.iter().zip(&self.layers).enumerate();
        let named = layers.flat_map(|(i, (layer, tensors))| {
            let leaves = layer.leaves().into_iter().zip(tensors);
            leaves.map(move |((leaf, _), t)| Named::new(format!("{prefix}{i}.{leaf}"), t))
        });
        named.collect()
    }

    /// The trainable ones.
    pub fn trainable_named(&self, prefix: &str) -> Vec<Named> {
        let is_buffer = |n: &Named| MlpLayer::is_buffer(n.name.rsplit('.').next().unwrap_or_default());
        self.named(prefix).into_iter().filter(|n| !is_buffer(n)).collect()
    }
}

fn initial(layer: &MlpLayer, leaf: &str, shape: &[usize], init: Init, device: Device) -> Tensor {
    let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
    let here = (Kind::Float, Device::Cpu);
    let value = match (layer, leaf) {
        (MlpLayer::Linear { inputs, .. }, _) if init == Init::Uniform => {
            let bound = 1.0 / (*inputs as f64).sqrt();
            Tensor::rand(shape.as_slice(), here) * (2.0 * bound) - bound
        }
        (MlpLayer::Linear { .. }, "weight") if init == Init::Small => {
            Tensor::randn(shape.as_slice(), here) * VIT_STD
        }
        (MlpLayer::Linear { outputs, .. }, "weight") => {
            Tensor::randn(shape.as_slice(), here) * (2.0 / *outputs as f64).sqrt()
        }
        (MlpLayer::BatchNorm { .. }, "weight" | "running_var") => Tensor::ones(shape.as_slice(), here),
        _ => Tensor::zeros(shape.as_slice(), here),
    };
    value.to(device).set_requires_grad(!MlpLayer::is_buffer(leaf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_begin_as_they_say() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let description = Description::two_layers([400, 900, 200], true, true).normalised();
        for (init, first, last) in [
            (Init::Uniform, 1.0 / (3.0f64 * 400.0).sqrt(), 1.0 / (3.0f64 * 900.0).sqrt()),
            (Init::HeNormal, (2.0f64 / 900.0).sqrt(), (2.0f64 / 200.0).sqrt()),
            (Init::Small, 0.02, 0.02),
        ] {
            let mlp = Mlp::new(description.clone(), init, Device::Cpu);
            let std = |name: &str| {
                let named = mlp.named("");
                let found = named.iter().find(|n| n.name == name).expect("there");
                found.tensor.std(true).double_value(&[])
            };
            assert!((std("0.weight") / first - 1.0).abs() < 0.02, "{init:?}");
            assert!((std("3.weight") / last - 1.0).abs() < 0.02, "{init:?}");
            let names: Vec<_> = mlp.trainable_named("p.").into_iter().map(|n| n.name).collect();
            let expected = ["p.0.weight", "p.0.bias", "p.1.weight", "p.1.bias", "p.3.weight", "p.3.bias"];
            assert_eq!(names, expected, "the normalised output has nothing to learn");
            assert_eq!(mlp.named("").len(), 10);
        }
    }

    #[test]
    fn a_normalised_output_has_no_mean_and_unit_variance() {
        let _alone = crate::rng::alone();
        tch::manual_seed(4);
        let mlp =
            Mlp::new(Description::two_layers([6, 8, 3], true, true).normalised(), Init::Uniform, Device::Cpu);
        let y = mlp.forward(&Tensor::randn([64, 6], (Kind::Float, Device::Cpu)), Mode::Train { splits: 1 });
        assert!(y.mean_dim([0i64].as_slice(), false, Kind::Float).abs().max().double_value(&[]) < 1e-5);
        assert!(
            (y.std_dim(Some([0i64].as_slice()), false, false) - 1.0).abs().max().double_value(&[]) < 1e-2
        );
    }
}
