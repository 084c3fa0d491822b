//! The golden picture of a model, and what the model has to answer for it.
//!
//! A model in single precision is held to the plain computation from the checkpoint, which shares no code with the
//! ONNX writer or a runtime. What halves and integers make of it depends on how they are computed, so these models
//! answer for themselves, in ONNX Runtime on the processor that exports.

use occlude_preprocess::{Golden, Rgb, golden};

use crate::onnx::{Network, OnnxModel, OnnxOptions, OutputKind, Precision};
use crate::pictures::Inputs;
use crate::runtime::{Outputs, Session};
use crate::{Error, plain};

/// What golden data keeps of the outputs.
const KEPT: [OutputKind; 2] = [OutputKind::Embedding, OutputKind::Saliency];

/// Runs the golden picture; `None` for a model without an embedding to compare.
///
/// Halves without an ONNX Runtime fall back to the plain computation, from which they differ by less than the server
/// allows.
///
/// # Errors
/// [`Error`] where the model cannot be run.
pub fn of(
    network: Network<'_>,
    options: &OnnxOptions,
    model: &OnnxModel<'_>,
) -> Result<Option<Golden>, Error> {
    let kinds: Vec<_> = KEPT.into_iter().filter(|kind| options.outputs.contains(kind)).collect();
    if !kinds.contains(&OutputKind::Embedding) {
        return Ok(None);
    }
    let picture = golden::picture(network.contract);
    let pixels = network.contract.pixels(&picture);
    let plainly = || plain::outputs(network, &kinds, options.normalize, &pixels);
    let (outputs, source) = match &options.precision {
        Precision::Fp32 => (plainly()?, "checkpoint"),
        _ => match (itself(network, options, model, &kinds, pixels.clone()), &options.precision) {
            (Err(Error::Library(_)), Precision::Fp16) => (plainly()?, "checkpoint"),
            (outputs, _) => (outputs?, "onnxruntime"),
        },
    };
    Ok(kept(&picture, outputs, source))
}

/// The model's own answer.
fn itself(
    network: Network<'_>,
    options: &OnnxOptions,
    model: &OnnxModel<'_>,
    kinds: &[OutputKind],
    pixels: Rgb,
) -> Result<Outputs, Error> {
    let mut bytes = Vec::new();
    model.write_to(&mut bytes).map_err(|reason| Error::Write { path: "memory".into(), reason })?;
    let names: Vec<String> = kinds.iter().map(OutputKind::to_string).collect();
    let inputs = Inputs::prepared(vec![pixels], network.contract, options.input);
    let rows = Session::from_bytes(&bytes)?.rows(&inputs.batch(0..1), &names)?;
    Ok(rows.into_iter().next().unwrap_or_default())
}

fn kept(picture: &Rgb, mut outputs: Outputs, source: &str) -> Option<Golden> {
    let mut take = |kind: OutputKind| outputs.remove(&kind.to_string());
    let embedding = take(OutputKind::Embedding)?;
    Some(Golden::new(picture, embedding, take(OutputKind::Saliency).unwrap_or_default(), source))
}

/// What stored golden data says, by the names of outputs.
pub(crate) fn outputs(golden: &Golden) -> Outputs {
    let all = [(OutputKind::Embedding, &golden.embedding), (OutputKind::Saliency, &golden.saliency)];
    all.into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(kind, values)| (kind.to_string(), values.clone()))
        .collect()
}
