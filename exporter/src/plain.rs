//! The outputs of a model by [`mod@reference`], without any runtime.

use occlude_preprocess::{Preprocess, Rgb};
use occlude_saliency::Making;

use crate::onnx::{Network, OutputKind};
use crate::runtime::Outputs;
use crate::{Error, reference, saliency};

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
    let stages = reference::stages(encoder, &contract.tensor(pixels), contract.crop as usize)?;
    let unfiltered = Preprocess { high_pass: None, ..contract.clone() }.tensor(pixels);
    let features = &stages[3];
    let vector = |mut values: Vec<f32>| {
        if how.normalize {
            let length = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            // `max` would turn a length that is no number into the shortest.
            let length = if length < 1e-12 { 1e-12 } else { length };
            values.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
        }
        values
    };
    let value = |kind: &OutputKind| match kind {
        OutputKind::Embedding => {
            let pooled = features.pooled();
            vector(encoder.whitening.as_ref().map_or(pooled.clone(), |w| w.apply(&pooled)))
        }
        OutputKind::Projection => {
            vector(projection.map(|p| p.forward(&features.pooled())).unwrap_or_default())
        }
        OutputKind::Saliency => {
            saliency::map(how.saliency.rule, &stages[how.saliency.stage - 2], &unfiltered, contract)
        }
        OutputKind::SaliencySum => features.channel_sum(),
        OutputKind::Stage(stage) => stages[usize::from(*stage) - 2].data.clone(),
    };
    Ok(kinds.iter().map(|kind| (kind.to_string(), value(kind))).collect())
}
