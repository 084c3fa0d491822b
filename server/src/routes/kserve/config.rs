//! A model in the words of Triton's configuration, which `perf_analyzer` and other clients of Triton ask for first.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_configuration.md>

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Place, TensorMetadata, errors, metadata, named};
use crate::config::Limits;
use crate::error::ApiError;
use crate::inference::model::ModelInfo;
use crate::serving::state::AppState;

/// A model, in Triton's words.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelConfig {
    pub(super) name: String,
    pub(super) platform: &'static str,
    pub(super) backend: &'static str,
    /// Pictures that one request may have.
    pub(super) max_batch_size: usize,
    /// Exactly one of them is sent.
    pub(super) input: Vec<ConfiguredInput>,
    pub(super) output: Vec<ConfiguredOutput>,
    pub(super) dynamic_batching: DynamicBatching,
}

/// Triton's names and numbers of the protocol's types, as far as there are tensors of them.
#[derive(Serialize, ToSchema, Clone, Copy)]
pub(super) enum DataType {
    #[serde(rename = "TYPE_INVALID")]
    Invalid = 0,
    #[serde(rename = "TYPE_UINT8")]
    Uint8 = 2,
    #[serde(rename = "TYPE_FP32")]
    Fp32 = 11,
    #[serde(rename = "TYPE_STRING")]
    Bytes = 13,
}

impl DataType {
    fn of(datatype: &str) -> Self {
        match datatype {
            "BYTES" => Self::Bytes,
            "UINT8" => Self::Uint8,
            "FP32" => Self::Fp32,
            _ => Self::Invalid,
        }
    }
}

/// An input of one picture.
#[derive(Serialize, ToSchema)]
pub(super) struct ConfiguredInput {
    pub(super) name: &'static str,
    pub(super) data_type: DataType,
    pub(super) dims: Vec<i64>,
    /// True where there is another input to choose.
    pub(super) optional: bool,
}

/// An output of one picture.
#[derive(Serialize, ToSchema)]
pub(super) struct ConfiguredOutput {
    pub(super) name: &'static str,
    pub(super) data_type: DataType,
    /// -1: any size.
    pub(super) dims: Vec<i64>,
}

/// How pictures of several requests come into one run of the model.
#[derive(Serialize, ToSchema)]
pub(super) struct DynamicBatching {
    pub(super) preferred_batch_size: [usize; 1],
    pub(super) max_queue_delay_microseconds: u64,
}

/// A model in the words of Triton's configuration
#[utoipa::path(get, path = "/v2/models/{model}/config", operation_id = "model_configuration", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    responses((status = 200, body = ModelConfig), errors::InferenceModel)
)]
pub(crate) async fn config(State(state): State<AppState>, at: Place) -> Result<Response, ApiError> {
    let model = at.model(&state)?;
    Ok(named(Json(of(&model.info, state.limits())), &model.info))
}

/// A model as it is configured.
pub(super) fn of(info: &ModelInfo, limits: &Limits) -> ModelConfig {
    let about = metadata(info);
    let several = about.inputs.len() > 1;
    let input = |tensor: TensorMetadata| ConfiguredInput {
        name: tensor.name,
        data_type: DataType::of(tensor.datatype),
        dims: of_one(&tensor),
        optional: several,
    };
    let output = |tensor: TensorMetadata| ConfiguredOutput {
        name: tensor.name,
        data_type: DataType::of(tensor.datatype),
        dims: of_one(&tensor),
    };
    ModelConfig {
        name: about.name,
        platform: about.platform,
        backend: "onnxruntime",
        max_batch_size: limits.max_images,
        input: about.inputs.into_iter().map(input).collect(),
        output: about.outputs.into_iter().map(output).collect(),
        dynamic_batching: DynamicBatching {
            preferred_batch_size: [limits.max_batch],
            max_queue_delay_microseconds: u64::try_from(limits.max_delay.as_micros()).unwrap_or(u64::MAX),
        },
    }
}

/// The shape without its first axis, which counts pictures; Triton has no tensor without an axis.
fn of_one(tensor: &TensorMetadata) -> Vec<i64> {
    let rest = tensor.shape.get(1..).unwrap_or_default();
    if rest.is_empty() { vec![1] } else { rest.to_vec() }
}
