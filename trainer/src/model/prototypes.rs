//! The last layer of a self-distilling head: how near an embedding is to each of many prototypes.

use tch::{Device, Kind, Tensor};

use super::named::Named;
use crate::loss::normalize;

/// A linear layer without biases whose rows are directions `weight_v` `(K, d)` of lengths `weight_g` `(K, 1)` (weight
/// normalisation, arXiv 1602.07868), as DINO's heads end with it (arXiv 2104.14294). Names are those of PyTorch's
/// `weight_norm`.
pub struct Prototypes {
    length: Tensor,
    direction: Tensor,
}

impl Prototypes {
    /// Random directions of length one, drawn as PyTorch's `nn.Linear` draws its weights. `fixed`: lengths are not learnt.
    pub fn new([inputs, count]: [usize; 2], fixed: bool, device: Device) -> Self {
        let (inputs, count, here) = (inputs as i64, count as i64, (Kind::Float, Device::Cpu));
        let bound = (inputs as f64).powf(-0.5);
        let direction = Tensor::rand([count, inputs], here) * (2.0 * bound) - bound;
        Self {
            length: Tensor::ones([count, 1], here).to(device).set_requires_grad(!fixed),
            direction: direction.to(device).set_requires_grad(true),
        }
    }

    /// A copy without gradients.
    pub fn frozen_copy(other: &Self) -> Self {
        let copy = |t: &Tensor| tch::no_grad(|| t.detach().copy());
        Self { length: copy(&other.length), direction: copy(&other.direction) }
    }

    /// The weights as they count, `(K, d)`; without a graph where `frozen`.
    pub fn weights(&self, frozen: bool) -> Tensor {
        let weights = || &self.length * normalize(&self.direction);
        if frozen { tch::no_grad(weights) } else { weights() }
    }

    /// Both tensors behind `prefix`.
    pub fn named(&self, prefix: &str) -> Vec<Named> {
        let both = [("weight_g", &self.length), ("weight_v", &self.direction)];
        both.map(|(leaf, tensor)| Named::new(format!("{prefix}{leaf}"), tensor)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_their_lengths_whatever_the_directions_are() {
        let _alone = crate::rng::alone();
        for fixed in [true, false] {
            let layer = Prototypes::new([16, 9], fixed, Device::Cpu);
            let lengths = |w: &Tensor| w.norm_scalaropt_dim(2.0, [1i64].as_slice(), false);
            assert!((lengths(&layer.weights(false)) - 1.0).abs().max().double_value(&[]) < 1e-6);
            tch::no_grad(|| drop(layer.length.shallow_clone().fill_(3.0)));
            let weights = layer.weights(false);
            assert!((lengths(&weights) - 3.0).abs().max().double_value(&[]) < 1e-5);
            weights.square().sum(Kind::Float).backward();
            let named = layer.named("x.");
            assert_eq!((named[0].name.as_str(), named[1].name.as_str()), ("x.weight_g", "x.weight_v"));
            assert_eq!(named[0].tensor.requires_grad(), !fixed);
            // the length of a row does not depend on that of its direction
            assert!(named[1].tensor.grad().abs().max().double_value(&[]) < 1e-4);
            assert!(!layer.weights(true).requires_grad());
        }
    }
}
