//! Which part of the feature map the embedding is pooled from.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::batch::Encoded;
use crate::error::{ApiError, Kind};
use crate::model::ModelInfo;

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

impl Pool {
    /// Whether the model can answer; asked before a byte of the body is read.
    pub(crate) fn check(self, model: &ModelInfo) -> Result<(), ApiError> {
        match self {
            Pool::All => Ok(()),
            Pool::Foreground => {
                let message = format!("`{}` has no feature map to pool the foreground from", model.name);
                Err(ApiError::new(Kind::InvalidRequest, message).hint(
                    "export the model with the feature output: \
                     `occlude-export onnx --outputs embedding,saliency,res5`",
                ))
            }
        }
    }

    /// The embedding that was asked for; cells `deviations` standard deviations from the mean of the saliency, or
    /// above, are foreground.
    pub(crate) fn embedding(self, encoded: &Encoded, _deviations: f64) -> Vec<f32> {
        match self {
            // No model has passed `check` with another.
            Pool::All | Pool::Foreground => encoded.embedding.clone(),
        }
    }
}
