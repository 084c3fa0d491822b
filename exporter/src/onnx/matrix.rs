//! Matrices that tokens are multiplied with.

use std::borrow::Cow;

use occlude_checkpoint::Encoder;

use super::builder::Builder;
use crate::proto::Weights;

/// The matrix of a product. What it reads may have channels that were divided by factors; then its columns have them.
pub(super) struct Matrix<'a> {
    pub(super) encoder: &'a Encoder<'a>,
    /// Of the parameter.
    pub(super) name: String,
    /// Inputs, outputs.
    pub(super) sides: [usize; 2],
    pub(super) factors: Option<Vec<f32>>,
}

impl<'a> Matrix<'a> {
    /// Values (out, in), read and scaled each time.
    pub(super) fn values(&self) -> Cow<'a, [f32]> {
        let values = self.encoder.f32(&self.name).unwrap_or_default();
        match &self.factors {
            Some(factors) => values.iter().zip(factors.iter().cycle()).map(|(v, f)| v * f).collect(),
            None => values,
        }
    }

    /// Adds it as the second factor of a product, (in, out), in floating point.
    pub(super) fn add(self, builder: &mut Builder<'a>) -> String {
        let (name, [inputs, outputs]) = (self.name.clone(), self.sides);
        let turned = move || Cow::Owned(transposed(&self.values(), inputs));
        builder.add(&name, &[inputs, outputs], Weights::floats(inputs * outputs, turned))
    }
}

/// (out, in) -> (in, out)
pub(super) fn transposed<T: Copy>(weight: &[T], inputs: usize) -> Vec<T> {
    let outputs = weight.len() / inputs.max(1);
    (0..weight.len()).map(|i| weight[i % outputs * inputs + i / outputs]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_turned() {
        assert_eq!(transposed(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    }
}
