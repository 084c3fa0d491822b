//! What comes before the encoder, and what comes out behind it.

use std::borrow::Cow;

use occlude_checkpoint::Whitening;
use occlude_contract::InputKind;
use occlude_encoder::{Graph, Tap, TapKind};
use occlude_preprocess::{HighPass, Preprocess};
use occlude_saliency::{Making, MapRule};

use super::alignment;
use super::builder::Builder;
use super::options::{OutputKind, Pool};
use super::projection::Projection;
use super::vit::PATCHES;
use super::{saliency, source, stage, sum};
use crate::Error;
use crate::proto::{Attribute, Element, Weights};

/// Shortest length that an embedding is divided by, as in `torch.nn.functional.normalize`.
const MIN_LENGTH: f32 = 1e-12;

/// The picture on its way to the encoder, (N, 3, H, W).
#[derive(Clone)]
pub(super) struct Input {
    /// Normalised.
    pub(super) pixels: String,
    /// What the encoder takes: behind the contract's filter.
    pub(super) filtered: String,
}

/// From the model's input to what the encoder takes.
pub(super) fn input(builder: &mut Builder<'_>, contract: &Preprocess, kind: InputKind) -> Input {
    let pixels = match kind {
        InputKind::Float => kind.name().to_owned(),
        InputKind::Uint8 => normalise(builder, kind.name(), contract),
    };
    let filtered = match contract.high_pass {
        Some(filter) => high_pass(builder, &pixels, filter),
        None => pixels.clone(),
    };
    Input { pixels, filtered }
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

/// What outputs are made from.
pub(super) struct Body<'b> {
    pub(super) graph: &'b Graph,
    pub(super) contract: &'b Preprocess,
    /// The normalised picture.
    pub(super) pixels: String,
    pub(super) making: Making,
    /// Whether pictures have any size.
    pub(super) any_size: bool,
    pub(super) opset: u32,
    /// Of each node of the graph.
    pub(super) values: Vec<String>,
    /// Whether they are halves.
    pub(super) half: bool,
    pub(super) projection: Option<&'b Projection>,
    /// Scale embeddings and projections to length one.
    pub(super) normalize: bool,
    /// What of a vision transformer's tokens the embedding is.
    pub(super) pool: Pool,
}

impl Body<'_> {
    /// Value of a node, in single precision.
    fn value(&self, builder: &mut Builder<'_>, node: usize) -> String {
        let value = &self.values[node];
        if self.half { builder.cast(value, Element::Float) } else { value.clone() }
    }

    /// A map of a stage.
    fn map(&self, builder: &mut Builder<'_>, name: &str, making: Making) -> Result<(), Error> {
        if making.rule == MapRule::Alignment {
            self.alignment(builder, name);
            return Ok(());
        }
        let tap = source(self.graph, making)?;
        let features = self.features(builder, tap);
        let source = saliency::Source {
            features: &features,
            pixels: &self.pixels,
            contract: self.contract,
            opset: self.opset,
            stride: tap.stride,
            side: (!self.any_size).then_some(self.contract.crop as usize),
        };
        saliency::map(builder, name, making.rule, &source);
        Ok(())
    }

    /// The mean alignment map; [`super::check`] has seen that there is one.
    fn alignment(&self, builder: &mut Builder<'_>, name: &str) {
        let features = self.value(builder, self.graph.features());
        if let Some(of) = self.projection.and_then(Projection::alignment) {
            alignment::map(builder, name, of, features);
        }
    }

    /// A tapped value as feature map (N, C, h, w), in single precision.
    fn features(&self, builder: &mut Builder<'_>, tap: &Tap) -> String {
        let value = self.value(builder, tap.node);
        let side = tap.side(self.contract.crop as usize) as i64;
        match tap.kind {
            TapKind::Map => value,
            TapKind::Tokens => {
                let name = format!("{}.map", tap.name);
                if builder.has(&name) {
                    return name;
                }
                let patches = self.patches(builder, &tap.name, &value);
                let turned = format!("{}.turned", tap.name);
                let order = Attribute::Ints("perm", vec![0, 2, 1]);
                let turned = builder.node("Transpose", &turned, &[&patches], vec![order]);
                let shape = match self.any_size {
                    // the patches' own map has as many channels
                    true => shape_of(builder, PATCHES),
                    false => builder.ints(&[0, tap.channels as i64, side, side]),
                };
                builder.node("Reshape", &name, &[&turned, &shape], vec![])
            }
            TapKind::Attention => self.attention(builder, tap, &value, side),
        }
    }

    /// The class token's attention to patches, mean over heads: (N, 1, h, w).
    fn attention(&self, builder: &mut Builder<'_>, tap: &Tap, value: &str, side: i64) -> String {
        let part = |leaf: &str| format!("{}.{leaf}", tap.name);
        let zero = builder.int(0);
        let axis = Attribute::Int("axis", 2);
        let of_class = builder.node("Gather", &part("class"), &[value, &zero], vec![axis]); // (N, heads, T)
        let (from, to, axes) =
            (builder.ints(&[self.graph.prefix() as i64]), builder.ints(&[i64::MAX]), builder.ints(&[2]));
        let patches = builder.node("Slice", &part("patches"), &[&of_class, &from, &to, &axes], vec![]);
        // the axes of ReduceMean moved from an attribute to an input in opset 18, those of ReduceSum in 13
        let axes = builder.ints(&[1]);
        let keep = Attribute::Int("keepdims", 1);
        let sum = builder.node("ReduceSum", &part("sum"), &[&patches, &axes], vec![keep]);
        let share = builder.floats(&part("share"), &[], vec![1.0 / tap.channels as f32]);
        let mean = builder.node("Mul", &part("mean"), &[&sum, &share], vec![]);
        let shape = match self.any_size {
            true => {
                let [from, to] = [0, 1].map(|at| builder.ints(&[at]));
                let like = builder.node("Slice", &part("like"), &[PATCHES, &from, &to, &to], vec![]);
                shape_of(builder, &like)
            }
            false => builder.ints(&[0, 1, side, side]),
        };
        builder.node("Reshape", &part("map"), &[&mean, &shape], vec![])
    }

    /// The tokens of patches.
    fn patches(&self, builder: &mut Builder<'_>, name: &str, tokens: &str) -> String {
        let [from, to, axes] = [self.graph.prefix() as i64, i64::MAX, 1].map(|n| builder.ints(&[n]));
        builder.node("Slice", &format!("{name}.patches"), &[tokens, &from, &to, &axes], vec![])
    }

    /// A vision transformer's embedding (N, D) or (N, 2 D); asked for twice, it is computed once.
    fn pooled_tokens(&self, builder: &mut Builder<'_>) -> String {
        let name = format!("pooled.{}", self.pool.name());
        if builder.has(&name) {
            return name;
        }
        let tokens = self.value(builder, self.graph.features());
        let class = |builder: &mut Builder<'_>, name: &str| {
            let zero = builder.int(0);
            builder.node("Gather", name, &[&tokens, &zero], vec![Attribute::Int("axis", 1)])
        };
        let mean = |builder: &mut Builder<'_>, name: &str| {
            let patches = self.patches(builder, "pooled", &tokens);
            if self.any_size {
                let order = vec![Attribute::Ints("perm", vec![0, 2, 1])];
                let turned = builder.node("Transpose", "pooled.turned", &[&patches], order);
                let mean = builder.node("GlobalAveragePool", "pooled.average", &[&turned], vec![]);
                let axes = builder.ints(&[2]);
                return builder.node("Squeeze", name, &[&mean, &axes], vec![]);
            }
            let axes = builder.ints(&[1]);
            let keep = Attribute::Int("keepdims", 0);
            let sum = builder.node("ReduceSum", "pooled.sum", &[&patches, &axes], vec![keep]);
            let patch = self.graph.arch.vit().map_or(1, |vit| vit.patch);
            let count = (self.contract.crop as usize / patch).pow(2);
            let share = builder.floats("pooled.share", &[], vec![1.0 / count as f32]);
            builder.node("Mul", name, &[&sum, &share], vec![])
        };
        match self.pool {
            Pool::Class => class(builder, &name),
            Pool::Mean => mean(builder, &name),
            Pool::Both => {
                let (class, mean) = (class(builder, "pooled.class"), mean(builder, "pooled.patch_mean"));
                builder.node("Concat", &name, &[&class, &mean], vec![Attribute::Int("axis", 1)])
            }
        }
    }

    /// The pooled features (N, D); asked for twice, they are computed once.
    fn pooled(&self, builder: &mut Builder<'_>) -> String {
        if self.graph.arch.vit().is_some() {
            return self.pooled_tokens(builder);
        }
        let features = self.value(builder, self.graph.features());
        if builder.has("flatten") {
            return "flatten".to_owned();
        }
        let pooled = builder.node("GlobalAveragePool", "avgpool", &[&features], vec![]);
        builder.node("Flatten", "flatten", &[&pooled], vec![Attribute::Int("axis", 1)])
    }
}

/// The shape of a value, for `Reshape` alone: shapes are on the CPU, and what computes with them would be, too.
fn shape_of(builder: &mut Builder<'_>, value: &str) -> String {
    let name = format!("{value}.shape");
    if builder.has(&name) { name } else { builder.node("Shape", &name, &[value], vec![]) }
}

/// Adds the operations of one output; its value is named as [`OutputKind`] is shown.
///
/// # Errors
/// [`Error::Options`] for a stage that the network lacks.
pub(super) fn output(builder: &mut Builder<'_>, body: &Body<'_>, kind: OutputKind) -> Result<(), Error> {
    let name = kind.to_string();
    match kind {
        OutputKind::Embedding => {
            let pooled = body.pooled(builder);
            let embedding = match &builder.encoder().whitening {
                Some(whitening) => whitened(builder, whitening, &pooled),
                None => pooled,
            };
            vector(builder, &name, &embedding, body.normalize);
        }
        OutputKind::Projection => {
            let pooled = body.pooled(builder);
            let projected = body.projection.map_or(pooled.clone(), |head| head.add(builder, pooled));
            vector(builder, &name, &projected, body.normalize);
        }
        OutputKind::Saliency => body.map(builder, &name, body.making)?,
        OutputKind::SaliencySum => body.map(builder, &name, sum(body.graph))?,
        OutputKind::Alignment => body.alignment(builder, &name),
        OutputKind::Tokens => {
            let value = body.value(builder, body.graph.features());
            builder.node("Identity", &name, &[&value], vec![]);
        }
        OutputKind::Stage(number) => {
            let value = body.value(builder, stage(body.graph, usize::from(number))?.node);
            builder.node("Identity", &name, &[&value], vec![]);
        }
    }
    Ok(())
}

/// The pooled features (N, D) through the checkpoint's whitening (N, d): one operation, in single precision whatever the
/// encoder computes with.
fn whitened<'a>(builder: &mut Builder<'a>, whitening: &'a Whitening, pooled: &str) -> String {
    const NAME: &str = "whiten";
    let bias = whitening.bias();
    let values = Weights::floats(bias.len(), move || Cow::Borrowed(bias));
    let bias = builder.add("whiten.bias", &[whitening.outputs()], values);
    let Some(weight) = whitening.weight() else {
        return builder.node("Add", NAME, &[pooled, &bias], vec![]);
    };
    let values = Weights::floats(weight.len(), move || Cow::Borrowed(weight));
    let weight = builder.add("whiten.weight", &[whitening.outputs(), whitening.inputs()], values);
    builder.node("Gemm", NAME, &[pooled, &weight, &bias], vec![Attribute::Int("transB", 1)])
}

/// A vector per picture, scaled to length one where that is asked for.
fn vector(builder: &mut Builder<'_>, name: &str, x: &str, normalize: bool) {
    if !normalize {
        builder.node("Identity", name, &[x], vec![]);
        return;
    }
    // Spelt out, because the axes of ReduceL2 moved from an attribute to an input in opset 18.
    let axes = builder.ints(&[1]);
    let part = |leaf: &str| format!("{name}.length.{leaf}");
    let shortest = builder.floats(&part("min"), &[], vec![MIN_LENGTH]);
    let square = builder.node("Mul", &part("square"), &[x, x], vec![]);
    let keep = Attribute::Int("keepdims", 1);
    let sum = builder.node("ReduceSum", &part("sum"), &[&square, &axes], vec![keep]);
    let root = builder.node("Sqrt", &part("sqrt"), &[&sum], vec![]);
    let length = builder.node("Max", &format!("{name}.length"), &[&root, &shortest], vec![]);
    builder.node("Div", name, &[x, &length], vec![]);
}
