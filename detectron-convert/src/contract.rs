//! What a detector has to know of the preprocessing contract.

use std::path::Path;

use occlude_checkpoint::{Checkpoint, meta};
use occlude_preprocess::Preprocess;

use crate::error::Error;

/// How pixels were normalised in pretraining; the detector must do the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// Subtracted from each channel, on the 0..255 scale, R G B.
    pub mean: [f64; 3],
    /// Divides each channel, on the same scale.
    pub std: [f64; 3],
    /// Kernel side in pixels and sigma of the high-pass filter, which Detectron2 has no place for.
    pub high_pass: Option<(u32, f64)>,
}

impl Normalisation {
    /// ImageNet's statistics, which nearly every published encoder was trained with.
    pub fn imagenet() -> Self {
        Self { mean: [123.675, 116.28, 103.53], std: [58.395, 57.12, 57.375], high_pass: None }
    }

    /// As the checkpoint's contract says; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Contract`] for a contract that cannot be understood.
    pub fn of(checkpoint: &Checkpoint) -> Result<Option<Self>, Error> {
        let json = checkpoint.metadata().get(meta::PREPROCESS);
        json.map(|json| Self::parse(checkpoint.path(), json)).transpose()
    }

    fn parse(path: &Path, json: &str) -> Result<Self, Error> {
        let contract = Preprocess::from_json(json)
            .map_err(|reason| Error::Contract { path: path.to_owned(), reason: reason.to_string() })?;
        let high_pass = contract.high_pass.map(|filter| (filter.kernel, decimal(filter.sigma)));
        Ok(Self { mean: contract.mean.map(pixels), std: contract.std.map(pixels), high_pass })
    }
}

/// From the 0..1 to the 0..255 scale; six decimals, so that 0.485 is 123.675 and not a neighbour.
fn pixels(x: f32) -> f64 {
    (decimal(x) * 255.0 * 1e6).round() / 1e6
}

/// The number that people wrote, which is the shortest that gives this one.
fn decimal(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGENET: &str = r#"{"version":1,"color":"RGB","resize":256,"crop":224,"interpolation":"bilinear","mean":[0.485,0.456,0.406],"std":[0.229,0.224,0.225],"high_pass":null}"#;

    #[test]
    fn imagenet_in_pixels() {
        let parsed = Normalisation::parse(Path::new("x"), IMAGENET).expect("parses");
        assert_eq!(parsed, Normalisation::imagenet());
    }

    #[test]
    fn the_filter_is_seen() {
        let json = IMAGENET.replace("null", r#"{"kernel":11,"sigma":5.0}"#);
        let parsed = Normalisation::parse(Path::new("x"), &json).expect("parses");
        assert_eq!(parsed.high_pass, Some((11, 5.0)));
    }

    #[test]
    fn nonsense_is_an_error() {
        for json in [
            "",
            "{}",
            &IMAGENET.replace("0.229", "0.0"),
            &IMAGENET.replace("0.485", "123.675"),
            &IMAGENET.replace("0.225", "57.375"),
            &IMAGENET.replace(r#""version":1"#, r#""version":2"#),
            &IMAGENET.replace("RGB", "BGR"),
            &IMAGENET.replace(r#""crop":224"#, r#""crop":300"#),
            &IMAGENET.replace(r#""resize""#, r#""size""#),
        ] {
            let err = Normalisation::parse(Path::new("x.safetensors"), json).expect_err("refused");
            assert!(
                matches!(err, Error::Contract { .. }) && err.to_string().contains("x.safetensors"),
                "{err}"
            );
        }
    }
}
