//! The golden picture: one that travels inside a model together with what the model answers for it.
//!
//! Whoever serves the model prepares that picture like any other, runs it, and holds the result against the stored
//! one: a runtime, a processor or a build that computes something else is found before anybody is answered.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use image::{ExtendedColorType, ImageEncoder, codecs::png};

use crate::key;
use occlude_preprocess::{DecodeError, Limits, Preprocess, Rgb, decode};

/// Longest short side of a golden picture in pixels: a contract that asks for more enlarges it.
const LARGEST: u32 = 640;

/// A picture and a model's answers, as they are kept in the model's metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Golden {
    /// The picture as a file (PNG), larger than the contract's crop and not square.
    pub image: Vec<u8>,
    /// The embedding (D).
    pub embedding: Vec<f32>,
    /// The saliency map (h w), row-major; empty where the model has none.
    pub saliency: Vec<f32>,
    /// What computed them: `checkpoint`, `onnxruntime`.
    pub source: String,
}

/// Why golden data cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum GoldenError {
    /// Some of the properties are there, another one is not.
    #[error("`{key}` is missing, but other golden data is present")]
    Missing {
        /// The one that is not.
        key: &'static str,
    },
    /// A property is not what the exporter writes.
    #[error("`{key}`: {reason}")]
    Value { key: &'static str, reason: String },
    /// The picture does not decode.
    #[error("`golden_image`: {0}")]
    Picture(#[from] DecodeError),
}

impl Golden {
    /// Least cosine between an answer and the stored one for a model that computes as its file says, by the file's
    /// `precision`. Eight-bit products overflow on processors without VNNI (0.99973 was measured, docs/export.md).
    pub fn least_cosine(precision: &str) -> f64 {
        if precision == "int8" { 0.999 } else { 0.9999 }
    }

    /// Makes the golden data of a picture; see [`picture`].
    pub fn new(picture: &Rgb, embedding: Vec<f32>, saliency: Vec<f32>, source: &str) -> Self {
        Self { image: png(picture), embedding, saliency, source: source.to_owned() }
    }

    /// Names and values for the model's metadata.
    pub fn properties(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            (key::GOLDEN_IMAGE, BASE64.encode(&self.image)),
            (key::GOLDEN_EMBEDDING, text(&self.embedding)),
            (key::GOLDEN_SOURCE, self.source.clone()),
        ];
        if !self.saliency.is_empty() {
            all.insert(2, (key::GOLDEN_SALIENCY, text(&self.saliency)));
        }
        all
    }

    /// Reads what a model's metadata says; `property` looks a name up. `None` where there is no golden data.
    ///
    /// # Errors
    /// [`GoldenError`] for data of which a part is missing or broken.
    pub fn read(property: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, GoldenError> {
        let Some(image) = property(key::GOLDEN_IMAGE) else {
            let orphan =
                [key::GOLDEN_EMBEDDING, key::GOLDEN_SALIENCY].into_iter().any(|key| property(key).is_some());
            return if orphan { Err(GoldenError::Missing { key: key::GOLDEN_IMAGE }) } else { Ok(None) };
        };
        let embedding =
            property(key::GOLDEN_EMBEDDING).ok_or(GoldenError::Missing { key: key::GOLDEN_EMBEDDING })?;
        let saliency = property(key::GOLDEN_SALIENCY);
        let wrong = |reason: base64::DecodeError| value(key::GOLDEN_IMAGE, reason.to_string());
        Ok(Some(Self {
            image: BASE64.decode(image).map_err(wrong)?,
            embedding: floats(key::GOLDEN_EMBEDDING, &embedding)?,
            saliency: saliency.map_or(Ok(vec![]), |text| floats(key::GOLDEN_SALIENCY, &text))?,
            source: property(key::GOLDEN_SOURCE).unwrap_or_default(),
        }))
    }

    /// The decoded picture.
    ///
    /// # Errors
    /// [`GoldenError::Picture`].
    pub fn picture(&self) -> Result<Rgb, GoldenError> {
        Ok(decode(&self.image, &Limits::default())?.image)
    }
}

/// The picture that the exporter puts into models: gradients, discs, coarse and fine patterns, edges in every direction,
/// no symmetry. Larger than the contract's resize and not square, so that resizing and cropping are part of the test;
/// made of integers, so that it is the same everywhere.
pub fn picture(contract: &Preprocess) -> Rgb {
    let short = (contract.resize + contract.resize / 4).clamp(16, LARGEST);
    let (width, height) = (short + short / 4, short);
    let pixel = |i: u32| colour(i % width, i / width, (width, height));
    Rgb { width, height, data: (0..width * height).flat_map(pixel).collect() }
}

/// A pixel; places and sizes are in 64ths of the short side.
fn colour(x: u32, y: u32, (width, height): (u32, u32)) -> [u8; 3] {
    let (u, v) = (x * 64 / height, y * 64 / height);
    let disc = |cx: u32, cy: u32, r: u32| {
        let square = |a: u32, b: u32| u64::from((a * 64).abs_diff(b * height)).pow(2);
        square(x, cx) + square(y, cy) <= u64::from(r * height).pow(2)
    };
    let within = |left, top, right, bottom| (left..right).contains(&u) && (top..bottom).contains(&v);
    if disc(22, 24, 13) && !disc(26, 20, 5) {
        return [226, 74, 38];
    }
    if disc(57, 44, 11) {
        // Rays of stripes across an edge.
        return if ((x + 2 * y) / 5).is_multiple_of(2) { [250, 232, 90] } else { [30, 52, 120] };
    }
    if within(40, 8, 62, 26) {
        return if (x / 3 + y / 3).is_multiple_of(2) { [24, 24, 30] } else { [236, 240, 228] };
    }
    if within(12, 44, 40, 60) {
        // Cells of colours without order.
        let cell = (u / 2).wrapping_mul(0x9e37_79b1) ^ (v / 2).wrapping_mul(0x85eb_ca6b);
        let mixed = (cell ^ (cell >> 15)).wrapping_mul(0x2c1b_3c6d);
        return [(mixed >> 24) as u8, (mixed >> 16) as u8, (mixed >> 8) as u8];
    }
    let shade = |at: u32, of: u32| (at * 255 / of) as u8;
    [shade(x, width), shade(y, height), 255 - shade(x + y, width + height)]
}

/// A PNG of the picture.
fn png(picture: &Rgb) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder =
        png::PngEncoder::new_with_quality(&mut bytes, png::CompressionType::Best, png::FilterType::Adaptive);
    encoder
        .write_image(&picture.data, picture.width, picture.height, ExtendedColorType::Rgb8)
        .expect("memory takes a picture whose data fits its size");
    bytes.into_inner()
}

fn text(values: &[f32]) -> String {
    BASE64.encode(values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

fn value(key: &'static str, reason: String) -> GoldenError {
    GoldenError::Value { key, reason }
}

fn floats(key: &'static str, text: &str) -> Result<Vec<f32>, GoldenError> {
    let bytes = BASE64.decode(text).map_err(|e| value(key, e.to_string()))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if words.is_empty() || !rest.is_empty() {
        return Err(value(key, format!("{} bytes, expected float32 values of 4 bytes", bytes.len())));
    }
    let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
    if values.iter().all(|v| v.is_finite()) {
        Ok(values)
    } else {
        Err(value(key, "numbers that are not finite".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn golden() -> Golden {
        let picture = picture(&Preprocess::imagenet(64));
        Golden::new(&picture, vec![0.5, -1.0, 2.0], vec![3.0; 4], "checkpoint")
    }

    /// As [`Golden::properties`], one of them changed or left out.
    fn read(key: &str, value: Option<&str>) -> Result<Option<Golden>, GoldenError> {
        let mut all: BTreeMap<&str, String> = golden().properties().into_iter().collect();
        match value {
            Some(value) => all.insert(key, value.to_owned()),
            None => all.remove(key),
        };
        Golden::read(|key| all.get(key).cloned())
    }

    #[test]
    fn what_is_written_is_read() {
        let golden = golden();
        let all: BTreeMap<&str, String> = golden.properties().into_iter().collect();
        assert_eq!(Golden::read(|key| all.get(key).cloned()).unwrap(), Some(golden.clone()));
        assert_eq!(golden.picture().unwrap(), picture(&Preprocess::imagenet(64)));
        assert_eq!(Golden::read(|_| None).unwrap(), None);
        let without = read(key::GOLDEN_SALIENCY, None).unwrap().unwrap();
        assert!(without.saliency.is_empty(), "not every model has one");
    }

    #[test]
    fn the_picture_is_larger_than_the_crop_and_small_as_a_file() {
        for crop in [32, 64, 224, 448, 16_000] {
            let contract = Preprocess { resize: crop, ..Preprocess::imagenet(crop) };
            let picture = picture(&contract);
            assert!(picture.width > picture.height && picture.height >= crop.min(LARGEST), "{crop}");
            assert!(png(&picture).len() < 32 << 10, "{crop}: {}", png(&picture).len());
        }
        let file = png(&picture(&Preprocess::imagenet(224)));
        assert!(file.len() < 12 << 10, "{} bytes", file.len());
    }

    /// Each way in which preprocessing usually goes wrong changes the pixels by more than rounding.
    #[test]
    fn the_picture_tells_mistakes_from_rounding() {
        let contract = Preprocess::imagenet(64);
        let picture = picture(&contract);
        let right = contract.pixels(&picture);
        let differs = |other: &Rgb| {
            let sum: u64 = right.data.iter().zip(&other.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            sum as f64 / right.data.len() as f64
        };
        let bicubic =
            Preprocess { interpolation: occlude_preprocess::Interpolation::Bicubic, ..contract.clone() };
        let shifted = Preprocess { resize: contract.resize + 1, ..contract.clone() };
        let swapped = Rgb {
            data: picture.data.chunks(3).flat_map(|p| p.iter().rev().copied()).collect(),
            ..picture.clone()
        };
        let mirrored = Rgb {
            data: picture
                .data
                .chunks(3 * picture.width as usize)
                .flat_map(|row| row.chunks(3).rev().flatten().copied())
                .collect(),
            ..picture.clone()
        };
        for (name, other) in [
            ("bicubic", bicubic.pixels(&picture)),
            ("resize", shifted.pixels(&picture)),
            ("colours", contract.pixels(&swapped)),
            ("mirror", contract.pixels(&mirrored)),
        ] {
            assert!(differs(&other) > 1.5, "{name}: {}", differs(&other));
        }
    }

    #[test]
    fn broken_data_is_refused_by_name() {
        let error = |key, value| read(key, value).unwrap_err().to_string();
        for key in [key::GOLDEN_IMAGE, key::GOLDEN_EMBEDDING] {
            assert!(error(key, None).starts_with(&format!("`{key}` is missing")), "{key}");
        }
        for (key, value) in [
            (key::GOLDEN_IMAGE, "?"),
            (key::GOLDEN_EMBEDDING, ""),
            (key::GOLDEN_EMBEDDING, "AAAA"),
            (key::GOLDEN_EMBEDDING, "AADAfw=="), // NaN
            (key::GOLDEN_SALIENCY, "not base64"),
        ] {
            assert!(error(key, Some(value)).starts_with(&format!("`{key}`: ")), "{key} {value}");
        }
        let picture = read(key::GOLDEN_IMAGE, Some("AAAA")).unwrap().unwrap().picture();
        assert!(matches!(picture, Err(GoldenError::Picture(_))), "{picture:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_an_error_or_a_value(image in ".*", embedding in ".*", saliency in ".*") {
            let all = BTreeMap::from([
                (key::GOLDEN_IMAGE, image), (key::GOLDEN_EMBEDDING, embedding), (key::GOLDEN_SALIENCY, saliency),
            ]);
            if let Ok(Some(golden)) = Golden::read(|key| all.get(key).cloned()) {
                let _ = golden.picture();
            }
        }
    }
}
