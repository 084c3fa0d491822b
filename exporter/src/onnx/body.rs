//! The encoder's operations.

use occlude_encoder::{Graph, Node, NodeId, Op};

use super::builder::Builder;
use super::fold::BatchNorm;
use crate::Error;
use crate::proto::{Attribute, Weights};

/// Adds every operation up to the last feature map; gives the value of each node of the graph. The
/// pooling at the end belongs to the outputs.
pub(super) fn encoder(
    builder: &mut Builder<'_>,
    graph: &Graph,
    input: String,
    fold: bool,
) -> Result<Vec<String>, Error> {
    let mut values = vec![input];
    for (id, node) in graph.nodes.iter().enumerate().skip(1) {
        let inputs: Vec<String> = node.inputs.iter().map(|&i| values[i].clone()).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let value = match node.op {
            Op::Conv { .. } => match normalisation_of(graph, id).filter(|_| fold) {
                Some(bn) => folded_conv(builder, node, bn, inputs[0])?,
                None => {
                    let weight = conv_weight(node);
                    let weight = builder.add_parameter(&weight.0, &weight.1)?;
                    builder.node("Conv", &node.name, &[inputs[0], &weight], conv_attributes(node.op))
                }
            },
            // Already inside the convolution that it reads.
            Op::BatchNorm { .. } if fold => inputs[0].to_owned(),
            Op::BatchNorm { channels } => batch_norm(builder, &node.name, inputs[0], channels)?,
            Op::Relu => builder.node("Relu", &node.name, &inputs, vec![]),
            Op::Add => builder.node("Add", &node.name, &inputs, vec![]),
            Op::MaxPool { kernel, stride, padding } => {
                builder.node("MaxPool", &node.name, &inputs, window(kernel, stride, padding))
            }
            Op::Input | Op::GlobalAvgPool => String::new(),
        };
        values.push(value);
    }
    Ok(values)
}

/// The batch normalisation that reads a convolution, if it is the only node that does.
fn normalisation_of(graph: &Graph, conv: NodeId) -> Option<&Node> {
    let mut readers = graph.nodes.iter().filter(|n| n.inputs.contains(&conv));
    let first = readers.next().filter(|n| matches!(n.op, Op::BatchNorm { .. }))?;
    readers.next().is_none().then_some(first)
}

/// Name and shape of a convolution's weight.
fn conv_weight(node: &Node) -> (String, Vec<usize>) {
    let Op::Conv { in_channels, out_channels, kernel, .. } = node.op else {
        unreachable!("called for convolutions only")
    };
    (format!("{}.weight", node.name), vec![out_channels, in_channels, kernel, kernel])
}

fn conv_attributes(op: Op) -> Vec<Attribute> {
    match op {
        Op::Conv { kernel, stride, padding, .. } => window(kernel, stride, padding),
        _ => vec![],
    }
}

/// Attributes of a square window.
fn window(kernel: usize, stride: usize, padding: usize) -> Vec<Attribute> {
    let both = |n: usize| vec![n as i64; 2];
    vec![
        Attribute::Ints("kernel_shape", both(kernel)),
        Attribute::Ints("pads", vec![padding as i64; 4]),
        Attribute::Ints("strides", both(stride)),
    ]
}

fn folded_conv(builder: &mut Builder<'_>, conv: &Node, bn: &Node, input: &str) -> Result<String, Error> {
    let statistics = |leaf: &str| builder.parameter(&format!("{}.{leaf}", bn.name));
    let bn = BatchNorm {
        weight: statistics("weight")?,
        bias: statistics("bias")?,
        mean: statistics("running_mean")?,
        var: statistics("running_var")?,
    };
    let (name, dims) = conv_weight(conv);
    let plain = builder.parameter(&name)?;
    let folded = Weights::Computed(plain.len(), Box::new(move || bn.fold_weight(plain)));
    let weight = builder.add(&name, &dims, folded);
    let bias = builder.floats(&format!("{}.bias", conv.name), &dims[..1], bn.fold_bias());
    Ok(builder.node("Conv", &conv.name, &[input, &weight, &bias], conv_attributes(conv.op)))
}

fn batch_norm(builder: &mut Builder<'_>, name: &str, input: &str, channels: usize) -> Result<String, Error> {
    let mut inputs = vec![input.to_owned()];
    for leaf in ["weight", "bias", "running_mean", "running_var"] {
        inputs.push(builder.add_parameter(&format!("{name}.{leaf}"), &[channels])?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let epsilon = Attribute::Float("epsilon", Graph::BN_EPS as f32);
    Ok(builder.node("BatchNormalization", name, &inputs, vec![epsilon]))
}
