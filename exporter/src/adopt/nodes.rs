//! The operations that make a model's output the embedding.

use occlude_contract::{InputKind, output};

use super::choice::{Chosen, Pooling};
use crate::proto::{Attribute, Dim, Element, Initializer, Node, Value, Weights};

/// Shortest length that an embedding is divided by, as in `torch.nn.functional.normalize`.
pub(super) const MIN_LENGTH: f32 = 1e-12;

/// From which operator sets on the axes of a reduction are an input: of sums, and of means.
const AXES: (i64, i64) = (13, 18);

/// What is added to a graph.
#[derive(Default)]
pub(super) struct Added {
    pub(super) nodes: Vec<Node>,
    pub(super) initializers: Vec<Initializer<'static>>,
}

impl Added {
    fn node(&mut self, op: &'static str, inputs: &[&str], output: &str, attributes: Vec<Attribute>) {
        let inputs = inputs.iter().map(|&i| i.to_owned()).collect();
        self.nodes.push(Node { op, name: output.to_owned(), inputs, output: output.to_owned(), attributes });
    }

    fn constant(&mut self, name: &str, dims: &[usize], weights: Weights<'static>) -> String {
        self.initializers.push(Initializer { name: name.to_owned(), dims: dims.to_vec(), weights });
        name.to_owned()
    }

    /// A reduction over one axis, which is an attribute before the operator set `input`.
    fn reduce(&mut self, op: &'static str, x: &str, name: &str, (opset, input): (i64, i64), keep: bool) {
        let mut attributes = vec![Attribute::Int("keepdims", i64::from(keep))];
        if opset < input {
            attributes.push(Attribute::Ints("axes", vec![1]));
            return self.node(op, &[x], name, attributes);
        }
        let axes = self.constant(&format!("{name}.axes"), &[1], Weights::int64(&[1]));
        self.node(op, &[x, &axes], name, attributes);
    }
}

/// The picture under the original's name, where that is another one.
pub(super) fn before(chosen: &Chosen) -> Added {
    let mut added = Added::default();
    let picture = InputKind::Float.name();
    if chosen.choice.input != picture {
        added.node("Identity", &[picture], &chosen.choice.input, vec![]);
    }
    added
}

/// The embedding of the value `x`, which is the chosen output.
pub(super) fn after(chosen: &Chosen, x: &str, opset: i64) -> Added {
    let mut added = Added::default();
    let name = |leaf: &str| format!("occlude.{leaf}");
    let mut x = x.to_owned();
    if chosen.rank == 3 {
        // A global pool needs no axes, but leaves two sides of one.
        added.node("GlobalAveragePool", &[&x], &name("mean"), vec![]);
        added.node("Flatten", &[&name("mean")], &name("pooled"), vec![Attribute::Int("axis", 1)]);
        x = name("pooled");
    } else if chosen.rank == 2 {
        match chosen.choice.pool {
            Some(Pooling::Mean) => {
                if chosen.choice.skip > 0 {
                    let ends = [("from", chosen.choice.skip as i64), ("to", i64::MAX), ("axis", 1)];
                    let [from, to, axis] =
                        ends.map(|(leaf, n)| added.constant(&name(leaf), &[1], Weights::int64(&[n])));
                    added.node("Slice", &[&x, &from, &to, &axis], &name("tokens"), vec![]);
                    x = name("tokens");
                }
                added.reduce("ReduceMean", &x, &name("pooled"), (opset, AXES.1), false);
            }
            _ => {
                let first = added.constant(&name("first"), &[], Weights::int64(&[0]));
                added.node("Gather", &[&x, &first], &name("pooled"), vec![Attribute::Int("axis", 1)]);
            }
        }
        x = name("pooled");
    }
    if chosen.choice.normalize {
        let shortest = added.constant(&name("shortest"), &[], Weights::few(vec![MIN_LENGTH]));
        added.node("Mul", &[&x, &x], &name("square"), vec![]);
        added.reduce("ReduceSum", &name("square"), &name("sum"), (opset, AXES.0), true);
        added.node("Sqrt", &[&name("sum")], &name("root"), vec![]);
        added.node("Max", &[&name("root"), &shortest], &name("length"), vec![]);
        added.node("Div", &[&x, &name("length")], output::EMBEDDING, vec![]);
    } else if x != output::EMBEDDING {
        added.node("Identity", &[&x], output::EMBEDDING, vec![]);
    }
    added
}

/// The input and the output.
pub(super) fn ports(chosen: &Chosen, crop: u32) -> [Value; 2] {
    let (batch, side) = (|| Dim::Named("batch".to_owned()), || Dim::Fixed(crop as usize));
    let float = |name: &str, dims| Value { name: name.to_owned(), element: Element::Float, dims };
    let width = chosen.dim.map_or(Dim::Named("width".to_owned()), Dim::Fixed);
    [
        float(InputKind::Float.name(), vec![batch(), Dim::Fixed(3), side(), side()]),
        float(output::EMBEDDING, vec![batch(), width]),
    ]
}
