//! Projection heads: multilayer perceptrons with torch's `nn.Sequential` names.

use tch::{Device, Kind, Tensor};

use super::encoder::Mode;
use super::named::Named;

/// `Linear -> [BatchNorm] -> ReLU -> Linear`; MoCo v2's head without the normalisation.
pub struct Head {
    layers: Vec<(usize, Layer)>,
}

enum Layer {
    /// Weight `(out, in)`, bias `(out)`.
    Linear(Tensor, Tensor),
    /// Weight, bias, running mean, running variance.
    BatchNorm([Tensor; 4]),
    Relu,
}

impl Head {
    /// Random weights as PyTorch's `nn.Linear` has them (uniform by fan-in).
    pub fn new(input: usize, hidden: usize, output: usize, bn: bool, device: Device) -> Self {
        let mut layers = vec![linear(input, hidden, device)];
        if bn {
            layers.push(normalisation(hidden, device));
        }
        layers.push(Layer::Relu);
        layers.push(linear(hidden, output, device));
        Self { layers: layers.into_iter().enumerate().collect() }
    }

    /// The head that a configuration asks for, on features of length `input`.
    pub fn of(settings: &crate::config::Head, input: usize, device: Device) -> Self {
        Self::new(input, settings.hidden.unwrap_or(input), settings.dim, settings.bn, device)
    }

    /// A copy without gradients.
    pub fn frozen_copy(other: &Self) -> Self {
        let copy = |t: &Tensor| tch::no_grad(|| t.detach().copy());
        let layers = other.layers.iter().map(|(i, layer)| {
            let layer = match layer {
                Layer::Linear(w, b) => Layer::Linear(copy(w), copy(b)),
                Layer::BatchNorm(ts) => Layer::BatchNorm(ts.each_ref().map(copy)),
                Layer::Relu => Layer::Relu,
            };
            (*i, layer)
        });
        Self { layers: layers.collect() }
    }

    /// `(N, in)` -> `(N, out)`, in float32.
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Tensor {
        let mut x = x.shallow_clone();
        for (_, layer) in &self.layers {
            x = match layer {
                Layer::Linear(w, b) => x.linear(w, Some(b)),
                Layer::BatchNorm([w, b, mean, var]) => {
                    // over the whole batch: splitting is there to hide the batch from the encoder's features
                    let (running, training) = match mode {
                        Mode::Eval => (Some((mean, var)), false),
                        Mode::Train { .. } => (Some((mean, var)), true),
                        Mode::Peek { .. } => (None, true),
                    };
                    let (m, v) = (running.map(|r| r.0), running.map(|r| r.1));
                    x.batch_norm(Some(w), Some(b), m, v, training, 0.1, 1e-5, true)
                }
                Layer::Relu => x.relu(),
            };
        }
        x.to_kind(Kind::Float)
    }

    /// All tensors, named `0.weight`, `0.bias`, ... behind `prefix`.
    pub fn named(&self, prefix: &str) -> Vec<Named> {
        let mut out = Vec::new();
        for (i, layer) in &self.layers {
            let mut push = |leaf: &str, t: &Tensor| out.push(Named::new(format!("{prefix}{i}.{leaf}"), t));
            match layer {
                Layer::Linear(w, b) => {
                    push("weight", w);
                    push("bias", b);
                }
                Layer::BatchNorm([w, b, mean, var]) => {
                    push("weight", w);
                    push("bias", b);
                    push("running_mean", mean);
                    push("running_var", var);
                }
                Layer::Relu => {}
            }
        }
        out
    }

    /// The trainable ones.
    pub fn trainable_named(&self, prefix: &str) -> Vec<Named> {
        self.named(prefix).into_iter().filter(|n| !n.name.contains("running_")).collect()
    }
}

fn linear(input: usize, output: usize, device: Device) -> Layer {
    let bound = 1.0 / (input as f64).sqrt();
    let draw = |shape: &[i64]| {
        let unit = Tensor::rand(shape, (Kind::Float, Device::Cpu)) * (2.0 * bound) - bound;
        unit.to(device).set_requires_grad(true)
    };
    Layer::Linear(draw(&[output as i64, input as i64]), draw(&[output as i64]))
}

fn normalisation(n: usize, device: Device) -> Layer {
    let n = [n as i64];
    let options = (Kind::Float, device);
    let (one, zero) = (|| Tensor::ones(n, options), || Tensor::zeros(n, options));
    Layer::BatchNorm([one().set_requires_grad(true), zero().set_requires_grad(true), zero(), one()])
}
