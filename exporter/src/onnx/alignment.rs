//! The output `alignment`: where LEWEL's alignment maps are high, on average (arXiv 2203.14898, section 3.2).
//!
//! The projection head is applied to every position of the last feature map, as convolutions of one position; each number of
//! what it gives becomes a map by a softmax over positions, and the maps are averaged.

use super::builder::Builder;
use super::projection::Alignment;
use crate::proto::Attribute;

/// Shortest length that a projection is divided by, as in `torch.nn.functional.normalize`.
const MIN_LENGTH: f32 = 1e-12;

/// Adds the map `name` (N, h, w) of features (N, C, h, w), single precision.
pub(super) fn map(builder: &mut Builder<'_>, name: &str, alignment: Alignment<'_>, features: String) {
    let Alignment { head, scale } = alignment;
    let part = |leaf: &str| format!("{name}.{leaf}");
    let keep = || vec![Attribute::Int("keepdims", 1)];
    let x = head.at_positions(builder, &part("head"), features); // (N, d, h, w)
    let (channels, plane) = (builder.ints(&[1]), builder.ints(&[2, 3]));
    let square = builder.node("Mul", &part("square"), &[&x, &x], vec![]);
    let sum = builder.node("ReduceSum", &part("sum"), &[&square, &channels], keep());
    let root = builder.node("Sqrt", &part("sqrt"), &[&sum], vec![]);
    let shortest = builder.floats(&part("min"), &[], vec![MIN_LENGTH]);
    let length = builder.node("Max", &part("length"), &[&root, &shortest], vec![]);
    let unit = builder.node("Div", &part("unit"), &[&x, &length], vec![]);
    let scale = builder.floats(&part("scale"), &[], vec![scale]);
    let scores = builder.node("Div", &part("scores"), &[&unit, &scale], vec![]);
    // softmax over both axes of the plane, less the greatest so that nothing overflows
    let most = builder.node("GlobalMaxPool", &part("most"), &[&scores], vec![]);
    let below = builder.node("Sub", &part("below"), &[&scores, &most], vec![]);
    let high = builder.node("Exp", &part("exp"), &[&below], vec![]);
    let total = builder.node("ReduceSum", &part("total"), &[&high, &plane], keep());
    let maps = builder.node("Div", &part("maps"), &[&high, &total], vec![]);
    let all =
        builder.node("ReduceSum", &part("all"), &[&maps, &channels], vec![Attribute::Int("keepdims", 0)]);
    let count = builder.floats(&part("count"), &[], vec![head.dim() as f32]);
    builder.node("Div", name, &[&all, &count], vec![]);
}
