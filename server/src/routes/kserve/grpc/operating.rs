//! Models that are loaded and unloaded, how they are configured, and what they have done.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::super::repository::check_parameters;
use super::super::statistics::{self, OneModel};
use super::super::{VERSION, config, named, version};
use super::frame::{Reply, Small};
use super::message::{
    ConfiguredInput, ConfiguredOutput, DynamicBatching, Empty, InferBatchStatistics, InferStatistics,
    ModelConfig, ModelConfigResponse, ModelIndex, ModelRequest, ModelStatistics, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelRequest, StatisticDuration,
};
use super::some;
use crate::error::ApiError;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

pub(super) async fn index(
    State(state): State<AppState>,
    _admitted: Admitted,
    Small(asked): Small<RepositoryIndexRequest>,
) -> Response {
    let listed = state.model_index(asked.ready).await.into_iter();
    let row = |l: crate::serving::repository::Listed| ModelIndex {
        name: l.name,
        version: VERSION.to_owned(),
        state: l.state.to_owned(),
        reason: l.reason,
    };
    Reply(RepositoryIndexResponse { models: listed.map(row).collect() }).into_response()
}

pub(super) async fn load(
    State(state): State<AppState>,
    _admitted: Admitted,
    Small(asked): Small<RepositoryModelRequest>,
) -> Result<Response, ApiError> {
    check_parameters(asked.parameters.keys())?;
    state.load_model(&asked.model_name).await?;
    Ok(Reply(Empty {}).into_response())
}

pub(super) async fn unload(
    State(state): State<AppState>,
    _admitted: Admitted,
    Small(asked): Small<RepositoryModelRequest>,
) -> Result<Response, ApiError> {
    state.unload_model(&asked.model_name).await?;
    Ok(Reply(Empty {}).into_response())
}

/// How a model is configured.
pub(super) async fn config(
    State(state): State<AppState>,
    Small(asked): Small<ModelRequest>,
) -> Result<Response, ApiError> {
    let model = version(&state, Some(&asked.name), some(&asked.version))?;
    let config = ModelConfig::from(config::of(&model.info, state.limits()));
    Ok(named(Reply(ModelConfigResponse { config: Some(config) }), &model.info))
}

impl From<config::ModelConfig> for ModelConfig {
    fn from(config: config::ModelConfig) -> Self {
        let input = |i: config::ConfiguredInput| ConfiguredInput {
            name: i.name.to_owned(),
            data_type: i.data_type as i32,
            dims: i.dims,
            optional: i.optional,
        };
        let output = |o: config::ConfiguredOutput| ConfiguredOutput {
            name: o.name.to_owned(),
            data_type: o.data_type as i32,
            dims: o.dims,
        };
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        let batching = config.dynamic_batching;
        Self {
            name: config.name,
            platform: config.platform.to_owned(),
            max_batch_size: count(config.max_batch_size),
            input: config.input.into_iter().map(input).collect(),
            output: config.output.into_iter().map(output).collect(),
            dynamic_batching: Some(DynamicBatching {
                preferred_batch_size: batching.preferred_batch_size.map(count).to_vec(),
                max_queue_delay_microseconds: batching.max_queue_delay_microseconds,
            }),
            backend: config.backend.to_owned(),
        }
    }
}

/// Of one model, or of all where none is named.
pub(super) async fn done(
    State(state): State<AppState>,
    Small(asked): Small<ModelRequest>,
) -> Result<Response, ApiError> {
    let found = match some(&asked.name) {
        None => statistics::all(&state),
        Some(name) => {
            let model = version(&state, Some(name), some(&asked.version))?;
            vec![statistics::one(&state, &model.info)]
        }
    };
    let model_stats = found.into_iter().map(ModelStatistics::from).collect();
    Ok(Reply(ModelStatisticsResponse { model_stats }).into_response())
}

impl From<statistics::StatisticDuration> for StatisticDuration {
    fn from(sum: statistics::StatisticDuration) -> Self {
        Self { count: sum.count, ns: sum.ns }
    }
}

impl From<OneModel> for ModelStatistics {
    fn from(model: OneModel) -> Self {
        let sums = model.inference_stats;
        let batch = |b: statistics::BatchStatistics| InferBatchStatistics {
            batch_size: b.batch_size,
            compute_input: Some(b.compute_input.into()),
            compute_infer: Some(b.compute_infer.into()),
            compute_output: Some(b.compute_output.into()),
        };
        Self {
            name: model.name,
            version: model.version.to_owned(),
            last_inference: model.last_inference,
            inference_count: model.inference_count,
            execution_count: model.execution_count,
            inference_stats: Some(InferStatistics {
                success: Some(sums.success.into()),
                fail: Some(sums.fail.into()),
                queue: Some(sums.queue.into()),
                compute_input: Some(sums.compute_input.into()),
                compute_infer: Some(sums.compute_infer.into()),
                compute_output: Some(sums.compute_output.into()),
                cache_hit: Some(sums.cache_hit.into()),
                cache_miss: Some(sums.cache_miss.into()),
            }),
            batch_stats: model.batch_stats.into_iter().map(batch).collect(),
        }
    }
}
