//! Encoder and contract -> ONNX model.

mod body;
mod builder;
mod fold;
mod head;
mod options;

use std::io::{self, Write};
use std::path::Path;

use occlude_checkpoint::{Encoder, atomic};
use occlude_encoder::Graph;
use occlude_preprocess::Preprocess;

pub use options::{InputKind, ModelInfo, OPSETS, OnnxOptions, OutputKind};

use crate::Error;
use crate::proto::{Dim, Element, Model, Value};
use builder::Builder;

/// Name of the batch dimension.
const BATCH: &str = "batch";

/// An ONNX model that is ready to be written.
pub struct OnnxModel<'a> {
    model: Model<'a>,
}

/// Builds the model of an encoder.
///
/// Inputs and outputs have a dynamic batch size and the contract's picture size:
/// `pixel_values` float (N, 3, H, W), normalised, or `images` uint8 (N, H, W, 3) ->
/// `embedding` (N, D), `saliency` (N, h, w) and stages (N, C, h, w). A high-pass filter in the
/// contract becomes part of the graph for both kinds of input.
///
/// # Errors
/// [`Error::MissingWeight`] for an encoder that was loaded partially.
pub fn model<'a>(
    encoder: &'a Encoder,
    contract: &Preprocess,
    options: &OnnxOptions,
    info: &ModelInfo,
) -> Result<OnnxModel<'a>, Error> {
    let graph = Graph::new(encoder.arch);
    let mut builder = Builder::new(encoder);
    let input = head::input(&mut builder, contract, options.input);
    let values = body::encoder(&mut builder, &graph, input, options.fold)?;
    let mut outputs = Vec::new();
    for &kind in &options.outputs {
        head::output(&mut builder, &graph, &values, kind, options.normalize);
        outputs.push(output_value(&graph, contract, kind));
    }
    let (nodes, initializers) = builder.finish();
    let model = Model {
        opset: options.opset,
        name: encoder.arch.name().to_owned(),
        nodes,
        initializers,
        inputs: vec![input_value(contract, options.input)],
        outputs,
        metadata: info.properties(encoder.arch, contract, options),
    };
    Ok(OnnxModel { model })
}

impl OnnxModel<'_> {
    /// Bytes of the file.
    pub fn byte_len(&self) -> u64 {
        self.model.message().len()
    }

    /// Writes the model; weights are streamed, folded ones computed on the way.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        self.model.message().write_to(out)
    }

    /// Writes a file that is whole or absent.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        atomic::write(path, |out| self.write_to(out))
            .map_err(|reason| Error::Write { path: path.to_owned(), reason })
    }
}

fn input_value(contract: &Preprocess, kind: InputKind) -> Value {
    let (batch, side) = (Dim::Named(BATCH), Dim::Fixed(contract.crop as usize));
    let (element, dims) = match kind {
        InputKind::Float => (Element::Float, vec![batch, Dim::Fixed(3), side.clone(), side]),
        InputKind::Uint8 => (Element::Uint8, vec![batch, side.clone(), side, Dim::Fixed(3)]),
    };
    Value { name: kind.name().to_owned(), element, dims }
}

fn output_value(graph: &Graph, contract: &Preprocess, kind: OutputKind) -> Value {
    let arch = graph.arch;
    let side = |stage| Dim::Fixed(arch.feature_side(stage, contract.crop as usize));
    let batch = Dim::Named(BATCH);
    let dims = match kind {
        OutputKind::Embedding => vec![batch, Dim::Fixed(arch.feature_dim())],
        OutputKind::Saliency => vec![batch, side(5), side(5)],
        OutputKind::Stage(stage) => {
            let stage = usize::from(stage);
            // Channels double from stage to stage.
            vec![batch, Dim::Fixed(arch.feature_dim() >> (5 - stage)), side(stage), side(stage)]
        }
    };
    Value { name: kind.to_string(), element: Element::Float, dims }
}
