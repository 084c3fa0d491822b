//! A ResNet's operations in 8-bit integers: static quantisation, written as `QuantizeLinear` and
//! `DequantizeLinear` around the usual operations (QDQ), which runtimes fuse into integer kernels.
//!
//! Activations are unsigned bytes with one scale per tensor, weights signed bytes with one scale per
//! output channel, biases 32-bit: <https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html>,
//! <https://arxiv.org/abs/2004.09602>.

mod product;

use std::collections::HashSet;

use occlude_encoder::{Graph, Node, NodeId, Param, Vit};

pub(super) use product::product;

use super::body::{attributes, conv_weight, float_unit};
use super::builder::Builder;
use super::fold::BatchNorm;
use super::units::{Begin, Unit, units};
use crate::Error;
use crate::proto::{Attribute, Weights};
use crate::ranges::{Calibration, Range};

/// How an encoder becomes integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantization {
    /// Ranges of the activations.
    pub calibration: Calibration,
    /// The first convolution stays in floating point, or a vision transformer's first block.
    pub keep_first: bool,
    /// The last block stays in floating point.
    pub keep_last: bool,
    /// Weights take 7 bits: for processors without VNNI, whose 8-bit products overflow 16 bits.
    pub reduce_range: bool,
}

impl Quantization {
    /// Largest magnitude of a quantised weight.
    pub(super) fn largest(&self) -> f32 {
        if self.reduce_range { 63.0 } else { 127.0 }
    }

    /// Whether a product of a vision transformer is one of integers.
    pub(super) fn covers_product(&self, vit: Vit, name: &str) -> bool {
        let of = |block: usize| name.starts_with(&format!("blocks.{block}."));
        !(self.keep_first && of(0) || self.keep_last && of(vit.depth - 1) || self.calibration.is_coarse(name))
    }

    /// Whether a unit computes in integers.
    fn covers(&self, graph: &Graph, unit: &Unit) -> bool {
        let name = &graph.nodes[unit.node].name;
        let last = graph.nodes[graph.features()].name.rsplit_once('.').map_or("", |(block, _)| block);
        !(self.keep_first && name == "conv1" || self.keep_last && name.starts_with(&format!("{last}.")))
    }
}

/// The forms of one value.
#[derive(Clone, Default)]
struct Forms {
    float: Option<String>,
    quantized: Option<Quantized>,
}

/// A quantised tensor.
#[derive(Clone)]
struct Quantized {
    /// Behind `DequantizeLinear`.
    name: String,
    scale: f32,
    scale_name: String,
    zero_name: String,
}

struct Body<'b, 'a> {
    builder: &'b mut Builder<'a>,
    graph: &'b Graph,
    how: &'b Quantization,
    values: Vec<Forms>,
    /// Values that an integer operation reads.
    wanted: HashSet<NodeId>,
}

/// Adds every operation up to the last feature map; gives the floating-point value of each node that
/// has one, be it quantised and back.
pub(super) fn encoder(
    builder: &mut Builder<'_>,
    graph: &Graph,
    input: String,
    how: &Quantization,
) -> Result<Vec<String>, Error> {
    let units = units(graph);
    let integer = units.iter().filter(|u| how.covers(graph, u));
    let wanted = integer.flat_map(|u| u.inputs.iter().copied()).collect();
    let values = vec![Forms::default(); graph.nodes.len()];
    let mut body = Body { builder, graph, how, values, wanted };
    body.values[0].float = Some(input);
    for unit in &units {
        if how.covers(graph, unit) {
            body.integer_unit(unit)?;
        } else {
            let inputs: Vec<String> = unit.inputs.iter().map(|&i| body.float(i)).collect();
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            let value = float_unit(body.builder, graph, unit, &inputs, true)?;
            body.values[unit.out].float = Some(value);
        }
    }
    Ok((0..graph.nodes.len()).map(|id| body.float(id)).collect())
}

impl<'a> Body<'_, 'a> {
    /// The value as floats; empty for nodes inside units.
    fn float(&self, id: NodeId) -> String {
        let Forms { float, quantized } = &self.values[id];
        float.clone().or_else(|| quantized.as_ref().map(|q| q.name.clone())).unwrap_or_default()
    }

    fn integer_unit(&mut self, unit: &Unit) -> Result<(), Error> {
        let node = &self.graph.nodes[unit.node];
        let mut inputs = Vec::new();
        for &input in &unit.inputs {
            inputs.push(self.quantized(input)?);
        }
        let names: Vec<&str> = inputs.iter().map(|q| q.name.as_str()).collect();
        let value = match unit.begin {
            Begin::Conv => self.conv(unit, node, &inputs[0])?,
            Begin::MaxPool => {
                let pooled = self.builder.node("MaxPool", &node.name, &names, attributes(node.op));
                // The largest of some values needs no scale of its own.
                self.values[unit.out].quantized = Some(self.requantize(&node.name, &pooled, &inputs[0]));
                return Ok(());
            }
            Begin::Add => self.builder.node("Add", &node.name, &names, vec![]),
        };
        self.finish(unit, &value)
    }

    /// Gives a unit's value the forms that its readers take.
    fn finish(&mut self, unit: &Unit, value: &str) -> Result<(), Error> {
        if self.wanted.contains(&unit.out) {
            // Behind a rectifier the range begins at zero, and quantising cuts off what is below.
            let quantized = self.quantize(unit.out, value)?;
            self.values[unit.out].quantized = Some(quantized);
        } else {
            let relu = unit.relu.map(|id| self.graph.nodes[id].name.as_str());
            let value =
                relu.map_or(value.to_owned(), |name| self.builder.node("Relu", name, &[value], vec![]));
            self.values[unit.out].float = Some(value);
        }
        Ok(())
    }

    /// The value in integers.
    fn quantized(&mut self, id: NodeId) -> Result<Quantized, Error> {
        if let Some(quantized) = &self.values[id].quantized {
            return Ok(quantized.clone());
        }
        let quantized = self.quantize(id, &self.float(id))?;
        self.values[id].quantized = Some(quantized.clone());
        Ok(quantized)
    }

    /// Quantises a value with the range of a node.
    fn quantize(&mut self, id: NodeId, value: &str) -> Result<Quantized, Error> {
        let name = &self.graph.nodes[id].name;
        let range = self.how.calibration.range(name)?;
        let (scale, zero) = activation(range);
        let scale_name = self.builder.floats(&format!("{name}.scale"), &[], vec![scale]);
        let zero_name = self.builder.add(&format!("{name}.zero_point"), &[], Weights::uint8(zero));
        let like = Quantized { name: String::new(), scale, scale_name, zero_name };
        Ok(self.requantize(name, value, &like))
    }

    /// Quantises a value with the scale of another one.
    fn requantize(&mut self, name: &str, value: &str, like: &Quantized) -> Quantized {
        let (scale, zero) = (like.scale_name.as_str(), like.zero_name.as_str());
        let mut add = |op, suffix: &str, x: &str| {
            self.builder.node(op, &format!("{name}.{suffix}"), &[x, scale, zero], vec![])
        };
        let quantized = add("QuantizeLinear", "quantized", value);
        let name = add("DequantizeLinear", "dequantized", &quantized);
        Quantized { name, ..like.clone() }
    }

    fn conv(&mut self, unit: &Unit, node: &Node, input: &Quantized) -> Result<String, Error> {
        let normalisation =
            || unit.bn.map(|id| BatchNorm::of(self.builder, &self.graph.nodes[id])).transpose();
        let (bn, again) = (normalisation()?, normalisation()?);
        let Param { name, shape: dims, .. } = conv_weight(node);
        let fold = move |plain: &[f32]| again.as_ref().map_or(plain.to_vec(), |bn| bn.fold_weight(plain));
        let weight = fold(&self.builder.parameter(name)?);
        let bias = bn.map_or(vec![0.0; dims[0]], |bn| bn.fold_bias());
        let scales = weight_scales(&weight, &bias, input.scale, self.how.largest());
        let bias_scales: Vec<f32> = scales.iter().map(|s| s * input.scale).collect();
        let bias: Vec<i32> = bias.iter().zip(&bias_scales).map(|(b, s)| (b / s).round() as i32).collect();
        let (len, filter) = (weight.len(), weight.len() / dims[0]);
        let codes = {
            // Read, folded and quantised again when it is written: nothing is kept.
            let (encoder, key, scales) = (self.builder.encoder(), name.clone(), scales.clone());
            move || quantize_weight(&fold(&encoder.f32(&key).unwrap_or_default()), filter, &scales)
        };
        let channels = &dims[..1];
        let weight = self.dequantized(name, dims, Weights::int8(len, codes), &scales);
        let bias =
            self.dequantized(&format!("{}.bias", node.name), channels, Weights::int32(&bias), &bias_scales);
        Ok(self.builder.node("Conv", &node.name, &[&input.name, &weight, &bias], attributes(node.op)))
    }

    /// An initialiser with one scale per output channel.
    fn dequantized(&mut self, name: &str, dims: &[usize], codes: Weights<'a>, scales: &[f32]) -> String {
        let count = scales.len();
        let zeros = match codes.element().size() {
            1 => Weights::int8(count, move || vec![0; count]),
            _ => Weights::int32(&vec![0; count]),
        };
        let codes = self.builder.add(name, dims, codes);
        let scale = self.builder.floats(&format!("{name}.scale"), &dims[..1], scales.to_vec());
        let zero = self.builder.add(&format!("{name}.zero_point"), &dims[..1], zeros);
        let axis = vec![Attribute::Int("axis", 0)];
        self.builder.node("DequantizeLinear", &format!("{name}.dequantized"), &[&codes, &scale, &zero], axis)
    }
}

/// Scale and zero point of unsigned bytes for a range, which always holds zero: padding must be exact.
fn activation(range: Range) -> (f32, u8) {
    let (low, high) = (f64::from(range.low.min(0.0)), f64::from(range.high.max(0.0)));
    let scale = (high - low) / 255.0;
    // A value that never is anything but zero.
    if scale < f64::from(f32::MIN_POSITIVE) {
        return (1.0, 0);
    }
    (scale as f32, (-low / scale).round().clamp(0.0, 255.0) as u8)
}

/// One scale per output channel: the largest weight becomes the largest code. Channels of tiny weights
/// get a larger one where their bias would not fit into 32 bits.
fn weight_scales(weight: &[f32], bias: &[f32], input_scale: f32, largest: f32) -> Vec<f32> {
    let filter = (weight.len() / bias.len().max(1)).max(1);
    let scale = |(values, bias): (&[f32], &f32)| {
        let extent = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let for_bias = bias.abs() / (input_scale * (1u32 << 30) as f32);
        (extent / largest).max(for_bias).max(f32::MIN_POSITIVE / input_scale.min(1.0))
    };
    weight.chunks(filter).zip(bias).map(scale).collect()
}

fn quantize_weight(weight: &[f32], filter: usize, scales: &[f32]) -> Vec<i8> {
    let codes = |(values, scale): (&[f32], f32)| {
        values.iter().map(move |v| (v / scale).round().clamp(-127.0, 127.0) as i8).collect::<Vec<_>>()
    };
    weight.chunks(filter.max(1)).zip(scales.iter().copied()).flat_map(codes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_in_every_range() {
        for (low, high) in [(0.0, 6.0), (-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 0.0), (-2.3, 1e-9)] {
            let (scale, zero) = activation(Range { low, high });
            assert!(scale > 0.0, "{low} {high}");
            let (least, most) = (-f32::from(zero) * scale, (255.0 - f32::from(zero)) * scale);
            let slack = scale * 0.51;
            assert!(
                least <= low.min(0.0) + slack && most >= high.max(0.0) - slack,
                "{low}..{high}: {least}..{most}"
            );
        }
        assert_eq!(activation(Range { low: 0.0, high: 255.0 }), (1.0, 0));
    }

    #[test]
    fn the_largest_weight_of_a_channel_is_the_largest_code() {
        let weight = [0.25, -1.0, 0.0, 20.0, 5.0, 0.0];
        let scales = weight_scales(&weight, &[0.0, 0.0], 0.1, 127.0);
        assert_eq!(quantize_weight(&weight, 3, &scales), [32, -127, 0, 127, 32, 0]);
        let seven = weight_scales(&weight, &[0.0, 0.0], 0.1, 63.0);
        assert_eq!(quantize_weight(&weight, 3, &seven), [16, -63, 0, 63, 16, 0]);
    }

    #[test]
    fn a_dead_channel_keeps_its_bias() {
        let scales = weight_scales(&[0.0, 0.0], &[3.0], 0.01, 127.0);
        let code = (3.0 / (scales[0] * 0.01)).round();
        assert!(code < i32::MAX as f32 && (code * scales[0] * 0.01 - 3.0).abs() < 1e-6);
    }
}
