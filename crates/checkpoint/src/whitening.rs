//! What is done to embeddings behind the encoder: their mean taken away, and their variance made the same in every
//! direction that is kept.
//!
//! The map is affine, `y = W x + b`, and was fitted on pictures without labels. A checkpoint that has one carries the
//! tensors [`WEIGHT`] (outputs, inputs) and [`BIAS`] (outputs) beside the encoder, and in its metadata
//! [`meta::WHITENING`]; without the latter, tensors of these names are somebody else's. Where the mean alone is taken
//! away there is no weight.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::meta;
use crate::out::TensorOut;

/// Name of the matrix in checkpoints.
pub(crate) const WEIGHT: &str = "whiten.weight";
/// Name of the summand in checkpoints.
pub(crate) const BIAS: &str = "whiten.bias";

/// How a whitening came about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhiteningInfo {
    /// Pictures that it was fitted on.
    pub pictures: u64,
    /// What was added to the variance of every direction before its root was divided by, as a share of their mean.
    pub shrinkage: f64,
    /// Share of the variance that lies in the directions that are kept.
    pub variance: f64,
    /// Fingerprint of encoder and contract without it.
    pub encoder: String,
}

/// An affine map of embeddings.
#[derive(Clone, Debug, PartialEq)]
pub struct Whitening {
    weight: Option<Vec<f32>>,
    bias: Vec<f32>,
    inputs: usize,
    info: WhiteningInfo,
}

impl Whitening {
    /// Puts one together: `weight` is (outputs, inputs), row-major, or absent where the mean alone is taken away.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn new(
        weight: Option<Vec<f32>>,
        bias: Vec<f32>,
        inputs: usize,
        info: WhiteningInfo,
    ) -> Result<Self, String> {
        let outputs = bias.len();
        let expected = if weight.is_some() { 1..=inputs } else { inputs..=inputs };
        if !expected.contains(&outputs) {
            return Err(format!("`{BIAS}` has {outputs} values for embeddings of {inputs}"));
        }
        if weight.as_ref().is_some_and(|w| Some(w.len()) != outputs.checked_mul(inputs)) {
            return Err(format!("`{WEIGHT}` does not have {outputs} rows of {inputs} values"));
        }
        if let Some(value) = weight.iter().flatten().chain(&bias).find(|v| !v.is_finite()) {
            return Err(format!("it holds {value}"));
        }
        Ok(Self { weight, bias, inputs, info })
    }

    /// That of a checkpoint whose encoder gives embeddings of `inputs` numbers; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Whitening`] where the metadata tells of one that is not there or does not fit, [`Error::Tensor`] for bytes
    /// that cannot be decoded.
    pub fn of(checkpoint: &Checkpoint, inputs: usize) -> Result<Option<Self>, Error> {
        let Some(text) = checkpoint.metadata().get(meta::WHITENING) else { return Ok(None) };
        let fail = |reason: String| Error::Whitening { path: checkpoint.path().to_owned(), reason };
        let info =
            serde_json::from_str(text).map_err(|e| fail(format!("its description cannot be read: {e}")))?;
        let bias = checkpoint.tensor(BIAS).ok_or_else(|| fail(format!("there is no `{BIAS}`")))?;
        let weight = checkpoint.tensor(WEIGHT);
        let shape = weight.map_or(vec![bias.len(), inputs], |w| w.shape.to_vec());
        if shape != [bias.len(), inputs] || bias.shape.len() != 1 {
            let bias = bias.shape;
            return Err(fail(format!(
                "for embeddings of {inputs} numbers, `{WEIGHT}` of shape {shape:?} and `{BIAS}` of {bias:?} do not fit"
            )));
        }
        let weight = weight.map(|w| w.to_f32()).transpose()?;
        Self::new(weight, bias.to_f32()?, inputs, info).map(Some).map_err(fail)
    }

    /// Numbers that it takes.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers that it gives.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// The matrix (outputs, inputs), row-major; `None` where the mean alone is taken away.
    pub fn weight(&self) -> Option<&[f32]> {
        self.weight.as_deref()
    }

    /// The summand, one of each output.
    pub fn bias(&self) -> &[f32] {
        &self.bias
    }

    /// How it came about.
    pub fn info(&self) -> &WhiteningInfo {
        &self.info
    }

    /// The map of one embedding, computed plainly.
    pub fn apply(&self, x: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        let sum = |value: f64, bias: &f32| (value + f64::from(*bias)) as f32;
        match &self.weight {
            Some(weight) => {
                weight.chunks(self.inputs.max(1)).zip(&self.bias).map(|(row, b)| sum(dot(row), b)).collect()
            }
            None => x.iter().zip(&self.bias).map(|(x, b)| sum(f64::from(*x), b)).collect(),
        }
    }

    /// Its tensors on their way into a checkpoint, which needs [`Self::describe`] as well.
    pub fn tensors_out(&self) -> Vec<TensorOut<'_>> {
        let weight = self.weight.iter().map(|w| TensorOut::f32(WEIGHT, [self.outputs(), self.inputs], w));
        weight.chain([TensorOut::f32(BIAS, [self.outputs()], &self.bias)]).collect()
    }

    /// Adds what metadata says of it.
    pub fn describe(&self, metadata: &mut BTreeMap<String, String>) {
        // Numbers and a string always have a form in JSON.
        let text = serde_json::to_string(&self.info).unwrap_or_default();
        metadata.insert(meta::WHITENING.to_owned(), text);
    }
}

impl fmt::Display for Whitening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pictures = self.info.pictures;
        match self.weight {
            Some(_) => write!(
                f,
                "{} numbers whitened to {}, {:.1} % of their variance; fitted on {pictures} pictures",
                self.inputs,
                self.outputs(),
                100.0 * self.info.variance
            ),
            None => write!(f, "{} numbers, centred on the mean of {pictures} pictures", self.inputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::save_safetensors;

    fn info() -> WhiteningInfo {
        WhiteningInfo { pictures: 7, shrinkage: 0.5, variance: 0.25, encoder: "ab".into() }
    }

    fn whitening() -> Whitening {
        Whitening::new(Some(vec![1.0, 2.0, 3.0, 0.0, 0.0, -1.0]), vec![0.5, -0.5], 3, info()).expect("fits")
    }

    /// What is found in a file of these tensors.
    fn found(tensors: &[TensorOut<'_>], text: Option<&str>) -> Result<Option<Whitening>, Error> {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("x.safetensors");
        let metadata = text.map(|text| (meta::WHITENING.to_owned(), text.to_owned()));
        save_safetensors(&path, tensors, &metadata.into_iter().collect()).expect("saves");
        Whitening::of(&Checkpoint::open(&path).expect("opens"), 3)
    }

    #[test]
    fn by_hand() {
        assert_eq!(whitening().apply(&[1.0, 10.0, 100.0]), [321.5, -100.5]);
        let centred = Whitening::new(None, vec![-1.0, 0.0, 1.0], 3, info()).expect("fits");
        assert_eq!((centred.apply(&[1.0, 1.0, 1.0]), centred.outputs()), (vec![0.0, 1.0, 2.0], 3));
        assert!(centred.to_string().contains("centred") && whitening().to_string().contains("to 2, 25.0 %"));
    }

    #[test]
    fn what_is_written_is_read() {
        for whitening in [whitening(), Whitening::new(None, vec![1.0, 2.0, 3.0], 3, info()).expect("fits")] {
            let mut metadata = BTreeMap::new();
            whitening.describe(&mut metadata);
            let text = metadata[meta::WHITENING].as_str();
            assert_eq!(found(&whitening.tensors_out(), Some(text)).expect("read"), Some(whitening.clone()));
            assert_eq!(found(&whitening.tensors_out(), None).expect("read"), None, "somebody else's tensors");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let whitening = whitening();
        let text = serde_json::to_string(&info()).expect("text");
        let [weight, bias] = whitening.tensors_out().try_into().expect("two");
        let four = [0.0; 4];
        let nan = [f32::NAN, 0.0];
        for (tensors, text, part) in [
            (vec![weight.clone()], text.as_str(), "no `whiten.bias`"),
            (vec![weight.clone(), bias.clone()], "{}", "cannot be read"),
            (vec![weight.clone(), TensorOut::f32(BIAS, [4], &four)], &text, "of shape [2, 3]"),
            (vec![weight.clone(), TensorOut::f32(BIAS, [1, 2], &four[..2])], &text, "[1, 2]"),
            (vec![TensorOut::f32(WEIGHT, [2, 2], &four), bias.clone()], &text, "of shape [2, 2]"),
            (vec![bias.clone()], &text, "has 2 values"),
            (vec![weight, TensorOut::f32(BIAS, [2], &nan)], &text, "holds NaN"),
        ] {
            let message = found(&tensors, Some(text)).expect_err(part).to_string();
            assert!(message.contains(part) && message.contains("hint:"), "`{part}` not in: {message}");
        }
        assert!(Whitening::new(Some(vec![0.0; 12]), vec![0.0; 4], 3, info()).is_err(), "more than there are");
    }
}
