//! Which part of the feature map the embedding is pooled from.

use occlude_saliency::{Map, foreground_above, foreground_pooled, threshold_at, upsample};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{ApiError, Kind, RenderError};
use crate::inference::encode::{Encoded, Wants};
use crate::inference::model::ModelInfo;

/// What `?pool=` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pool {
    /// The whole picture: the model's own output.
    #[default]
    All,
    /// The cells of the foreground alone.
    Foreground,
}

/// How an embedding is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pooling {
    pub(crate) pool: Pool,
    /// Where the foreground begins, in standard deviations from the mean of the saliency.
    pub(crate) deviations: f64,
}

impl Pooling {
    /// What the model has to give besides its embedding. Fails where it cannot; asked before a byte of the body is
    /// read.
    pub(crate) fn wants(self, model: &ModelInfo) -> Result<Wants, ApiError> {
        let features = self.pool == Pool::Foreground;
        if features && !(model.features && model.maps) {
            let message = format!("`{}` has no feature map to pool the foreground from", model.name);
            return Err(ApiError::new(Kind::InvalidRequest, message).hint(
                "export the model with the feature output: \
                 `occlude-export onnx --outputs embedding,saliency,res5`",
            ));
        }
        Ok(Wants { features, ..Wants::default() })
    }

    /// The embedding that was asked for; of the foreground, it always has length 1.
    pub(crate) fn embedding(self, encoded: &Encoded) -> Result<Vec<f32>, ApiError> {
        if self.pool == Pool::All {
            return Ok(encoded.embedding.clone());
        }
        let missing = || ApiError::new(Kind::EncoderFailed, "the model returned no feature map");
        let features = encoded.features.as_ref().ok_or_else(missing)?;
        let pooled = || {
            let map = Map::new(encoded.grid.0, encoded.grid.1, &encoded.saliency)?;
            // The saliency may be that of another stage; at the same size this changes nothing.
            let values = upsample(map, features.height, features.width);
            let map = Map::new(features.height, features.width, &values)?;
            let mask = foreground_above(map, threshold_at(map, self.deviations))?;
            foreground_pooled(features.channels, &features.values, &mask)
        };
        Ok(pooled().map_err(RenderError::from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::encode::Features;

    /// A saliency of twice as many cells a side: the features' cells are foreground where the mean of their four is.
    #[test]
    fn the_saliency_of_another_stage_says_where_the_foreground_is() {
        let saliency = [[9.0, 7.0, 0.0, 1.0], [8.0, 8.0, 1.0, 0.0], [0.0; 4], [1.0; 4]].concat();
        let features = Features {
            channels: 2,
            height: 2,
            width: 2,
            values: vec![3.0, 0.0, 0.0, 1.0, 4.0, 1.0, 1.0, 1.0],
        };
        let encoded =
            Encoded { embedding: vec![1.0], saliency, grid: (4, 4), features: Some(features), sum: None };
        let pooling = Pooling { pool: Pool::Foreground, deviations: 0.5 };
        assert_eq!(pooling.embedding(&encoded).unwrap(), [0.6, 0.8]);
        let info = crate::fake::Fake::info("fake", "f00d");
        for (features, maps, possible) in [(true, true, true), (true, false, false), (false, true, false)] {
            let model = ModelInfo { features, maps, ..info.clone() };
            assert_eq!(pooling.wants(&model).is_ok(), possible, "{features} {maps}");
        }
        let all = Pooling { pool: Pool::All, ..pooling };
        assert_eq!(all.embedding(&encoded).unwrap(), [1.0]);
    }
}
