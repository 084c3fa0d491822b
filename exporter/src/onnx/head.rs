//! What comes before the encoder, and what comes out behind it.

use occlude_encoder::Graph;
use occlude_preprocess::{HighPass, Preprocess};

use super::builder::Builder;
use super::options::{InputKind, OutputKind};
use crate::proto::Attribute;

/// Shortest length that an embedding is divided by, as in `torch.nn.functional.normalize`.
const MIN_LENGTH: f32 = 1e-12;

/// From the model's input to the tensor that the encoder takes, (N, 3, H, W).
pub(super) fn input(builder: &mut Builder<'_>, contract: &Preprocess, kind: InputKind) -> String {
    let value = match kind {
        InputKind::Float => kind.name().to_owned(),
        InputKind::Uint8 => normalise(builder, kind.name(), contract),
    };
    match contract.high_pass {
        Some(filter) => high_pass(builder, &value, filter),
        None => value,
    }
}

/// uint8 (N, H, W, 3) -> normalised floats (N, 3, H, W).
fn normalise(builder: &mut Builder<'_>, images: &str, contract: &Preprocess) -> String {
    // On the scale of bytes, in double precision: (x / 255 - mean) / std = (x - 255 mean) / (255 std).
    let mean = contract.mean.map(|m| (255.0 * f64::from(m)) as f32).to_vec();
    let factor = contract.std.map(|s| (1.0 / (255.0 * f64::from(s))) as f32).to_vec();
    let mean = builder.floats("normalize.mean", &[1, 3, 1, 1], mean);
    let factor = builder.floats("normalize.factor", &[1, 3, 1, 1], factor);
    let x = builder.node("Cast", "normalize.cast", &[images], vec![Attribute::Int("to", 1)]);
    let order = Attribute::Ints("perm", vec![0, 3, 1, 2]);
    let x = builder.node("Transpose", "normalize.transpose", &[&x], vec![order]);
    let x = builder.node("Sub", "normalize.sub", &[&x, &mean], vec![]);
    builder.node("Mul", "normalize.mul", &[&x, &factor], vec![])
}

/// `x - GaussianBlur(x)`: reflected borders, then the blur along each side as a depthwise convolution.
fn high_pass(builder: &mut Builder<'_>, x: &str, filter: HighPass) -> String {
    let side = filter.kernel as usize;
    let pad = (side / 2) as i64;
    let pads = builder.ints(&[0, 0, pad, pad, 0, 0, pad, pad]);
    let reflect = Attribute::Text("mode", "reflect");
    let mut blurred = builder.node("Pad", "high_pass.pad", &[x, &pads], vec![reflect]);
    let weights = filter.weights().repeat(3);
    for (name, h, w) in [("high_pass.rows", 1, side), ("high_pass.columns", side, 1)] {
        let kernel = builder.floats(&format!("{name}.weight"), &[3, 1, h, w], weights.clone());
        let attributes = vec![
            Attribute::Int("group", 3),
            Attribute::Ints("kernel_shape", vec![h as i64, w as i64]),
            Attribute::Ints("pads", vec![0; 4]),
            Attribute::Ints("strides", vec![1; 2]),
        ];
        blurred = builder.node("Conv", name, &[&blurred, &kernel], attributes);
    }
    builder.node("Sub", "high_pass", &[x, &blurred], vec![])
}

/// Adds the operations of one output; its value is named as [`OutputKind`] is shown.
pub(super) fn output(
    builder: &mut Builder<'_>,
    graph: &Graph,
    values: &[String],
    kind: OutputKind,
    normalize: bool,
) {
    let features = values[graph.features()].as_str();
    match kind {
        OutputKind::Embedding => embedding(builder, features, normalize),
        OutputKind::Saliency => {
            let axes = builder.ints(&[1]);
            builder.node("ReduceSum", "saliency", &[features, &axes], vec![Attribute::Int("keepdims", 0)]);
        }
        OutputKind::Stage(stage) => {
            let value = &values[graph.stage(usize::from(stage))];
            builder.node("Identity", &kind.to_string(), &[value], vec![]);
        }
    }
}

fn embedding(builder: &mut Builder<'_>, features: &str, normalize: bool) {
    let pooled = builder.node("GlobalAveragePool", "avgpool", &[features], vec![]);
    let name = if normalize { "flatten" } else { "embedding" };
    let x = builder.node_as("Flatten", "flatten", &[&pooled], name, vec![Attribute::Int("axis", 1)]);
    if !normalize {
        return;
    }
    // Spelt out, because the axes of ReduceL2 moved from an attribute to an input in opset 18.
    let axes = builder.ints(&[1]);
    let shortest = builder.floats("length.min", &[], vec![MIN_LENGTH]);
    let square = builder.node("Mul", "length.square", &[&x, &x], vec![]);
    let keep = Attribute::Int("keepdims", 1);
    let sum = builder.node("ReduceSum", "length.sum", &[&square, &axes], vec![keep]);
    let root = builder.node("Sqrt", "length.sqrt", &[&sum], vec![]);
    let length = builder.node("Max", "length", &[&root, &shortest], vec![]);
    builder.node("Div", "embedding", &[&x, &length], vec![]);
}
