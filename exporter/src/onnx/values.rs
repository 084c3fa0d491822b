//! Values that a model cannot hold, or holds badly.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::Error;
use crate::proto::{Element, Initializer};

/// Values that are converted at a time.
const CHUNK: usize = 1 << 12;

/// Largest relative error that rounding to a normal half can make: half a unit in the last of its eleven digits. A
/// tensor that loses more has values below the smallest normal half.
const ROUNDING: f64 = 1.0 / 2048.0;

/// Looks at every float on its way into a model.
#[derive(Default)]
pub(super) struct Watch {
    first: Option<Error>,
    doubts: Vec<String>,
}

impl Watch {
    /// Looks at the values of an initialiser; the first that does not fit is kept.
    pub(super) fn look(&mut self, initializer: &Initializer<'_>, values: &[f32]) {
        let name = || initializer.name.clone();
        if self.first.is_some() {
            return;
        }
        if let Some(&value) = values.iter().find(|v| !v.is_finite()) {
            self.first = Some(Error::NotFinite { name: name(), value });
        } else if initializer.weights.element() == Element::Float16 {
            match halved(values) {
                Err(value) => self.first = Some(Error::HalfOverflow { name: name(), value }),
                Ok(loss) if loss > ROUNDING => self.doubts.push(format!(
                    "`{}` loses {:.2} % of its length to fp16, whose smallest normal number is {:e}; hint: `--precision fp32` keeps it",
                    initializer.name,
                    100.0 * loss,
                    f16::MIN_POSITIVE.to_f32(),
                )),
                Ok(_) => {}
            }
        }
    }

    /// What the user should hear.
    ///
    /// # Errors
    /// [`Error::NotFinite`] and [`Error::HalfOverflow`].
    pub(super) fn finish(self) -> Result<Vec<String>, Error> {
        self.first.map_or(Ok(self.doubts), Err)
    }
}

/// Length of the error of all values in halves, as a share of their own length; the first value that becomes
/// infinite is an error.
fn halved(values: &[f32]) -> Result<f64, f32> {
    let (mut error, mut length) = (0.0, 0.0);
    let (mut halves, mut again) = ([f16::ZERO; CHUNK], [0.0; CHUNK]);
    for chunk in values.chunks(CHUNK) {
        let (halves, again) = (&mut halves[..chunk.len()], &mut again[..chunk.len()]);
        halves.convert_from_f32_slice(chunk);
        halves.convert_to_f32_slice(again);
        for (&value, &half) in chunk.iter().zip(&*again) {
            if !half.is_finite() {
                return Err(value);
            }
            error += (f64::from(value) - f64::from(half)).powi(2);
            length += f64::from(value).powi(2);
        }
    }
    Ok(if length > 0.0 { (error / length).sqrt() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Weights;

    fn watched(values: &[f32], half: bool) -> Result<Vec<String>, Error> {
        let weights = Weights::few(values.to_vec());
        let weights = if half { weights.half() } else { weights };
        let initializer =
            Initializer { name: "layer1.0.conv1.weight".into(), dims: vec![values.len()], weights };
        let mut watch = Watch::default();
        watch.look(&initializer, values);
        watch.finish()
    }

    #[test]
    fn what_halves_cannot_hold_is_named() {
        let error = watched(&[1.0, -65_520.0], true).expect_err("too large");
        assert!(matches!(error, Error::HalfOverflow { value: -65_520.0, .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("layer1.0.conv1.weight") && message.contains("65504"), "{message}");
        assert!(watched(&[65_519.0, -65_504.0], true).expect("rounds").is_empty());
        assert!(watched(&[1e30], false).expect("single").is_empty());
    }

    #[test]
    fn what_is_no_number_is_named() {
        for (value, half) in [(f32::NAN, false), (f32::INFINITY, false), (f32::NEG_INFINITY, true)] {
            let error = watched(&[0.0, value], half).expect_err("no number");
            assert!(matches!(error, Error::NotFinite { .. }), "{error}");
        }
    }

    #[test]
    fn small_values_are_reported_where_they_matter() {
        let lossy = watched(&[3e-8, 1e-7], true).expect("finite");
        assert!(lossy[0].contains("layer1.0.conv1.weight"), "{lossy:?}");
        assert!(watched(&[1e-7, 0.5], true).expect("finite").is_empty(), "lost beside a larger one");
        assert!(watched(&[0.1, 0.3, 0.7], true).expect("finite").is_empty(), "only rounded");
        assert!(watched(&[0.0], true).expect("finite").is_empty());
    }
}
