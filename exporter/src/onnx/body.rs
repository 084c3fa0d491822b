//! The encoder's operations, in floating point.

use std::borrow::Cow;

use occlude_encoder::{Graph, Node, Op, Param, ParamKind};

use super::builder::Builder;
use super::fold::BatchNorm;
use super::units::{Begin, Unit, units};
use crate::Error;
use crate::proto::{Attribute, Weights};

/// Adds every operation up to the last feature map; gives the value of each node of the graph that
/// another one reads. The pooling at the end belongs to the outputs.
pub(super) fn encoder(
    builder: &mut Builder<'_>,
    graph: &Graph,
    input: String,
    fold: bool,
) -> Result<Vec<String>, Error> {
    let mut values = vec![String::new(); graph.nodes.len()];
    values[0] = input;
    for unit in units(graph) {
        let inputs: Vec<&str> = unit.inputs.iter().map(|&i| values[i].as_str()).collect();
        values[unit.out] = float_unit(builder, graph, &unit, &inputs, fold)?;
    }
    Ok(values)
}

/// Adds one unit; gives its value.
pub(super) fn float_unit(
    builder: &mut Builder<'_>,
    graph: &Graph,
    unit: &Unit,
    inputs: &[&str],
    fold: bool,
) -> Result<String, Error> {
    let node = &graph.nodes[unit.node];
    let bn = unit.bn.map(|id| &graph.nodes[id]);
    let mut value = match unit.begin {
        Begin::Conv => match bn {
            Some(bn) if fold => folded_conv(builder, node, bn, inputs[0])?,
            bn => {
                let weight = builder.add_param(conv_weight(node))?;
                let x = builder.node("Conv", &node.name, &[inputs[0], &weight], attributes(node.op));
                bn.map_or(Ok(x.clone()), |bn| batch_norm(builder, bn, &x))?
            }
        },
        Begin::MaxPool => builder.node("MaxPool", &node.name, inputs, attributes(node.op)),
        Begin::Add => builder.node("Add", &node.name, inputs, vec![]),
    };
    if let Some(relu) = unit.relu {
        value = builder.node("Relu", &graph.nodes[relu].name, &[&value], vec![]);
    }
    Ok(value)
}

/// The weight of a convolution.
pub(super) fn conv_weight(node: &Node) -> &Param {
    node.param(ParamKind::ConvWeight).unwrap_or_else(|| unreachable!("called for convolutions only"))
}

/// The square window of a convolution or a pooling, and the groups of the former.
pub(super) fn attributes(op: Op) -> Vec<Attribute> {
    let (Op::Conv { kernel, stride, padding, .. } | Op::MaxPool { kernel, stride, padding }) = op else {
        return vec![];
    };
    let both = |n: usize| vec![n as i64; 2];
    let mut attributes = vec![
        Attribute::Ints("kernel_shape", both(kernel)),
        Attribute::Ints("pads", vec![padding as i64; 4]),
        Attribute::Ints("strides", both(stride)),
    ];
    if let Op::Conv { groups: groups @ 2.., .. } = op {
        attributes.push(Attribute::Int("group", groups as i64));
    }
    attributes
}

fn folded_conv(builder: &mut Builder<'_>, conv: &Node, bn: &Node, input: &str) -> Result<String, Error> {
    let bn = BatchNorm::of(builder, bn)?;
    let Param { name, shape, .. } = conv_weight(conv);
    let (encoder, key, len) = (builder.encoder(), name.clone(), builder.parameter(name)?.len());
    let bias = builder.floats(&format!("{}.bias", conv.name), &shape[..1], bn.fold_bias());
    let fold = move || Cow::Owned(bn.fold_weight(&encoder.f32(&key).unwrap_or_default()));
    let weight = builder.add(name, shape, Weights::floats(len, fold));
    Ok(builder.node("Conv", &conv.name, &[input, &weight, &bias], attributes(conv.op)))
}

fn batch_norm(builder: &mut Builder<'_>, bn: &Node, input: &str) -> Result<String, Error> {
    let mut inputs = vec![input.to_owned()];
    for param in bn.params.iter().filter(|p| p.kind != ParamKind::BnCount) {
        inputs.push(builder.add_param(param)?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let epsilon = Attribute::Float("epsilon", Graph::BN_EPS as f32);
    Ok(builder.node("BatchNormalization", &bn.name, &inputs, vec![epsilon]))
}
