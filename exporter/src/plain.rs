//! The outputs of a model by [`mod@reference`], without any runtime.

use occlude_encoder::Graph;
use occlude_preprocess::{Preprocess, Rgb};
use occlude_saliency::Making;

use crate::onnx::{Network, OutputKind};
use crate::reference::{self, Map};
use crate::runtime::Outputs;
use crate::{Error, saliency};

/// Of what was checked before, or is another's file.
const NO_STAGE: Error = Error::Options { reason: "the encoder has no such stage" };

/// What changes the numbers of outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    /// Scale embeddings and projections to length one.
    pub(crate) normalize: bool,
    /// How the map is made.
    pub(crate) saliency: Making,
}

/// The outputs for one picture that is resized and cropped already.
pub(crate) fn outputs(
    network: Network<'_>,
    kinds: &[OutputKind],
    how: Answering,
    pixels: &Rgb,
) -> Result<Outputs, Error> {
    let Network { encoder, contract, projection } = network;
    let graph = Graph::new(encoder.arch);
    let stage = |stage: usize| graph.stage(stage).map(|tap| graph[tap].node).ok_or(NO_STAGE);
    let tap = |kind: &OutputKind| match kind {
        OutputKind::Embedding | OutputKind::Projection | OutputKind::SaliencySum | OutputKind::Alignment => {
            Ok(graph.features())
        }
        OutputKind::Saliency => stage(how.saliency.stage),
        OutputKind::Stage(number) => stage(usize::from(*number)),
    };
    let wanted = kinds.iter().map(tap).collect::<Result<Vec<_>, _>>()?;
    let values = reference::values(encoder, &contract.tensor(pixels), contract.crop as usize, &wanted)?;
    let unfiltered = Preprocess { high_pass: None, ..contract.clone() }.tensor(pixels);
    let vector = |mut values: Vec<f32>| {
        if how.normalize {
            let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            // `max` would turn a length that is no number into the shortest.
            let length = if length < 1e-12 { 1e-12 } else { length };
            values.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        values
    };
    let value = |kind: &OutputKind, value: Map| match kind {
        OutputKind::Embedding => {
            let pooled = value.pooled();
            vector(encoder.whitening.as_ref().map_or(pooled.clone(), |w| w.apply(&pooled)))
        }
        OutputKind::Projection => vector(projection.map(|p| p.forward(&value.pooled())).unwrap_or_default()),
        OutputKind::Saliency => saliency::map(how.saliency.rule, &value, (&unfiltered, contract), projection),
        OutputKind::SaliencySum => value.channel_sum(),
        OutputKind::Alignment => {
            saliency::alignment(&value, projection).into_iter().map(|v| v as f32).collect()
        }
        OutputKind::Stage(_) => value.data,
    };
    Ok(kinds.iter().zip(values).map(|(kind, of)| (kind.to_string(), value(kind, of))).collect())
}
