//! Image encoders in ONNX files: what they take and give, and a batch through one.

use occlude_contract::InputKind;
use occlude_preprocess::{Preprocess, Rgb};
use ort::session::{Session, SessionOutputs};
use ort::value::{TensorElementType, TensorRef, ValueType};

/// An input or output that is not what an encoder has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is {found}, expected {expected}")]
pub struct Mismatch {
    /// The input or output.
    pub name: &'static str,
    /// What the file has.
    pub found: String,
    /// What it should have.
    pub expected: String,
}

/// How the graph takes pictures of `crop` x `crop` pixels.
///
/// # Errors
/// [`Mismatch`] where it does not: another name, type or shape than [`InputKind`] has, or more inputs than one. Sides may
/// be dynamic, and the batch must be.
pub fn input(session: &Session, crop: u32) -> Result<InputKind, Mismatch> {
    let mismatch = |name, found: String, expected: String| Mismatch { name, found, expected };
    let [outlet] = session.inputs() else {
        let found = format!("{} tensors", session.inputs().len());
        return Err(mismatch("inputs", found, "one".to_owned()));
    };
    let Some(kind) = InputKind::named(outlet.name()) else {
        let [a, b] = InputKind::ALL.map(InputKind::name);
        return Err(mismatch("input", format!("called `{}`", outlet.name()), format!("`{a}` or `{b}`")));
    };
    let element = match kind {
        InputKind::Float => TensorElementType::Float32,
        InputKind::Uint8 => TensorElementType::Uint8,
    };
    let expected = kind.shape(-1i64, i64::from(crop));
    let fits = match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            *ty == element
                && shape.len() == expected.len()
                && shape.first() == Some(&-1)
                && shape.iter().zip(expected).all(|(got, want)| *got == want || *got == -1)
        }
        _ => false,
    };
    if fits {
        return Ok(kind);
    }
    let expected =
        format!("{element:?} of shape {expected:?} (-1: dynamic batch), as the contract's crop has it");
    Err(mismatch(kind.name(), outlet.dtype().to_string(), expected))
}

/// The sides of the output called `name`, which has `rank` of them; -1 where they are dynamic.
///
/// # Errors
/// [`Mismatch`] where it is missing or something else than floats of that rank.
pub fn output(session: &Session, name: &'static str, rank: usize) -> Result<Vec<i64>, Mismatch> {
    let outlet = session.outputs().iter().find(|outlet| outlet.name() == name);
    let found = match outlet.map(ort::value::Outlet::dtype) {
        Some(ValueType::Tensor { ty: TensorElementType::Float32, shape, .. }) if shape.len() == rank => {
            return Ok(shape.to_vec());
        }
        Some(other) => other.to_string(),
        None => {
            let all = session.outputs().iter().map(|o| format!("`{}`", o.name())).collect::<Vec<_>>();
            format!("missing (there are {})", all.join(", "))
        }
    };
    Err(Mismatch { name, found, expected: format!("a float tensor of rank {rank}") })
}

/// Runs pictures that have the contract's size.
///
/// # Errors
/// What ONNX Runtime reports.
///
/// # Panics
/// Where a picture has another size.
pub fn run<'s>(
    session: &'s mut Session,
    kind: InputKind,
    contract: &Preprocess,
    pictures: &[&Rgb],
) -> ort::Result<SessionOutputs<'s>> {
    let shape = kind.shape(pictures.len(), contract.crop as usize);
    match kind {
        InputKind::Float => {
            let mut floats = vec![0f32; shape.iter().product()];
            let row = floats.len() / pictures.len().max(1);
            for (picture, out) in pictures.iter().zip(floats.chunks_exact_mut(row.max(1))) {
                contract.normalized_into(picture, out);
            }
            session.run(ort::inputs![kind.name() => TensorRef::from_array_view((shape, &*floats))?])
        }
        InputKind::Uint8 => {
            let bytes = pictures.iter().map(|picture| &*picture.data).collect::<Vec<_>>().concat();
            session.run(ort::inputs![kind.name() => TensorRef::from_array_view((shape, &*bytes))?])
        }
    }
}
