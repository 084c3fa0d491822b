//! What models have done, as Triton's extension of the protocol tells it.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md>

use std::time::{Duration, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Place, VERSION, named};
use crate::error::ApiError;
use crate::inference::model::ModelInfo;
use crate::observe::metrics::{Statistics, Sum};
use crate::routes::errors;
use crate::serving::state::AppState;

/// What models have done since they were first loaded.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelStatistics {
    model_stats: Vec<OneModel>,
}

/// What one model has done.
#[derive(Serialize, ToSchema)]
#[schema(as = StatisticsOfModel)]
pub(super) struct OneModel {
    pub(super) name: String,
    pub(super) version: &'static str,
    /// Milliseconds since 1970; 0 where it never ran.
    pub(super) last_inference: u64,
    /// Pictures encoded.
    pub(super) inference_count: u64,
    /// Runs of the model.
    pub(super) execution_count: u64,
    pub(super) inference_stats: InferStatistics,
    pub(super) batch_stats: Vec<BatchStatistics>,
}

/// Requests (`success`, `fail`), pictures (`queue`, `compute_input`), runs (`compute_infer`) and answers
/// (`compute_output`); pictures whose answers were kept, or looked up in vain.
#[derive(Serialize, ToSchema)]
pub(super) struct InferStatistics {
    pub(super) success: StatisticDuration,
    pub(super) fail: StatisticDuration,
    pub(super) queue: StatisticDuration,
    pub(super) compute_input: StatisticDuration,
    pub(super) compute_infer: StatisticDuration,
    pub(super) compute_output: StatisticDuration,
    pub(super) cache_hit: StatisticDuration,
    pub(super) cache_miss: StatisticDuration,
}

/// Runs of one number of pictures; input and output are not measured by it.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchStatistics {
    pub(super) batch_size: u64,
    pub(super) compute_input: StatisticDuration,
    pub(super) compute_infer: StatisticDuration,
    pub(super) compute_output: StatisticDuration,
}

/// How often, and how long together in nanoseconds.
#[derive(Serialize, ToSchema, Clone, Copy, Default)]
pub(super) struct StatisticDuration {
    pub(super) count: u64,
    pub(super) ns: u64,
}

/// What a model has done
#[utoipa::path(get, path = "/v2/models/{model}/stats", operation_id = "model_statistics", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    responses((status = 200, body = ModelStatistics), errors::InferenceModel)
)]
pub(crate) async fn of_one(State(state): State<AppState>, at: Place) -> Result<Response, ApiError> {
    let model = at.model(&state)?;
    let model_stats = vec![one(&state, &model.info)];
    Ok(named(Json(ModelStatistics { model_stats }), &model.info))
}

/// What all models have done
#[utoipa::path(get, path = "/v2/models/stats", operation_id = "all_statistics", tag = "inference",
    responses((status = 200, body = ModelStatistics), errors::InferenceModel)
)]
pub(crate) async fn of_all(State(state): State<AppState>) -> Response {
    Json(ModelStatistics { model_stats: all(&state) }).into_response()
}

/// Of all models that are served.
pub(super) fn all(state: &AppState) -> Vec<OneModel> {
    state.models().iter().map(|model| one(state, &model.info)).collect()
}

/// Of one model.
pub(super) fn one(state: &AppState, info: &ModelInfo) -> OneModel {
    let done: Statistics = state.metrics().statistics(&info.name);
    let nothing = StatisticDuration::default();
    let batch = |(size, runs): (&usize, &Sum)| BatchStatistics {
        batch_size: *size as u64,
        compute_input: nothing,
        compute_infer: (*runs).into(),
        compute_output: nothing,
    };
    let since = done.last.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    OneModel {
        name: info.name.clone(),
        version: VERSION,
        last_inference: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        inference_count: done.pictures(),
        execution_count: done.encode.count,
        inference_stats: InferStatistics {
            success: done.success.into(),
            fail: done.fail.into(),
            queue: done.queue.into(),
            compute_input: done.decode.into(),
            compute_infer: done.encode.into(),
            compute_output: done.render.into(),
            cache_hit: done.hit.into(),
            cache_miss: done.miss.into(),
        },
        batch_stats: done.batches.iter().map(batch).collect(),
    }
}

impl From<Sum> for StatisticDuration {
    fn from(Sum { count, time }: Sum) -> Self {
        Self { count, ns: nanoseconds(time) }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
