//! What the products of a vision transformer need: factors that even out the channels of what goes into them, and how much
//! of what comes out of them rounding would change.

use occlude_checkpoint::Encoder;
use occlude_encoder::{Graph, NodeId, Op, ParamKind};

use crate::Error;
use crate::ranges::{Range, Smoothing};

/// A product: tokens by a matrix.
pub(super) struct Product {
    /// Of its node.
    pub(super) name: String,
    /// The node whose value it reads.
    pub(super) from: NodeId,
    pub(super) node: NodeId,
    /// The normalisation that it reads, if it does.
    norm: Option<String>,
    /// Of its parameter.
    weight: String,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

/// All of them, in order.
pub(super) fn products(graph: &Graph) -> Vec<Product> {
    let product = |(id, node): (NodeId, &occlude_encoder::Node)| {
        let Op::Linear { inputs, outputs } = node.op else { return None };
        let from = *node.inputs.first()?;
        let read = &graph.nodes[from];
        Some(Product {
            name: node.name.clone(),
            from,
            node: id,
            norm: matches!(read.op, Op::LayerNorm { .. }).then(|| read.name.clone()),
            weight: node.param(ParamKind::Weight)?.name.clone(),
            inputs,
            outputs,
        })
    };
    graph.nodes.iter().enumerate().filter_map(product).collect()
}

/// The largest magnitude of each channel of tokens.
#[derive(Clone, Default)]
pub(super) struct Extents(pub(super) Vec<f32>);

impl Extents {
    pub(super) fn add(&mut self, values: &[f32], channels: usize) {
        self.0.resize(channels, 0.0);
        for token in values.chunks_exact(channels.max(1)) {
            self.0.iter_mut().zip(token).for_each(|(most, v)| *most = most.max(v.abs()));
        }
    }
}

/// The products that read a normalisation, whose channels can be scaled in its own parameters at no cost.
pub(super) fn smoothable(products: &[Product]) -> impl Iterator<Item = &Product> {
    products.iter().filter(|product| product.norm.is_some())
}

/// What channels are divided by, so that their extents and those of the matrix' columns become the same: the root of the
/// one's over the root of the other's, SmoothQuant with a strength of one half, <https://arxiv.org/abs/2211.10438>.
pub(super) fn smoothing(encoder: &Encoder<'_>, seen: &[(&Product, Extents)]) -> Result<Smoothing, Error> {
    let mut all = Smoothing::new();
    for (product, Extents(extents)) in seen {
        let Some(norm) = &product.norm else { continue };
        let missing = || Error::MissingWeight { name: product.weight.clone() };
        let weight = encoder.f32(&product.weight).ok_or_else(missing)?;
        let mut columns = Extents::default();
        columns.add(&weight, product.inputs);
        let factor = |(of_values, of_weights): (&f32, &f32)| match of_values / of_weights {
            ratio if ratio.is_normal() => ratio.sqrt(),
            _ => 1.0,
        };
        all.insert(norm.clone(), extents.iter().zip(&columns.0).map(factor).collect());
    }
    Ok(all)
}

/// How long the tokens are that a product gives.
#[derive(Clone, Default)]
pub(super) struct Lengths {
    tokens: u64,
    /// Sum of the logarithms of their squares.
    logarithms: f64,
}

impl Lengths {
    pub(super) fn add(&mut self, values: &[f32], channels: usize) {
        for token in values.chunks_exact(channels.max(1)) {
            let square: f64 = token.iter().map(|&v| f64::from(v).powi(2)).sum();
            self.logarithms += square.max(f64::MIN_POSITIVE).ln();
            self.tokens += 1;
        }
    }

    /// The geometric mean, which a few very long ones hardly move.
    fn mean(&self) -> f64 {
        (0.5 * self.logarithms / self.tokens.max(1) as f64).exp()
    }
}

/// The length of what rounding a product's input adds to what it gives, as a share of that: a value between two codes is
/// off by a step over the root of twelve on average, and the matrix passes these errors on.
pub(super) fn loss(
    encoder: &Encoder<'_>,
    product: &Product,
    (range, factors): (Range, Option<&Vec<f32>>),
    lengths: &Lengths,
) -> f64 {
    let step = f64::from(range.high.max(0.0) - range.low.min(0.0)) / 255.0;
    let weight = encoder.f32(&product.weight).unwrap_or_default();
    let factor = |i: usize| factors.and_then(|f| f.get(i % product.inputs)).copied().unwrap_or(1.0);
    let square = |(i, &w): (usize, &f32)| f64::from(w * factor(i)).powi(2);
    let passed = weight.iter().enumerate().map(square).sum::<f64>().sqrt();
    step / 12f64.sqrt() * passed / lengths.mean().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_those_of_channels() {
        let mut extents = Extents::default();
        extents.add(&[1.0, -5.0, -2.0, 0.5], 2);
        extents.add(&[0.0, 3.0], 2);
        assert_eq!(extents.0, [2.0, 5.0]);
    }

    #[test]
    fn one_long_token_among_many_hardly_counts() {
        let mut lengths = Lengths::default();
        (0..999).for_each(|_| lengths.add(&[3.0, 4.0], 2));
        lengths.add(&[3000.0, 4000.0], 2);
        assert!((lengths.mean() - 5.0).abs() < 0.05, "{}", lengths.mean());
    }

    #[test]
    fn every_matrix_is_a_product_and_half_of_them_can_be_smoothed() {
        let graph = Graph::new("vit_16x3x2_patch4_16".parse().expect("a network"));
        let products = products(&graph);
        assert_eq!((products.len(), smoothable(&products).count()), (12, 6));
        assert!(products.iter().all(|p| graph.nodes[p.node].inputs == [p.from]));
    }
}
