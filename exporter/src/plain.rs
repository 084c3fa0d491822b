//! The outputs of a model by [`mod@reference`], without any runtime.

use occlude_encoder::{Graph, NodeId, Tap, TapKind};
use occlude_preprocess::{Preprocess, Rgb};
use occlude_saliency::Making;

use crate::onnx::{self, Network, OutputKind, Pool};
use crate::reference::{self, Map};
use crate::runtime::Outputs;
use crate::{Error, saliency};

/// What changes the numbers of outputs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answering {
    /// Scale embeddings and projections to length one.
    pub(crate) normalize: bool,
    /// How the map is made.
    pub(crate) saliency: Making,
    /// What of a vision transformer's tokens the embedding is.
    pub(crate) pool: Pool,
}

/// A tapped value as feature map of the cells of a picture of `side` pixels.
fn feature_map(graph: &Graph, tap: &Tap, value: Map, side: usize) -> Map {
    match tap.kind {
        TapKind::Map => value,
        TapKind::Tokens => value.of_patches(graph.prefix(), tap.side(side)),
        TapKind::Attention => value.of_attention(graph.prefix(), tap.side(side)),
    }
}

/// The embedding: of a feature map the mean of each channel.
fn pooled(graph: &Graph, features: &Map, pool: Pool) -> Vec<f32> {
    if graph.arch.vit().is_none() {
        return features.pooled();
    }
    let class = features.data[..features.width].to_vec();
    let mean = || features.of_patches(graph.prefix(), 1).pooled();
    match pool {
        Pool::Class => class,
        Pool::Mean => mean(),
        Pool::Both => [class, mean()].concat(),
    }
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
    let map = |making| onnx::source(&graph, making).map(|tap| (tap.node, Some(tap)));
    let features = || Ok((graph.features(), None));
    let place = |kind: &OutputKind| match kind {
        OutputKind::Embedding | OutputKind::Projection | OutputKind::Alignment | OutputKind::Tokens => {
            features()
        }
        OutputKind::SaliencySum => map(onnx::sum(&graph)),
        OutputKind::Saliency => map(how.saliency),
        OutputKind::Stage(number) => map(Making { stage: usize::from(*number), ..Making::SUM }),
    };
    let places = kinds.iter().map(place).collect::<Result<Vec<_>, _>>()?;
    let wanted: Vec<NodeId> = places.iter().map(|(node, _)| *node).collect();
    let values = reference::values(encoder, &contract.tensor(pixels), contract.crop as usize, &wanted)?;
    let values = values.into_iter().zip(&places).map(|(value, (_, tap))| match tap {
        Some(tap) => feature_map(&graph, tap, value, contract.crop as usize),
        None => value,
    });
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
            let pooled = pooled(&graph, &value, how.pool);
            vector(encoder.whitening.as_ref().map_or(pooled.clone(), |w| w.apply(&pooled)))
        }
        OutputKind::Projection => {
            let features = pooled(&graph, &value, how.pool);
            vector(projection.map(|p| p.forward(&features)).unwrap_or_default())
        }
        OutputKind::Saliency => saliency::map(how.saliency.rule, &value, (&unfiltered, contract), projection),
        OutputKind::SaliencySum => value.channel_sum(),
        OutputKind::Alignment => {
            saliency::alignment(&value, projection).into_iter().map(|v| v as f32).collect()
        }
        OutputKind::Stage(_) | OutputKind::Tokens => value.data,
    };
    Ok(kinds.iter().zip(values).map(|(kind, of)| (kind.to_string(), value(kind, of))).collect())
}
