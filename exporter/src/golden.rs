//! The golden picture of a model, and what the model has to answer for it.
//!
//! A model in single precision is held to the plain computation from the checkpoint, which shares no code with the
//! ONNX writer or a runtime. What halves and integers make of it depends on how they are computed, so these models
//! answer for themselves, in ONNX Runtime on the processor that exports.

use half::f16;
use occlude_contract::{Golden, golden};
use occlude_encoder::{Node, Op};
use occlude_preprocess::Rgb;

use crate::onnx::{Network, OnnxModel, OnnxOptions, OutputKind, Precision};
use crate::pictures::Inputs;
use crate::plain::Answering;
use crate::reference::{Map, values_seen};
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
/// [`Error`] where the model cannot be run, [`Error::Activation`] where a value on the way is too large for its numbers.
pub fn of(
    network: Network<'_>,
    options: &OnnxOptions,
    model: &OnnxModel<'_>,
) -> Result<Option<Golden>, Error> {
    let kinds: Vec<_> = KEPT.into_iter().filter(|kind| options.outputs.contains(kind)).collect();
    let picture = golden::picture(network.contract);
    let pixels = network.contract.pixels(&picture);
    if options.precision == Precision::Fp16 {
        // Runtimes on CPUs compute halves in single precision, where nothing overflows.
        refuse_beyond(network, &pixels, f16::MAX.to_f32())?;
    }
    if !kinds.contains(&OutputKind::Embedding) {
        return Ok(None);
    }
    let how = Answering { normalize: options.normalize, saliency: options.saliency, pool: options.pool };
    let plainly = || plain::outputs(network, &kinds, how, &pixels);
    let (outputs, source) = match &options.precision {
        Precision::Fp32 => (plainly()?, "checkpoint"),
        _ => match (itself(network, options, model, &kinds, pixels.clone()), &options.precision) {
            (Err(Error::Library(_)), Precision::Fp16) => (plainly()?, "checkpoint"),
            (outputs, _) => (outputs?, "onnxruntime"),
        },
    };
    if !outputs.values().flatten().all(|v| v.is_finite()) {
        refuse_beyond(network, &pixels, f32::MAX)?;
        let value = outputs.values().flatten().copied().find(|v| !v.is_finite()).unwrap_or(f32::NAN);
        return Err(Error::Activation { layer: "embedding".to_owned(), value, limit: f32::MAX });
    }
    Ok(kept(&picture, outputs, source))
}

/// Refuses a network of which some layer answers with more than `limit`, or with what is no number.
fn refuse_beyond(network: Network<'_>, pixels: &Rgb, limit: f32) -> Result<(), Error> {
    let contract = network.contract;
    let mut first = None;
    let mut see = |node: &Node, map: &Map| {
        // In models a convolution and its normalisation are one operation.
        if first.is_none() && !matches!(node.op, Op::Conv { .. }) {
            let worst =
                map.data.iter().copied().reduce(|a, b| if a.is_nan() || a.abs() > b.abs() { a } else { b });
            first = worst.filter(|v| v.is_nan() || v.abs() > limit).map(|value| (node.name.clone(), value));
        }
    };
    values_seen(network.encoder, &contract.tensor(pixels), contract.crop as usize, &[], &mut see)?;
    match first {
        Some((layer, value)) => Err(Error::Activation { layer, value, limit }),
        None => Ok(()),
    }
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
