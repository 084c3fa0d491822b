//! Values that no network can compute with.

use std::path::Path;

use occlude_encoder::ParamKind;

use crate::error::{BadValue, Error};
use crate::tensor::Tensor;

/// Holds the values of one parameter of a file to what a network needs: numbers that are finite in single precision,
/// and variances that are not negative.
///
/// # Errors
/// [`Error::Value`] names the first value that is not, [`Error::Tensor`] bytes that cannot be decoded.
pub fn check_values(path: &Path, kind: ParamKind, tensor: &Tensor<'_>) -> Result<(), Error> {
    if kind == ParamKind::BnCount {
        return Ok(());
    }
    let read;
    let values = match tensor.as_f32() {
        Some(values) => values,
        None => {
            read = tensor.to_f32()?;
            &read
        }
    };
    let is_bad = |v: &f32| !v.is_finite() || (kind == ParamKind::BnVar && *v < 0.0);
    let Some(at) = values.iter().position(is_bad) else { return Ok(()) };
    let value = values.get(at).copied().unwrap_or_default();
    let reason = if value.is_finite() { BadValue::Negative } else { BadValue::NotFinite };
    let count = values.iter().filter(|v| is_bad(v)).count();
    Err(Error::Value { path: path.to_owned(), name: tensor.name.to_owned(), value, at, count, reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Checkpoint, Dtype, TensorOut, save_safetensors};

    /// The message about a tensor of these values.
    fn checked(kind: ParamKind, tensor: TensorOut<'_>) -> Result<(), String> {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("x.safetensors");
        save_safetensors(&path, &[tensor], &Default::default()).expect("saves");
        let checkpoint = Checkpoint::open(&path).expect("opens");
        let tensor = checkpoint.tensor("bn1.running_var").expect("there");
        check_values(&path, kind, &tensor).map_err(|e| e.to_string())
    }

    fn singles(values: &[f32]) -> TensorOut<'_> {
        TensorOut::f32("bn1.running_var", [values.len()], values)
    }

    #[test]
    fn what_is_no_number_is_found_and_counted() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for kind in [ParamKind::ConvWeight, ParamKind::BnBias, ParamKind::BnMean, ParamKind::BnVar] {
                let message = checked(kind, singles(&[1.0, bad, 2.0, bad])).expect_err("refused");
                for part in ["x.safetensors", "`bn1.running_var`", &bad.to_string(), "2 such values", "at 1"]
                {
                    assert!(message.contains(part), "`{part}` not in: {message}");
                }
            }
        }
        assert!(checked(ParamKind::BnCount, singles(&[f32::NAN])).is_ok(), "nothing depends on counters");
    }

    #[test]
    fn variances_are_not_negative_and_others_may_be() {
        let message = checked(ParamKind::BnVar, singles(&[0.0, -0.5])).expect_err("refused");
        assert!(message.contains("-0.5") && message.contains("variance"), "{message}");
        assert!(checked(ParamKind::BnVar, singles(&[0.0, -0.0, 3.0])).is_ok());
        assert!(checked(ParamKind::BnMean, singles(&[-0.5])).is_ok());
    }

    /// A double may be a number that single precision does not have.
    #[test]
    fn every_type_is_checked_as_it_is_used() {
        let tensor = |dtype, data: Vec<u8>| TensorOut {
            name: "bn1.running_var".into(),
            dtype,
            shape: vec![1],
            data: data.into(),
        };
        let large = tensor(Dtype::F64, 1e300f64.to_le_bytes().to_vec());
        assert!(checked(ParamKind::ConvWeight, large).is_err());
        let half = tensor(Dtype::F16, half::f16::NAN.to_le_bytes().to_vec());
        assert!(checked(ParamKind::ConvWeight, half).is_err());
        let brain = tensor(Dtype::BF16, half::bf16::from_f32(-1.0).to_le_bytes().to_vec());
        assert!(checked(ParamKind::BnVar, brain).is_err());
    }
}
