//! Encoder and contract -> ONNX model.

mod alignment;
mod body;
mod builder;
mod check;
mod fold;
mod head;
mod matrix;
mod need;
mod options;
mod positions;
mod projection;
mod quantized;
mod saliency;
#[cfg(test)]
mod tests;
mod units;
mod values;
mod vit;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use occlude_checkpoint::Encoder;
use occlude_contract::{Golden, InputKind, key};
use occlude_encoder::{Graph, NodeId, Tap};
use occlude_preprocess::Preprocess;
use occlude_saliency::{Making, MapRule};

pub(crate) use check::NO_WHOLE_PATCHES;
pub use options::{ModelInfo, OPSETS, OnnxOptions, OutputKind, Pool, Precision};
pub use projection::{Alignment, Projection};
pub use quantized::Quantization;

use crate::Error;
use crate::proto::{Dim, Element, Form, Model, Value};
use crate::ranges::Smoothing;
use builder::Builder;

/// Longest file that protocol buffers can hold; its readers count in 32 bits with a sign.
pub(crate) const MAX_MESSAGE: u64 = i32::MAX as u64;

/// What becomes a model.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// The encoder.
    pub encoder: &'a Encoder<'a>,
    /// How its pictures are prepared.
    pub contract: &'a Preprocess,
    /// Its projection head; [`OutputKind::Projection`] needs one.
    pub projection: Option<&'a Projection>,
}

/// An ONNX model that is ready to be written.
pub struct OnnxModel<'a> {
    model: Model<'a>,
    doubts: Vec<String>,
}

/// Builds the model of an encoder.
///
/// Inputs and outputs have a dynamic batch size and the contract's picture size, or any:
/// `pixel_values` float (N, 3, H, W), normalised, or `images` uint8 (N, H, W, 3) ->
/// `embedding` (N, D), `saliency` (N, h, w), `projection` (N, P) and stages (N, C, h, w). A high-pass
/// filter in the contract becomes part of the graph for both kinds of input.
///
/// # Errors
/// [`Error::MissingWeight`] for an encoder that was loaded partially, [`Error::Options`] for options that
/// exclude each other, [`Error::NotFinite`] and [`Error::HalfOverflow`] for values that the model cannot hold.
pub fn model<'a>(
    network: Network<'a>,
    options: &OnnxOptions,
    info: &ModelInfo,
) -> Result<OnnxModel<'a>, Error> {
    check::check(network, options)?;
    let Network { encoder, contract, projection } = network;
    let graph = Graph::new(encoder.arch);
    let mut builder = Builder::new(encoder);
    let input = head::input(&mut builder, contract, options.input);
    let values = values(&mut builder, &graph, input.filtered, network, options)?;
    let half = options.precision == Precision::Fp16;
    let body = head::Body {
        graph: &graph,
        contract,
        pixels: input.pixels,
        making: options.saliency,
        any_size: options.dynamic_size,
        pool: options.pool,
        opset: options.opset,
        values,
        half,
        projection,
        normalize: options.normalize,
    };
    let mut outputs = Vec::new();
    for &kind in &options.outputs {
        head::output(&mut builder, &body, kind)?;
        outputs.push(output_value(&graph, network, kind, options)?);
    }
    let metadata = info.properties(encoder, contract, options);
    let mut model = assembled(builder, network, options, outputs, metadata);
    model.model.form = form(options);
    model.identify(contract)?;
    Ok(model)
}

/// The model in single precision that gives the values of some nodes of the graph, under the names in the list. Those that
/// quantisation asks for are [`quantized_inputs`] of a ResNet.
///
/// # Errors
/// As [`model`].
pub(crate) fn observed<'a>(
    network: Network<'a>,
    input: InputKind,
    nodes: &[NodeId],
    smoothing: &Smoothing,
) -> Result<(Vec<String>, OnnxModel<'a>), Error> {
    let Network { encoder, contract, .. } = network;
    let graph = Graph::new(encoder.arch);
    let options = OnnxOptions { input, ..OnnxOptions::default() };
    let mut builder = Builder::new(encoder);
    let input = head::input(&mut builder, contract, options.input).filtered;
    let values = match graph.arch.vit() {
        Some(vit) => {
            let how = how(network, &options, Some(smoothing));
            vit::encoder(&mut builder, &graph, vit, input, (how, &need::of_nodes(&graph, nodes)))?
        }
        None => values(&mut builder, &graph, input, network, &options)?,
    };
    let observe = |&id: &NodeId| match id {
        // An input may not be an output as well.
        0 => builder.node("Identity", "observed.input", &[&values[0]], vec![]),
        _ => values[id].clone(),
    };
    let observed: Vec<String> = nodes.iter().map(observe).collect();
    let output = |name: &String| Value { name: name.clone(), element: Element::Float, dims: vec![] };
    let outputs = observed.iter().map(output).collect();
    Ok((observed, assembled(builder, network, &options, outputs, vec![])))
}

/// The values of a ResNet that integer operations read or give.
pub(crate) fn quantized_inputs(graph: &Graph) -> Vec<NodeId> {
    std::iter::once(0).chain(units::units(graph).into_iter().map(|u| u.out)).collect()
}

/// The model of all that was added.
fn assembled<'a>(
    builder: Builder<'a>,
    network: Network<'a>,
    options: &OnnxOptions,
    outputs: Vec<Value>,
    metadata: Vec<(String, String)>,
) -> OnnxModel<'a> {
    let (nodes, initializers) = builder.finish();
    let name = network.encoder.arch.name();
    let inputs = vec![input_value(network.contract, options)];
    let form = None;
    let model = Model { opset: options.opset, name, nodes, initializers, inputs, outputs, metadata, form };
    OnnxModel { model, doubts: vec![] }
}

/// The map, whose operations depend on the operator set and on whether sizes are free, but not its numbers. The sum and
/// attention are made in one way.
fn form(options: &OnnxOptions) -> Option<Form> {
    let Making { rule, stage, block, .. } = options.saliency;
    let one = matches!(rule, MapRule::Sum | MapRule::Attention);
    let several = !one && options.outputs.contains(&OutputKind::Saliency);
    let place = block.map_or(format!("stage {stage}"), |block| format!("block {block}"));
    several.then(|| Form { of: OutputKind::Saliency.to_string(), what: format!("{rule} of {place}") })
}

/// Adds the encoder; gives the value of each node of the graph.
fn values(
    builder: &mut Builder<'_>,
    graph: &Graph,
    input: String,
    network: Network<'_>,
    options: &OnnxOptions,
) -> Result<Vec<String>, Error> {
    let float = |builder: &mut Builder<'_>, input, fold| match graph.arch.vit() {
        Some(vit) => {
            let needs = need::of_outputs(graph, options)?;
            vit::encoder(builder, graph, vit, input, (how(network, options, None), &needs))
        }
        None => body::encoder(builder, graph, input, fold),
    };
    match &options.precision {
        Precision::Fp32 => float(builder, input, options.fold),
        Precision::Fp16 => {
            let input = builder.cast(&input, Element::Float16);
            builder.set_half(true);
            let values = float(builder, input, true);
            builder.set_half(false);
            values
        }
        Precision::Int8(integers) => match graph.arch.vit() {
            Some(vit) => {
                let how = how(network, options, Some(&integers.calibration.smoothing));
                let how = vit::How { integers: Some(integers), ..how };
                vit::encoder(builder, graph, vit, input, (how, &need::of_outputs(graph, options)?))
            }
            None => quantized::encoder(builder, graph, input, integers),
        },
    }
}

/// A vision transformer in floating point.
fn how<'h>(network: Network<'_>, options: &OnnxOptions, smoothing: Option<&'h Smoothing>) -> vit::How<'h> {
    vit::How {
        side: (!options.dynamic_size).then_some(network.contract.crop as usize),
        half: options.precision == Precision::Fp16,
        smoothing,
        integers: None,
    }
}

/// The feature map of a stage.
fn stage(graph: &Graph, number: usize) -> Result<&Tap, Error> {
    let reason = "the network has no such stage: a ResNet's are 2 to 5, and a vision transformer has blocks";
    graph.stage(number).map(|id| &graph[id]).ok_or(Error::Options { reason })
}

/// What a map is made of.
pub(crate) fn source(graph: &Graph, making: Making) -> Result<&Tap, Error> {
    if making.rule == MapRule::Attention && graph.arch.vit().is_none() {
        let reason = "a ResNet has no attention; hint: `--saliency object`";
        return Err(Error::Options { reason });
    }
    match making.block {
        None => stage(graph, making.stage),
        Some(_) => {
            let reason = "the network has no such block: those of a vision transformer are counted from 0";
            graph.tap(&making.tap()).map(|id| &graph[id]).ok_or(Error::Options { reason })
        }
    }
}

impl OnnxModel<'_> {
    /// Looks at all values, and adds what they and the operations amount to.
    fn identify(&mut self, contract: &Preprocess) -> Result<(), Error> {
        let mut watch = values::Watch::default();
        let identity = self.model.identity(&contract.to_json(), &mut |i, values| watch.look(i, values));
        self.doubts = watch.finish()?;
        let unreadable = |reason| Error::Write { path: "memory".into(), reason };
        self.model.metadata.push((key::IDENTITY.to_owned(), identity.map_err(unreadable)?));
        Ok(())
    }

    /// What the user should hear about the values.
    pub fn doubts(&self) -> &[String] {
        &self.doubts
    }

    /// What the model computes, as [`key::IDENTITY`] says it.
    pub fn identity(&self) -> &str {
        self.model.metadata.iter().find(|(key, _)| key == key::IDENTITY).map_or("", |(_, value)| value)
    }

    /// Adds golden data to the metadata.
    pub fn set_golden(&mut self, golden: &Golden) {
        let pairs = golden.properties().into_iter().map(|(key, value)| (key.to_owned(), value));
        self.model.metadata.extend(pairs);
    }

    /// Bytes of the file that [`Self::write_to`] writes.
    pub fn byte_len(&self) -> u64 {
        self.model.message(None).len()
    }

    /// Whether one file is too small for the model.
    pub fn needs_external_data(&self) -> bool {
        self.byte_len() > MAX_MESSAGE
    }

    /// Writes the model in one piece; weights are streamed, folded ones computed on the way.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.model.message(None).write_to(out)
    }

    /// Writes a file that is whole or absent.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        write(path, |out| self.write_to(out))
    }

    /// Writes the model and, beside it, the weights as `NAME.onnx.data`; gives the path of the latter. Both
    /// files belong together: the model names the other one relative to itself.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save_external(&self, path: &Path) -> Result<PathBuf, Error> {
        let data = data_file(path);
        let name = data.file_name().unwrap_or_default().to_string_lossy();
        write(&data, |out| self.model.write_data(out))?;
        write(path, |out| self.model.message(Some(&name)).write_to(out))?;
        Ok(data)
    }
}

/// Where the weights of a model go that has them beside itself: `NAME.onnx.data`.
pub fn data_file(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(".data");
    path.with_file_name(name)
}

fn write(path: &Path, content: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    occlude_output::write(path, content).map_err(|reason| Error::Write { path: path.to_owned(), reason })
}

/// The channel sum of the last features.
pub(crate) fn sum(graph: &Graph) -> Making {
    match graph.arch.vit() {
        Some(vit) => Making::of_block(MapRule::Sum, vit.depth - 1),
        None => Making::SUM,
    }
}

fn named(name: impl Into<String>) -> Dim {
    Dim::Named(name.into())
}

fn input_value(contract: &Preprocess, options: &OnnxOptions) -> Value {
    let side =
        |name: &str| if options.dynamic_size { named(name) } else { Dim::Fixed(contract.crop as usize) };
    let (batch, height, width) = (named("batch"), side("height"), side("width"));
    let (element, dims) = match options.input {
        InputKind::Float => (Element::Float, vec![batch, Dim::Fixed(3), height, width]),
        InputKind::Uint8 => (Element::Uint8, vec![batch, height, width, Dim::Fixed(3)]),
    };
    Value { name: options.input.name().to_owned(), element, dims }
}

fn output_value(
    graph: &Graph,
    network: Network<'_>,
    kind: OutputKind,
    options: &OnnxOptions,
) -> Result<Value, Error> {
    let map = |tap: &Tap, number: usize| {
        let side = |direction: &str| match options.dynamic_size {
            true => named(format!("{direction}{number}")),
            false => Dim::Fixed(tap.side(network.contract.crop as usize)),
        };
        [Dim::Fixed(tap.channels), side("height"), side("width")]
    };
    let sides =
        |making: Making| Ok::<_, Error>(map(source(graph, making)?, making.stage).into_iter().skip(1));
    let mut dims = vec![named("batch")];
    match kind {
        OutputKind::Embedding => {
            let parts = if options.pool == Pool::Both { 2 } else { 1 };
            dims.push(Dim::Fixed(parts * network.encoder.embedding_dim()));
        }
        OutputKind::Projection => dims.extend(network.projection.map(|head| Dim::Fixed(head.dim()))),
        OutputKind::Saliency => {
            let rule = options.saliency.rule;
            let stride = source(graph, options.saliency)?.stride;
            let cells = rule.cells(network.contract.crop as usize, stride);
            match (rule, options.dynamic_size) {
                (MapRule::Object, true) => dims.extend(["height_fine", "width_fine"].map(named)),
                (MapRule::Object, false) => dims.extend([Dim::Fixed(cells), Dim::Fixed(cells)]),
                (MapRule::Sum | MapRule::Border | MapRule::Alignment | MapRule::Attention, _) => {
                    dims.extend(sides(options.saliency)?);
                }
            }
        }
        OutputKind::SaliencySum | OutputKind::Alignment => dims.extend(sides(sum(graph))?),
        OutputKind::Stage(number) => {
            let number = usize::from(number);
            dims.extend(map(stage(graph, number)?, number));
        }
        OutputKind::Tokens => {
            let patches = graph.arch.vit().map_or(0, |vit| network.contract.crop as usize / vit.patch).pow(2);
            dims.push(match options.dynamic_size {
                true => named("length"),
                false => Dim::Fixed(graph.prefix() + patches),
            });
            dims.push(Dim::Fixed(graph.arch.feature_dim()));
        }
    }
    Ok(Value { name: kind.to_string(), element: Element::Float, dims })
}
