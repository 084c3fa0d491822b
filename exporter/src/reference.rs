//! A plain computation of an encoder from its description and its checkpoint's weights.
//!
//! It shares no code with the ONNX writer: batch normalisation stays as it is, and every operation
//! is the textbook's. Slow compared with a runtime (0.2 s for a ResNet-50 at 224 pixels), and free to be.

mod vit;

use std::borrow::Cow;

use ndarray::{ArrayView2, linalg::general_mat_mul};
use occlude_checkpoint::Encoder;
use occlude_encoder::{Graph, Node, NodeId, Op, ParamKind};

use crate::Error;

/// Feature map of one picture: `data` is `(channels, height, width)`. Tokens are one channel of a row for each, attention a
/// channel for each head.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values, row-major.
    pub data: Vec<f32>,
}

impl Map {
    fn zeros(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width, data: vec![0.0; channels * height * width] }
    }

    fn planes(&self) -> std::slice::ChunksExact<'_, f32> {
        self.data.chunks_exact((self.height * self.width).max(1))
    }

    /// Mean of each channel.
    pub fn pooled(&self) -> Vec<f32> {
        let mean =
            |plane: &[f32]| (plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64) as f32;
        self.planes().map(mean).collect()
    }

    /// The patches of tokens as a feature map of `height` rows of them: `before` of the tokens are none.
    pub(crate) fn of_patches(&self, before: usize, height: usize) -> Self {
        let count = self.height.saturating_sub(before);
        let value = |i: usize| self.data[(before + i % count) * self.width + i / count];
        let data = (0..count * self.width).map(value).collect();
        Self { channels: self.width, height, width: count / height.max(1), data }
    }

    /// Attention of the first token to the patches, the mean over heads, as a feature map of `height` rows.
    pub(crate) fn of_attention(&self, before: usize, height: usize) -> Self {
        let count = self.width.saturating_sub(before);
        let mean = |i: usize| {
            let sum: f64 = self.planes().map(|plane| f64::from(plane[before + i])).sum();
            (sum / self.channels as f64) as f32
        };
        Self { channels: 1, height, width: count / height.max(1), data: (0..count).map(mean).collect() }
    }

    /// Sum over the channels, `(height, width)`.
    pub fn channel_sum(&self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.height * self.width];
        for plane in self.planes() {
            sum.iter_mut().zip(plane).for_each(|(s, &v)| *s += f64::from(v));
        }
        sum.into_iter().map(|s| s as f32).collect()
    }
}

/// The values of `wanted` nodes for one input tensor `(3, side, side)`, as
/// [`occlude_preprocess::Preprocess::tensor`] gives it.
///
/// # Errors
/// [`Error::MissingWeight`] for an encoder that was loaded partially.
pub fn values(
    encoder: &Encoder<'_>,
    input: &[f32],
    side: usize,
    wanted: &[NodeId],
) -> Result<Vec<Map>, Error> {
    values_seen(encoder, input, side, wanted, &mut |_, _| ())
}

/// [`values`], where `see` gets the value of every node on the way.
///
/// # Errors
/// As [`values`].
pub(crate) fn values_seen(
    encoder: &Encoder<'_>,
    input: &[f32],
    side: usize,
    wanted: &[NodeId],
    see: &mut dyn FnMut(&Node, &Map),
) -> Result<Vec<Map>, Error> {
    let graph = Graph::new(encoder.arch);
    let mut values: Vec<Option<Map>> = vec![None; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate().take(graph.features() + 1) {
        let value = match node.op {
            Op::Input => Map { channels: 3, height: side, width: side, data: input.to_vec() },
            _ => {
                let inputs: Vec<&Map> = node.inputs.iter().filter_map(|&i| values[i].as_ref()).collect();
                compute(encoder, node, &inputs)?
            }
        };
        see(node, &value);
        values[id] = Some(value);
        // What no later node reads is let go.
        for &input in &node.inputs {
            let read = graph.nodes[id + 1..].iter().any(|n| n.inputs.contains(&input));
            if !(read || wanted.contains(&input)) {
                values[input] = None;
            }
        }
    }
    let map = |&id: &NodeId| values[id].clone().unwrap_or_else(|| Map::zeros(0, 0, 0));
    Ok(wanted.iter().map(map).collect())
}

/// A parameter of a node, by its role.
fn parameter<'e>(encoder: &'e Encoder<'_>, node: &Node, kind: ParamKind) -> Result<Cow<'e, [f32]>, Error> {
    let name = node.param(kind).map_or(&node.name, |p| &p.name);
    encoder.f32(name).ok_or_else(|| Error::MissingWeight { name: name.clone() })
}

fn compute(encoder: &Encoder<'_>, node: &Node, inputs: &[&Map]) -> Result<Map, Error> {
    if let Some(value) = vit::compute(encoder, node, inputs)? {
        return Ok(value);
    }
    let parameter = |kind| parameter(encoder, node, kind);
    let x = inputs[0];
    Ok(match node.op {
        Op::Conv { out_channels, kernel, stride, padding, groups, .. } => grouped_conv(
            x,
            &parameter(ParamKind::ConvWeight)?,
            (out_channels, groups),
            &Window { kernel, stride, padding },
        ),
        Op::BatchNorm { .. } => {
            let (mean, var) = (parameter(ParamKind::BnMean)?, parameter(ParamKind::BnVar)?);
            batch_norm(x, &parameter(ParamKind::BnWeight)?, &parameter(ParamKind::BnBias)?, &mean, &var)
        }
        Op::MaxPool { kernel, stride, padding } => max_pool(x, &Window { kernel, stride, padding }),
        Op::Relu => Map { data: x.data.iter().map(|&v| rectified(v)).collect(), ..*x },
        Op::Add => Map { data: x.data.iter().zip(&inputs[1].data).map(|(a, b)| a + b).collect(), ..*x },
        Op::Input | Op::GlobalAvgPool => x.clone(),
        Op::Patches { .. }
        | Op::ClassToken { .. }
        | Op::Position { .. }
        | Op::Registers { .. }
        | Op::LayerNorm { .. }
        | Op::Linear { .. }
        | Op::Gelu
        | Op::Gate
        | Op::LayerScale { .. }
        | Op::DropPath { .. }
        | Op::Scores { .. }
        | Op::Mix { .. }
        | Op::First => unreachable!("`vit` computes these"),
    })
}

/// The Gaussian error linear unit, `x (1 + erf(x / sqrt(2))) / 2`.
pub(crate) fn exact_gelu(v: f64) -> f32 {
    (0.5 * v * (1.0 + libm::erf(v * std::f64::consts::FRAC_1_SQRT_2))) as f32
}

/// The rectifier. What is no number stays so, as in every runtime; `f32::max` would take it for zero.
pub(crate) fn rectified(v: f32) -> f32 {
    if v <= 0.0 { 0.0 } else { v }
}

/// The larger one; what is no number wins.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

struct Window {
    kernel: usize,
    stride: usize,
    padding: usize,
}

impl Window {
    /// Length of the output along a side.
    fn out(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    /// Source index of output `o` at offset `k` of the window; `None` in the padding.
    fn source(&self, o: usize, k: usize, side: usize) -> Option<usize> {
        (o * self.stride + k).checked_sub(self.padding).filter(|&i| i < side)
    }
}

/// Each group of channels for itself, one behind the other.
fn grouped_conv(x: &Map, weight: &[f32], (out_channels, groups): (usize, usize), window: &Window) -> Map {
    if groups == 1 {
        return conv(x, weight, out_channels, window);
    }
    let channels = x.channels / groups;
    let planes = x.data.chunks_exact((channels * x.height * x.width).max(1));
    let weights = weight.chunks_exact((weight.len() / groups).max(1));
    let part = |(planes, weight): (&[f32], &[f32])| {
        let part = Map { channels, height: x.height, width: x.width, data: planes.to_vec() };
        conv(&part, weight, out_channels / groups, window).data
    };
    let data = planes.zip(weights).flat_map(part).collect();
    Map { channels: out_channels, height: window.out(x.height), width: window.out(x.width), data }
}

/// Convolution as one matrix product: weights (out, C k k) times patches (C k k, h w).
fn conv(x: &Map, weight: &[f32], out_channels: usize, window: &Window) -> Map {
    let (h, w) = (window.out(x.height), window.out(x.width));
    let rows = x.channels * window.kernel * window.kernel;
    // A window of one pixel at every place sees the map as it is.
    let patches = match window {
        Window { kernel: 1, stride: 1, padding: 0 } => Cow::Borrowed(&x.data),
        _ => Cow::Owned(patches(x, window, (h, w))),
    };
    let mut out = Map::zeros(out_channels, h, w);
    let matrix =
        |r, c, data| ArrayView2::from_shape((r, c), data).expect("shapes of the encoder's description");
    let mut product = ndarray::ArrayViewMut2::from_shape((out_channels, h * w), &mut out.data)
        .expect("made for this shape");
    general_mat_mul(
        1.0,
        &matrix(out_channels, rows, weight),
        &matrix(rows, h * w, &patches),
        0.0,
        &mut product,
    );
    out
}

fn patches(x: &Map, window: &Window, (h, w): (usize, usize)) -> Vec<f32> {
    let k = window.kernel;
    let mut patches = Vec::with_capacity(x.channels * k * k * h * w);
    for plane in x.planes() {
        for (i, j) in (0..k * k).map(|n| (n / k, n % k)) {
            for y in 0..h {
                let row = window.source(y, i, x.height).map(|sy| &plane[sy * x.width..][..x.width]);
                let value = |column: usize| Some(row?[window.source(column, j, x.width)?]);
                patches.extend((0..w).map(|column| value(column).unwrap_or(0.0)));
            }
        }
    }
    patches
}

fn batch_norm(x: &Map, weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32]) -> Map {
    let mut out = x.clone();
    let plane = (x.height * x.width).max(1);
    for (c, values) in out.data.chunks_exact_mut(plane).enumerate() {
        let deviation = (f64::from(var[c]) + Graph::BN_EPS).sqrt();
        let normal = |v: f32| (f64::from(v) - f64::from(mean[c])) / deviation;
        values.iter_mut().for_each(|v| *v = (normal(*v) * f64::from(weight[c]) + f64::from(bias[c])) as f32);
    }
    out
}

fn max_pool(x: &Map, window: &Window) -> Map {
    let (h, w) = (window.out(x.height), window.out(x.width));
    let mut out = Map::zeros(x.channels, h, w);
    for (plane, result) in x.planes().zip(out.data.chunks_exact_mut((h * w).max(1))) {
        for (i, value) in result.iter_mut().enumerate() {
            let rows = (0..window.kernel).filter_map(|k| window.source(i / w, k, x.height));
            let columns = || (0..window.kernel).filter_map(|k| window.source(i % w, k, x.width));
            let inside = rows.flat_map(|r| columns().map(move |c| plane[r * x.width + c]));
            *value = inside.fold(f32::NEG_INFINITY, larger);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(height: usize, width: usize, data: &[f32]) -> Map {
        Map { channels: data.len() / (height * width), height, width, data: data.to_vec() }
    }

    #[test]
    fn a_convolution_by_hand() {
        let x = map(3, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        let window = Window { kernel: 3, stride: 2, padding: 1 };
        let sum = conv(&x, &[1.0; 9], 1, &window);
        assert_eq!(sum.data, [12.0, 16.0, 24.0, 28.0]);
        let centre = [0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(conv(&x, &centre, 1, &Window { stride: 1, ..window }).data, x.data);
    }

    /// Two groups of one channel are two convolutions.
    #[test]
    fn groups_do_not_see_each_other() {
        let x = map(1, 2, &[1.0, 2.0, 10.0, 20.0]);
        let window = Window { kernel: 1, stride: 1, padding: 0 };
        let out = grouped_conv(&x, &[1.0, 3.0, 5.0, 7.0], (4, 2), &window);
        assert_eq!((out.channels, out.height, out.width), (4, 1, 2));
        assert_eq!(out.data, [1.0, 2.0, 3.0, 6.0, 50.0, 100.0, 70.0, 140.0]);
    }

    #[test]
    fn pooling_ignores_the_padding() {
        let x = map(3, 3, &[-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0]);
        let pooled = max_pool(&x, &Window { kernel: 3, stride: 2, padding: 1 });
        assert_eq!((pooled.height, pooled.data), (2, vec![-1.0, -2.0, -4.0, -5.0]));
    }

    /// A runtime answers with what is no number, and so has the computation that it is held against.
    #[test]
    fn what_is_no_number_stays_so() {
        assert!(rectified(f32::NAN).is_nan());
        assert_eq!([rectified(-1.0), rectified(f32::INFINITY)], [0.0, f32::INFINITY]);
        let window = Window { kernel: 2, stride: 2, padding: 0 };
        for at in 0..4 {
            let mut data = [1.0, 2.0, 3.0, 4.0];
            data[at] = f32::NAN;
            assert!(max_pool(&map(2, 2, &data), &window).data[0].is_nan(), "{at}");
        }
    }

    #[test]
    fn patches_and_attention_become_maps() {
        let tokens = map(3, 2, &[9.0, 9.0, 1.0, 2.0, 3.0, 4.0]);
        let patches = tokens.of_patches(1, 1);
        assert_eq!((patches.channels, patches.height, patches.width), (2, 1, 2));
        assert_eq!(patches.data, [1.0, 3.0, 2.0, 4.0]);
        let attention = Map { channels: 2, height: 2, width: 3, data: (0..12).map(|i| i as f32).collect() };
        assert_eq!(attention.of_attention(1, 2).data, [4.0, 5.0]);
    }

    #[test]
    fn sums_and_means() {
        let x = map(1, 2, &[1.0, 3.0, 10.0, 20.0]);
        assert_eq!(x.pooled(), [2.0, 15.0]);
        assert_eq!(x.channel_sum(), [11.0, 23.0]);
    }
}
