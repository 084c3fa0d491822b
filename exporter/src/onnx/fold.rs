//! Batch normalisation folded into the convolution before it.

use std::borrow::Cow;

use occlude_encoder::{Graph, Node, ParamKind};

use super::builder::Builder;
use crate::Error;

/// The parameters of one batch normalisation, each of the length of its channels.
#[derive(Clone)]
pub(super) struct BatchNorm<'a> {
    weight: Cow<'a, [f32]>,
    bias: Cow<'a, [f32]>,
    mean: Cow<'a, [f32]>,
    var: Cow<'a, [f32]>,
}

impl<'a> BatchNorm<'a> {
    /// Those of a node.
    pub(super) fn of(builder: &Builder<'a>, node: &Node) -> Result<Self, Error> {
        let parameter = |kind| match node.param(kind) {
            Some(param) => builder.parameter(&param.name),
            None => Err(Error::MissingWeight { name: node.name.clone() }),
        };
        Ok(Self {
            weight: parameter(ParamKind::BnWeight)?,
            bias: parameter(ParamKind::BnBias)?,
            mean: parameter(ParamKind::BnMean)?,
            var: parameter(ParamKind::BnVar)?,
        })
    }

    /// Factor of a channel, in double precision: the sum over a filter is only as exact as it.
    fn scale(&self, channel: usize) -> f64 {
        f64::from(self.weight[channel]) / (f64::from(self.var[channel]) + Graph::BN_EPS).sqrt()
    }

    /// The weights of a convolution (out, ...) scaled by output channel.
    pub(super) fn fold_weight(&self, weight: &[f32]) -> Vec<f32> {
        let filter = (weight.len() / self.weight.len().max(1)).max(1);
        let scaled = |(channel, values): (usize, &[f32])| {
            let scale = self.scale(channel);
            values.iter().map(|&v| (f64::from(v) * scale) as f32).collect::<Vec<_>>()
        };
        weight.chunks(filter).enumerate().flat_map(scaled).collect()
    }

    /// The bias that the convolution gets.
    pub(super) fn fold_bias(&self) -> Vec<f32> {
        let bias = |c: usize| (f64::from(self.bias[c]) - f64::from(self.mean[c]) * self.scale(c)) as f32;
        (0..self.weight.len()).map(bias).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_equals_normalised() {
        let bn = BatchNorm {
            weight: Cow::Borrowed(&[2.0, -1.0]),
            bias: Cow::Borrowed(&[0.5, 0.25]),
            mean: Cow::Borrowed(&[1.0, -3.0]),
            var: Cow::Borrowed(&[4.0, 0.25]),
        };
        let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let (w, b) = (bn.fold_weight(&weight), bn.fold_bias());
        let x = [0.3, -0.7, 1.1];
        for c in 0..2 {
            let dot = |w: &[f32]| -> f32 { w.iter().zip(x).map(|(w, x)| w * x).sum() };
            let plain = dot(&weight[c * 3..c * 3 + 3]);
            let expected = (plain - bn.mean[c]) / (bn.var[c] + 1e-5).sqrt() * bn.weight[c] + bn.bias[c];
            assert!((dot(&w[c * 3..c * 3 + 3]) + b[c] - expected).abs() < 1e-5);
        }
    }
}
