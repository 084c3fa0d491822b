//! The map of a picture as a request wants it: by which rule, with its mirror image's, refined by the picture or not.
//!
//! The embedding depends on none of this.

use occlude_saliency::{
    self as saliency, Map, Mask, agreement, averaged, foreground_above, mirrored, threshold_at, with_edges,
    without_texture,
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{ApiError, Kind, RenderError};
use crate::inference::encode::{Encoded, Plane};
use crate::inference::model::ModelInfo;
use crate::pictures::encoding::Answer;

/// What `?map=` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// By the model's own rule.
    #[default]
    Default,
    /// The sum of all channels of the last stage.
    Sum,
}

impl Source {
    /// Whether the output `saliency_sum` is needed; asked before a byte of the body is read.
    fn is_extra(self, model: &ModelInfo) -> Result<bool, ApiError> {
        let extra = self == Self::Sum && !model.rule.is_sum();
        if extra && !model.sum {
            let message = format!(
                "the map of `{}` is made by the rule `{}`, and the model has no output `saliency_sum`",
                model.name, model.rule.rule
            );
            return Err(ApiError::new(Kind::BadRequest, message).hint(
                "export the model with the sum as well: `occlude-export onnx --outputs \
                 embedding,saliency,saliency_sum`",
            ));
        }
        Ok(extra)
    }
}

/// What models without a map are good for.
const WITHOUT_MAPS: &str = "/v1/embed and /v1/search need none";

/// What a request wants of the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// Take the output `saliency_sum`.
    pub(crate) sum: bool,
    /// The threshold, in standard deviations from the mean.
    pub(crate) deviations: f64,
    /// Average with the mirror image's.
    pub(crate) mirror: bool,
    /// Refine by the picture's pixels.
    pub(crate) refine: bool,
}

impl Reading {
    /// By this rule of this model, at the threshold asked for or the rule's own.
    pub(crate) fn new(source: Source, asked: Option<f64>, model: &ModelInfo) -> Result<Self, ApiError> {
        if !model.maps {
            let message = format!("`{}` has no saliency map: it is a model of another project", model.name);
            return Err(ApiError::new(Kind::BadRequest, message).hint(WITHOUT_MAPS));
        }
        let sum = source.is_extra(model)?;
        let own = if sum { saliency::DEVIATIONS } else { model.rule.deviations };
        Ok(Self { sum, deviations: asked.unwrap_or(own), mirror: false, refine: false })
    }
}

/// The maps of one picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Maps {
    /// The model's grid, averaged with the mirror image's where that was asked for.
    pub(crate) grid: Plane,
    /// The grid at the picture's edges.
    pub(crate) refined: Option<Plane>,
    pub(crate) deviations: f64,
    /// How far the map and the mirror image's agree.
    pub(crate) confidence: Option<f64>,
}

impl Maps {
    /// What a request wants of an answer.
    pub(crate) fn of(answer: &Answer, how: Reading) -> Result<Self, ApiError> {
        let grid = plane(&answer.encoded, how.sum)?;
        let mirror = answer.mirrored.as_ref().map(|m| plane(m, how.sum)).transpose()?;
        let made = || -> Result<Self, RenderError> {
            let (grid, confidence) = match mirror {
                Some(mirror) => both(&grid, &mirror, how.deviations)?,
                None => (grid, None),
            };
            let refined = answer.guide.as_ref().filter(|_| how.refine);
            let refined = refined.map(|guide| {
                let size = (guide.height as usize, guide.width as usize);
                by_pixels(&grid, &guide.data, size)
            });
            Ok(Self { refined: refined.transpose()?, grid, deviations: how.deviations, confidence })
        };
        Ok(made()?)
    }

    /// The map that boxes, masks and pictures come from.
    pub(crate) fn shown(&self) -> Result<Map<'_>, saliency::Error> {
        self.refined.as_ref().unwrap_or(&self.grid).map()
    }

    /// Its foreground, and the value from which on cells belong to it.
    pub(crate) fn foreground(&self) -> Result<(f64, Mask), saliency::Error> {
        let map = self.shown()?;
        let threshold = threshold_at(map, self.deviations);
        Ok((threshold, without_texture(&foreground_above(map, threshold)?)))
    }
}

impl Plane {
    pub(crate) fn map(&self) -> Result<Map<'_>, saliency::Error> {
        Map::new(self.height, self.width, &self.values)
    }
}

/// A map among the model's outputs.
fn plane(encoded: &Encoded, sum: bool) -> Result<Plane, ApiError> {
    if sum {
        let missing = || ApiError::new(Kind::EncoderFailed, "the model returned no `saliency_sum`");
        return encoded.sum.clone().ok_or_else(missing);
    }
    let (height, width) = encoded.grid;
    Ok(Plane { height, width, values: encoded.saliency.clone() })
}

/// The mean of a map and its mirror image's, and how far their foregrounds agree.
fn both(grid: &Plane, mirror: &Plane, deviations: f64) -> Result<(Plane, Option<f64>), saliency::Error> {
    let back = Plane { values: mirrored(mirror.map()?), ..*mirror };
    let foreground = |plane: &Plane| {
        let map = plane.map()?;
        foreground_above(map, threshold_at(map, deviations))
    };
    let confidence = agreement(&foreground(grid)?, &foreground(&back)?)?;
    Ok((Plane { values: averaged(grid.map()?, back.map()?)?, ..*grid }, Some(confidence)))
}

/// A grid at the size of a picture, with its edges. `rgb` has shape `(height, width, 3)`.
fn by_pixels(grid: &Plane, rgb: &[u8], (height, width): (usize, usize)) -> Result<Plane, saliency::Error> {
    let values = with_edges(grid.map()?, rgb, (height, width))?;
    Ok(Plane { height, width, values })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::inference::rule::MapRule;
    use occlude_saliency::SPECK;

    fn border(sum: bool) -> ModelInfo {
        let rule = MapRule { rule: "border".to_owned(), stage: 4, deviations: 0.25 };
        ModelInfo { rule, sum, ..Fake::info("fake", "f00d") }
    }

    #[test]
    fn each_rule_has_a_threshold_of_its_own() {
        let at = |source, asked, model: &ModelInfo| {
            Reading::new(source, asked, model).map(|r| (r.sum, r.deviations)).map_err(|e| e.kind)
        };
        let own = Fake::info("fake", "f00d");
        assert_eq!(at(Source::Default, None, &own), Ok((false, -0.6)));
        assert_eq!(at(Source::Sum, None, &own), Ok((false, -0.6)), "its rule is the sum");
        assert_eq!(at(Source::Default, None, &border(false)), Ok((false, 0.25)));
        assert_eq!(at(Source::Sum, None, &border(true)), Ok((true, -0.6)));
        assert_eq!(at(Source::Sum, Some(2.0), &border(true)), Ok((true, 2.0)));
        assert_eq!(at(Source::Sum, None, &border(false)), Err(Kind::BadRequest));
        let without = ModelInfo { maps: false, ..own };
        assert_eq!(at(Source::Default, None, &without), Err(Kind::BadRequest));
    }

    #[test]
    fn a_map_and_its_mirror_image_are_averaged() {
        let plane = |values: [f32; 4]| Plane { height: 2, width: 2, values: values.to_vec() };
        // Seen in the mirror the second is (8, 0 / 8, 0): what was left is right.
        let (mean, confidence) =
            both(&plane([8.0, 0.0, 0.0, 0.0]), &plane([0.0, 8.0, 0.0, 8.0]), 0.0).unwrap();
        assert_eq!(mean.values, [8.0, 0.0, 4.0, 0.0]);
        assert_eq!(confidence, Some(0.5));
    }

    #[test]
    fn a_refined_map_has_the_pictures_edge() {
        // Cells of 16 pixels; the picture's edge lies 4 pixels right of the cells'.
        let grid = Plane { height: 4, width: 4, values: [1.0, 1.0, 0.0, 0.0].repeat(4) };
        let side = 64;
        let colours: Vec<u8> = (0..side * side)
            .flat_map(|i| if i % side < 36 { [230, 51, 26] } else { [26, 77, 204] })
            .collect();
        let refined = by_pixels(&grid, &colours, (side, side)).unwrap();
        let maps = Maps { grid, refined: Some(refined), deviations: 0.0, confidence: None };
        let (_, mask) = maps.foreground().unwrap();
        let expected: Vec<bool> = (0..side * side).map(|i| i % side < 36).collect();
        assert_eq!(mask.cells(), expected);
        let coarse = Maps { refined: None, ..maps };
        assert_eq!(coarse.foreground().unwrap().1.width(), 4);
    }

    #[test]
    fn texture_makes_no_parts() {
        let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 1023) as f32;
        let (height, width) = (64, 64);
        let plane = Plane { height, width, values: (0..height * width).map(noise).collect() };
        let maps = Maps { grid: plane.clone(), refined: Some(plane), deviations: 0.5, confidence: None };
        let (_, mask) = maps.foreground().unwrap();
        let parts = mask.components();
        assert!(!parts.is_empty() && parts.len() <= SPECK, "{}", parts.len());
        assert!(parts.len() == 1 || parts.iter().all(|p| p.count() >= height * width / SPECK));
    }
}
