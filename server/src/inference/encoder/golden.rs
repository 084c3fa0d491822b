//! The golden picture that a model carries: does this machine answer it as the exporter did?

use std::path::Path;

use occlude_contract::Golden;
use occlude_preprocess::Rgb;

use super::error::LoadError;
use crate::inference::encode::{Crop, Encode, EncodeError, Encoded, Wants};
use crate::inference::model::ModelInfo;

/// The cosines that answers have to reach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Least {
    pub(super) embedding: f64,
    pub(super) saliency: f64,
}

impl Least {
    /// One for both.
    pub(super) fn both(cosine: f64) -> Self {
        Self { embedding: cosine, saliency: cosine }
    }

    /// At most those of `other`.
    pub(super) fn min(self, other: Self) -> Self {
        Self { embedding: self.embedding.min(other.embedding), saliency: self.saliency.min(other.saliency) }
    }
}

/// A model's golden picture, prepared as pictures of requests are.
pub(super) struct Check<'m> {
    path: &'m Path,
    provider: &'m str,
    /// Resized and cropped.
    pixels: Rgb,
    golden: &'m Golden,
    least: Least,
}

impl<'m> Check<'m> {
    /// Decodes and prepares the picture. `least` is what every answer has to reach.
    pub(super) fn new(
        path: &'m Path,
        golden: &'m Golden,
        info: &'m ModelInfo,
        least: Least,
    ) -> Result<Self, LoadError> {
        let picture = golden.picture();
        let picture = picture.map_err(|source| LoadError::GoldenData { path: path.to_owned(), source })?;
        Ok(Self { path, provider: &info.provider, pixels: info.contract.pixels(&picture), golden, least })
    }

    /// Runs it in an encoder alone, and at the beginning, in the middle and at the end of a batch of other pictures.
    /// Gives the least cosine.
    pub(super) fn run(&self, encoder: &mut impl Encode, max_batch: usize) -> Result<f64, LoadError> {
        let failed = |source: EncodeError| LoadError::Warm { path: self.path.to_owned(), source };
        let mut worst = f64::INFINITY;
        for size in [1, max_batch] {
            let places = [0, size / 2, size - 1];
            let batch: Vec<Crop> = (0..size).map(|at| self.picture(places.contains(&at)).into()).collect();
            let rows = encoder.encode(&batch, Wants::default()).map_err(failed)?;
            for at in places {
                let row = rows.get(at).ok_or(EncodeError::Panicked).map_err(failed)?;
                worst = worst.min(self.compare(row, at, size)?);
            }
        }
        Ok(worst)
    }

    /// The picture itself, or its negative for company.
    fn picture(&self, golden: bool) -> Rgb {
        let mut picture = self.pixels.clone();
        if !golden {
            picture.data.iter_mut().for_each(|v| *v = 255 - *v);
        }
        picture
    }

    fn compare(&self, row: &Encoded, at: usize, size: usize) -> Result<f64, LoadError> {
        let Least { embedding, saliency } = self.least;
        let mut outputs = vec![("embedding", &row.embedding, &self.golden.embedding, embedding)];
        if !self.golden.saliency.is_empty() {
            outputs.push(("saliency", &row.saliency, &self.golden.saliency, saliency));
        }
        let mut worst = f64::INFINITY;
        for (output, got, expected, least) in outputs {
            let cosine = cosine(got, expected);
            if cosine < least {
                let place =
                    if size == 1 { "alone".to_owned() } else { format!("at position {at} of {size}") };
                let (path, provider) = (self.path.to_owned(), self.provider.to_owned());
                return Err(LoadError::Golden { path, output, cosine, least, provider, place });
            }
            worst = worst.min(cosine);
        }
        Ok(worst)
    }
}

/// Cosine of two vectors in double precision; -1 where their lengths differ or it is no number.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum() };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    // Rounding may carry equal vectors past 1; `min` would take NaN for 1 as well.
    if a.len() == b.len() && !cosine.is_nan() { cosine.min(1.0) } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use occlude_contract::golden;
    use occlude_preprocess::Preprocess;

    fn info() -> ModelInfo {
        ModelInfo { provider: "CPU".to_owned(), ..Fake::info("fake", "") }
    }

    /// The golden data that suits the fake encoder.
    fn suitable() -> Golden {
        let contract = Preprocess::imagenet(32);
        let picture = golden::picture(&contract);
        let Encoded { embedding, saliency, .. } = Fake::answer(&contract.pixels(&picture));
        Golden::new(&picture, embedding, saliency, "checkpoint")
    }

    fn run(golden: &Golden, encoder: &mut impl Encode, max_batch: usize) -> Result<f64, LoadError> {
        Check::new(Path::new("a.onnx"), golden, &info(), Least::both(0.9999)).unwrap().run(encoder, max_batch)
    }

    /// Answers rightly, but for the picture at one place of a larger batch.
    struct Mixed(usize);

    impl Encode for Mixed {
        fn encode(&mut self, images: &[Crop], _: Wants) -> Result<Vec<Encoded>, EncodeError> {
            let mut rows = Fake::default().encode(images, Wants::default())?;
            if rows.len() > 1 && self.0 < rows.len() {
                let other = if self.0 == 0 { 1 } else { 0 };
                rows.swap(self.0, other);
                rows[self.0].embedding.reverse();
            }
            Ok(rows)
        }
    }

    #[test]
    fn right_answers_pass_in_batches_of_every_size() {
        for size in [1, 2, 3, 8] {
            assert!(run(&suitable(), &mut Fake::default(), size).unwrap() > 0.999_999, "{size}");
        }
    }

    #[test]
    fn wrong_answers_name_the_output_the_figure_and_the_place() {
        let (mut embedding, mut saliency) = (suitable(), suitable());
        embedding.embedding[0] += 0.1;
        saliency.saliency[0] *= 2.0;
        for (golden, name) in [(embedding, "embedding"), (saliency, "saliency")] {
            let error = run(&golden, &mut Fake::default(), 4).unwrap_err();
            let LoadError::Golden { output, cosine, least, .. } = &error else { panic!("{error}") };
            assert!(*output == name && *cosine < 0.9999 && *least == 0.9999, "{error}");
            assert!(error.to_string().contains("on CPU alone") && error.to_string().contains("hint: "));
        }
        for at in [0, 4, 7] {
            let error = run(&suitable(), &mut Mixed(at), 8).unwrap_err().to_string();
            assert!(error.contains(&format!("at position {at} of 8")), "{error}");
        }
        assert!(run(&suitable(), &mut Mixed(99), 8).is_ok());
    }

    #[test]
    fn what_is_no_comparison_fails() {
        let mut short = suitable();
        short.embedding.pop();
        assert!(matches!(run(&short, &mut Fake::default(), 1), Err(LoadError::Golden { .. })));
        let broken = Golden { image: b"no picture".to_vec(), ..suitable() };
        let error = Check::new(Path::new("a.onnx"), &broken, &info(), Least::both(0.9999)).err().unwrap();
        assert!(
            matches!(error, LoadError::GoldenData { .. }) && error.to_string().contains("`golden_image`")
        );
        assert!(cosine(&[f32::NAN], &[1.0]) == -1.0 && cosine(&[1.0], &[]) == -1.0);
    }
}
