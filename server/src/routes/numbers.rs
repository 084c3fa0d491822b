//! Vectors in answers: as numbers, or as the base64 of bytes, which a reader gets without parsing digits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the numbers of a vector are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of little-endian float32.
    Base64,
    /// Base64 of little-endian float16.
    Float16,
    /// Base64 of signed bytes: every vector times what makes its largest number 127, rounded. Cosines need no
    /// more.
    Int8,
}

/// The numbers of a vector.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Numbers {
    Float(Vec<f32>),
    Base64(String),
}

impl Numbers {
    /// A vector in the form that was asked for.
    pub(super) fn written(values: Vec<f32>, format: EncodingFormat) -> Self {
        let bytes: Vec<u8> = match format {
            EncodingFormat::Float => return Self::Float(values),
            EncodingFormat::Base64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            EncodingFormat::Float16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            EncodingFormat::Int8 => signed_bytes(&values),
        };
        Self::Base64(STANDARD.encode(bytes))
    }
}

/// Scaled by the largest number of each vector, since vectors are compared by their direction. All zeros stay zeros.
fn signed_bytes(values: &[f32]) -> Vec<u8> {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let scale = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    values.iter().flat_map(|v| ((v * scale).round() as i8).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_the_direction() {
        let values: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0).powi(3)).collect();
        let coded: Vec<f32> = signed_bytes(&values).iter().map(|b| f32::from(b.cast_signed())).collect();
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
        let cosine = dot(&values, &coded) / (dot(&values, &values) * dot(&coded, &coded)).sqrt();
        assert!(cosine > 0.9999, "{cosine}");
        assert!(coded.iter().any(|v| v.abs() == 127.0));
        assert_eq!(signed_bytes(&[0.0; 3]), [0; 3]);
    }
}
