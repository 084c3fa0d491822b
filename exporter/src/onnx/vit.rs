//! A vision transformer's operations, in floating point but for products that are asked for in integers.

use std::borrow::Cow;

use occlude_encoder::{Graph, Node, NodeId, Op, Param, ParamKind, Vit};

use super::builder::Builder;
use super::matrix::Matrix;
use super::need::Need;
use super::positions::any_size;
use super::quantized::{Quantization, product};
use crate::proto::{Attribute, Element};
use crate::ranges::Smoothing;
use crate::{Error, positions};

/// The patches as a feature map, (N, D, h, w).
pub(super) const PATCHES: &str = "patch_embed.proj";

/// How a network is written.
#[derive(Clone, Copy)]
pub(super) struct How<'h> {
    /// Side of pictures, in pixels; `None` where they have any size.
    pub(super) side: Option<usize>,
    /// Everything is in half precision.
    pub(super) half: bool,
    /// What normalised channels are divided by.
    pub(super) smoothing: Option<&'h Smoothing>,
    /// Products are in integers.
    pub(super) integers: Option<&'h Quantization>,
}

/// Adds every operation up to the tokens of the end that is needed; gives the value of each node of the graph that another
/// one, or an output, reads. Where the class token alone is needed, the value has no other.
pub(super) fn encoder(
    builder: &mut Builder<'_>,
    graph: &Graph,
    vit: Vit,
    input: String,
    (how, needs): (How<'_>, &[Need]),
) -> Result<Vec<String>, Error> {
    let mut values = vec![String::new(); graph.nodes.len()];
    values[0] = input;
    let mut body = Body { builder, graph, vit, how, needs, values };
    let nodes = graph.nodes.iter().enumerate().take(graph.features() + 1).skip(1);
    for (id, node) in nodes.filter(|&(id, _)| needs[id] != Need::Nothing) {
        let value = body.node(id, node)?;
        body.values[id] = value;
    }
    Ok(body.values)
}

struct Body<'b, 'a> {
    builder: &'b mut Builder<'a>,
    graph: &'b Graph,
    vit: Vit,
    how: How<'b>,
    /// Of each node.
    needs: &'b [Need],
    values: Vec<String>,
}

impl<'a> Body<'_, 'a> {
    fn node(&mut self, id: NodeId, node: &Node) -> Result<String, Error> {
        let alone = self.needs[id] == Need::Class;
        let inputs: Vec<String> = match node.op {
            Op::Scores { .. } | Op::Mix { .. } => {
                node.inputs.iter().map(|&i| self.values[i].clone()).collect()
            }
            _ => node.inputs.iter().map(|&i| self.as_needed(i, alone)).collect(),
        };
        let x = inputs[0].as_str();
        Ok(match node.op {
            Op::Patches { channels, side } => self.patches(node, x, channels, side)?,
            // what is no picture is added at once, behind the last of these
            Op::ClassToken { .. } | Op::Position { .. } | Op::Registers { .. } => {
                let next = self.graph.nodes.get(id + 1).map(|next| next.op);
                match next {
                    Some(Op::LayerNorm { .. }) => self.embedded(x)?,
                    _ => x.to_owned(),
                }
            }
            Op::LayerNorm { eps, .. } => {
                let [weight, bias] =
                    [ParamKind::NormWeight, ParamKind::NormBias].map(|kind| self.smoothed(node, kind));
                let epsilon = Attribute::Float("epsilon", 10f32.powi(-i32::from(eps)));
                let attributes = vec![Attribute::Int("axis", -1), epsilon];
                self.add("LayerNormalization", &node.name, &[x, &weight?, &bias?], attributes)
            }
            Op::Linear { inputs, outputs } => self.linear(node, x, [inputs, outputs])?,
            Op::Gelu => self.gelu(&node.name, x),
            Op::Gate => self.gate(&node.name, x),
            Op::LayerScale { .. } => {
                let gamma = self.parameter(node, ParamKind::Scale)?;
                self.add("Mul", &node.name, &[x, &gamma], vec![])
            }
            Op::DropPath { .. } => x.to_owned(),
            Op::Add => self.add("Add", &node.name, &[x, &inputs[1]], vec![]),
            Op::Scores { heads } => self.scores(&node.name, x, heads, alone),
            Op::Mix { heads } => self.mix(&node.name, x, &inputs[1], heads),
            Op::Input
            | Op::Conv { .. }
            | Op::BatchNorm { .. }
            | Op::Relu
            | Op::MaxPool { .. }
            | Op::GlobalAvgPool
            | Op::First => unreachable!("no transformer has `{}` in its body", node.name),
        })
    }

    /// A node's value (N, T, D) for one that computes all tokens, or the class token alone (N, 1, D).
    fn as_needed(&mut self, id: NodeId, alone: bool) -> String {
        let value = self.values[id].clone();
        if alone && self.needs[id] == Need::All { self.first(&value, 1) } else { value }
    }

    /// The first of an axis, which stays.
    fn first(&mut self, value: &str, axis: i64) -> String {
        let name = format!("{value}.class");
        if self.builder.has(&name) {
            return name;
        }
        let [from, to, axes] = [0, 1, axis].map(|n| self.builder.ints(&[n]));
        self.add("Slice", &name, &[value, &from, &to, &axes], vec![])
    }

    fn add(&mut self, op: &'static str, name: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        self.builder.node(op, name, inputs, attributes)
    }

    fn parameter(&mut self, node: &Node, kind: ParamKind) -> Result<String, Error> {
        self.builder.add_param(of_kind(node, kind)?)
    }

    fn constant(&mut self, name: &str, value: f32) -> String {
        if self.builder.has_initializer(name) {
            return name.to_owned();
        }
        self.builder.floats(name, &[], vec![value])
    }

    /// (N, 3, H, W) -> (N, h w, D)
    fn patches(&mut self, node: &Node, x: &str, channels: usize, side: usize) -> Result<String, Error> {
        let weight = self.parameter(node, ParamKind::PatchWeight)?;
        let bias = self.parameter(node, ParamKind::Bias)?;
        let both = |name, n: usize| Attribute::Ints(name, vec![n as i64; 2]);
        let attributes =
            vec![both("kernel_shape", side), Attribute::Ints("pads", vec![0; 4]), both("strides", side)];
        let maps = self.add("Conv", &node.name, &[x, &weight, &bias], attributes);
        let shape = self.builder.ints(&[0, channels as i64, -1]);
        let flat = self.add("Reshape", "patch_embed.flat", &[&maps, &shape], vec![]);
        let order = Attribute::Ints("perm", vec![0, 2, 1]);
        Ok(self.add("Transpose", "patch_embed", &[&flat], vec![order]))
    }

    /// Room for the class token and registers, and then all that is the same for every picture.
    fn embedded(&mut self, x: &str) -> Result<String, Error> {
        let (prefix, width) = (self.vit.prefix(), self.vit.width);
        let pads = self.builder.ints(&[0, prefix as i64, 0, 0, 0, 0]);
        let padded = self.add("Pad", "tokens.pad", &[x, &pads], vec![]);
        let (first, learnt) = self.same_for_all()?;
        let same = match self.how.side {
            Some(side) => {
                let cells = side / self.vit.patch;
                let patches = positions::resized(Vit { class_position: false, ..self.vit }, &learnt, cells);
                let all = [first, patches].concat();
                self.builder.floats("tokens.same", &[1, prefix + cells * cells, width], all)
            }
            None => self.same_for_size(first, learnt),
        };
        Ok(self.add("Add", "tokens.embedded", &[&padded, &same], vec![]))
    }

    /// All that is the same for every picture of a size, (1, T, D); positions are resized in single precision.
    fn same_for_size(&mut self, first: Vec<f32>, learnt: Vec<f32>) -> String {
        self.builder.set_half(false);
        let first = self.builder.floats("tokens.first", &[1, self.vit.prefix(), self.vit.width], first);
        let patches = any_size(self.builder, self.vit, PATCHES, learnt);
        let axis = vec![Attribute::Int("axis", 1)];
        let same = self.add("Concat", "tokens.same", &[&first, &patches], axis);
        self.builder.set_half(self.how.half);
        if self.how.half { self.builder.cast(&same, Element::Float16) } else { same }
    }

    /// Class token and registers, (1, prefix, D), the former with its position; and the positions of the grid.
    fn same_for_all(&self) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let (vit, width) = (self.vit, self.vit.width);
        let mut class = self.builder.parameter("cls_token")?.into_owned();
        let positions = self.builder.parameter("pos_embed")?;
        let (own, patches) = positions.split_at(if vit.class_position { width } else { 0 });
        class.iter_mut().zip(own).for_each(|(class, position)| *class += position);
        let registers = match vit.registers {
            0 => Cow::Borrowed(&[] as &[f32]),
            _ => self.builder.parameter("reg_token")?,
        };
        Ok(([class.as_slice(), &registers].concat(), patches.to_vec()))
    }

    /// Factors of the channels of a node's value.
    fn factors(&self, node: &str) -> Option<Vec<f32>> {
        self.how.smoothing.and_then(|smoothing| smoothing.get(node)).cloned()
    }

    /// A parameter of a normalisation, of which each channel is divided by its factor.
    fn smoothed(&mut self, node: &Node, kind: ParamKind) -> Result<String, Error> {
        let Some(factors) = self.factors(&node.name) else { return self.parameter(node, kind) };
        let param = of_kind(node, kind)?;
        let values = self.builder.parameter(&param.name)?;
        let values = values.iter().zip(&factors).map(|(v, f)| v / f).collect();
        Ok(self.builder.floats(&param.name, &param.shape, values))
    }

    /// Tokens by a matrix, and the bias.
    fn linear(&mut self, node: &Node, x: &str, sides: [usize; 2]) -> Result<String, Error> {
        let name = of_kind(node, ParamKind::Weight)?.name.clone();
        self.builder.parameter(&name)?;
        let from = &self.graph.nodes[node.inputs[0]].name;
        let matrix = Matrix { encoder: self.builder.encoder(), name, sides, factors: self.factors(from) };
        let integers = self.how.integers.filter(|how| how.covers_product(self.vit, &node.name));
        let product = match integers {
            Some(how) => {
                let range = how.calibration.range(from)?;
                product(self.builder, &node.name, (x, range), matrix, how.largest())
            }
            None => {
                let weight = matrix.add(self.builder);
                self.add("MatMul", &format!("{}.product", node.name), &[x, &weight], vec![])
            }
        };
        let bias = self.parameter(node, ParamKind::Bias)?;
        Ok(self.add("Add", &node.name, &[&product, &bias], vec![]))
    }

    /// `x (1 + erf(x / sqrt(2))) / 2`, in the form that runtimes know.
    fn gelu(&mut self, name: &str, x: &str) -> String {
        let part = |leaf: &str| format!("{name}.{leaf}");
        let root = self.constant("gelu.sqrt2", std::f32::consts::SQRT_2);
        let (one, half) = (self.constant("gelu.one", 1.0), self.constant("gelu.half", 0.5));
        let scaled = self.add("Div", &part("scaled"), &[x, &root], vec![]);
        let erf = self.add("Erf", &part("erf"), &[&scaled], vec![]);
        let above = self.add("Add", &part("above"), &[&erf, &one], vec![]);
        let product = self.add("Mul", &part("product"), &[x, &above], vec![]);
        self.add("Mul", name, &[&product, &half], vec![])
    }

    fn gate(&mut self, name: &str, x: &str) -> String {
        let half = self.vit.hidden() as i64;
        let part = |leaf: &str| format!("{name}.{leaf}");
        let axis = self.builder.ints(&[2]);
        let [first, second] =
            [("first", [0, half]), ("second", [half, 2 * half])].map(|(leaf, [from, to])| {
                let (from, to) = (self.builder.ints(&[from]), self.builder.ints(&[to]));
                self.add("Slice", &part(leaf), &[x, &from, &to, &axis], vec![])
            });
        let sigmoid = self.add("Sigmoid", &part("sigmoid"), &[&first], vec![]);
        let silu = self.add("Mul", &part("silu"), &[&first, &sigmoid], vec![]);
        self.add("Mul", name, &[&silu, &second], vec![])
    }

    /// Queries, keys or values of each head, (N, heads, T, d).
    fn part(&mut self, qkv: &str, heads: usize, which: i64) -> String {
        let turned = format!("{qkv}.heads");
        if !self.builder.has(&turned) {
            let (heads, each) = (heads as i64, (self.vit.width / heads) as i64);
            let shape = self.builder.ints(&[0, 0, 3, heads, each]);
            let apart = self.add("Reshape", &format!("{qkv}.apart"), &[qkv, &shape], vec![]);
            let order = Attribute::Ints("perm", vec![2, 0, 3, 1, 4]);
            self.add("Transpose", &turned, &[&apart], vec![order]);
        }
        let index = self.builder.int(which);
        let name = format!("{qkv}.{which}");
        self.add("Gather", &name, &[&turned, &index], vec![Attribute::Int("axis", 0)])
    }

    /// Attention (N, heads, T, T), or the class token's row of it (N, heads, 1, T).
    fn scores(&mut self, name: &str, qkv: &str, heads: usize, alone: bool) -> String {
        let [q, k] = [0, 1].map(|which| self.part(qkv, heads, which));
        let q = if alone { self.first(&q, 2) } else { q };
        let scale = ((self.vit.width / heads) as f32).powf(-0.5);
        let scale = self.constant("attention.scale", scale);
        let q = self.add("Mul", &format!("{name}.scaled"), &[&q, &scale], vec![]);
        let order = Attribute::Ints("perm", vec![0, 1, 3, 2]);
        let k = self.add("Transpose", &format!("{name}.keys"), &[&k], vec![order]);
        let products = self.add("MatMul", &format!("{name}.products"), &[&q, &k], vec![]);
        self.add("Softmax", name, &[&products], vec![Attribute::Int("axis", -1)])
    }

    fn mix(&mut self, name: &str, scores: &str, qkv: &str, heads: usize) -> String {
        let v = self.part(qkv, heads, 2);
        let seen = self.add("MatMul", &format!("{name}.heads"), &[scores, &v], vec![]);
        let order = Attribute::Ints("perm", vec![0, 2, 1, 3]);
        let turned = self.add("Transpose", &format!("{name}.turned"), &[&seen], vec![order]);
        let shape = self.builder.ints(&[0, 0, self.vit.width as i64]);
        self.add("Reshape", name, &[&turned, &shape], vec![])
    }
}

fn of_kind(node: &Node, kind: ParamKind) -> Result<&Param, Error> {
    node.param(kind).ok_or_else(|| Error::MissingWeight { name: node.name.clone() })
}
