//! The Open Inference Protocol, version 2, over HTTP, as KServe and Triton speak it, with the extension for binary
//! tensors. <https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>

mod answer;
pub(super) mod config;
#[cfg(feature = "grpc")]
pub(crate) mod grpc;
mod inputs;
pub(super) mod repository;
pub(super) mod statistics;
mod tensor;
mod wire;

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use occlude_contract::InputKind;
use occlude_contract::output::{EMBEDDING, SALIENCY};
use serde::Serialize;
use utoipa::ToSchema;

use self::answer::{InferAnswer, Made};
use self::inputs::{FILES, Pictures, Rules};
use self::wire::InferRequest;
use super::errors;
use super::receive::whole;
use crate::error::{ApiError, Kind};
use crate::inference::encode::Encoded;
use crate::inference::model::{Model, ModelInfo};
use crate::observe::metrics::Stage;
use crate::pictures::encoding::{encode_all, encode_crops};
use crate::serving::admission::Admitted;
use crate::serving::model_used::ModelName;
use crate::serving::state::{AppState, Phase};

/// Length of the JSON in front of binary tensors.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// What the server offers beyond the protocol.
const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"];

/// Every model has one version: the file that is served.
const VERSION: &str = "1";

/// The server, in the protocol's words.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 4],
}

#[derive(Serialize, ToSchema)]
struct Live {
    live: bool,
}

#[derive(Serialize, ToSchema)]
struct ServerReady {
    ready: bool,
    /// What the server is at: `loading model`, `indexing gallery`, `ready` or `draining`.
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
struct ModelReady {
    name: String,
    ready: bool,
}

/// A model, in the protocol's words.
#[derive(Serialize, ToSchema)]
struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    /// Exactly one of them is sent.
    inputs: Vec<TensorMetadata>,
    outputs: Vec<TensorMetadata>,
    parameters: ModelParameters,
}

#[derive(Serialize, ToSchema)]
struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    /// -1: any size.
    shape: Vec<i64>,
}

/// What the protocol has no field for.
#[derive(Serialize, ToSchema)]
struct ModelParameters {
    fingerprint: String,
    identity: String,
    encoder: String,
    provider: String,
}

/// The server's name and extensions
#[utoipa::path(
    get, path = "/v2", operation_id = "server_metadata", tag = "inference",
    responses((status = 200, body = ServerMetadata))
)]
pub(super) async fn server() -> Response {
    let (name, version) = ("occlude-serve", env!("CARGO_PKG_VERSION"));
    Json(ServerMetadata { name, version, extensions: EXTENSIONS }).into_response()
}

/// Whether the process answers
#[utoipa::path(
    get, path = "/v2/health/live", operation_id = "server_live", tag = "inference",
    responses((status = 200, body = Live))
)]
pub(super) async fn live() -> Response {
    Json(Live { live: true }).into_response()
}

/// Whether every route can answer
///
/// 200 or 503, with the same body.
#[utoipa::path(get, path = "/v2/health/ready", operation_id = "server_ready", tag = "inference", responses(
    (status = 200, body = ServerReady, description = "Every route can answer"),
    (status = 503, body = ServerReady, description = "Something is loading, or the server shuts down"),
))]
pub(super) async fn ready(State(state): State<AppState>) -> Response {
    let phase = state.phase();
    let ready = phase == Phase::Ready;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ServerReady { ready, status: phase.name() })).into_response()
}

/// Inputs and outputs of a model
#[utoipa::path(get, path = "/v2/models/{model}", operation_id = "model_metadata", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    responses((status = 200, body = ModelMetadata), errors::InferenceModel)
)]
pub(super) async fn model(State(state): State<AppState>, at: Place) -> Result<Response, ApiError> {
    let model = at.model(&state)?;
    Ok(named(Json(metadata(&model.info)), &model.info))
}

/// Whether a model answers
#[utoipa::path(get, path = "/v2/models/{model}/ready", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    responses((status = 200, body = ModelReady), errors::InferenceModel)
)]
pub(super) async fn model_ready(State(state): State<AppState>, at: Place) -> Result<Response, ApiError> {
    let model = at.model(&state)?;
    if state.ending() {
        return Err(ApiError::new(Kind::Draining, "the server is shutting down").retry_after(1));
    }
    Ok(named(Json(ModelReady { name: model.info.name.clone(), ready: true }), &model.info))
}

/// Embeddings and saliency as tensors
///
/// One input: `files` (BYTES), `images` (UINT8) or, for models that take it, `pixel_values` (FP32). With the header
/// `Inference-Header-Content-Length` the body is so many bytes of JSON, then the tensor in binary.
#[utoipa::path(post, path = "/v2/models/{model}/infer", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    request_body = InferRequest<'_>,
    responses((status = 200, content(
        (InferAnswer<'_> = "application/json"), (Vec<u8> = "application/octet-stream")
    )), errors::Inference)
)]
pub(super) async fn infer(
    State(state): State<AppState>,
    at: Place,
    request: Request,
) -> Result<Response, ApiError> {
    let name = at.model(&state)?.info.name.clone();
    let start = Instant::now();
    let answered = infer_by(&state, &name, request).await;
    state.metrics().inferred(&name, answered.is_ok(), start.elapsed());
    answered
}

async fn infer_by(state: &AppState, name: &str, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let json = header_length(&head.headers)?;
    let mut admitted = Admitted::new(state)?;
    let bytes = whole(state, &mut admitted, &head.headers, body).await?;
    // Only now: who sends slowly keeps no model that is to be unloaded.
    let model = state.model(Some(name))?;
    let rules = Rules::of(state.limits(), &model.info);
    let (asked, pictures) =
        state.on_pool(Stage::Parse, None, move || wire::parse(&bytes, json, rules)).await??;
    let encoded = encode(state, &model, &mut admitted, pictures).await?;
    let info = Arc::clone(&model);
    let write = move || answer::write(&info.info, VERSION, &asked, &encoded);
    let made = state.on_pool(Stage::Render, Some(&model.info.name), write).await??;
    Ok(named(answer(made), &model.info))
}

/// A model and perhaps a version of it, from the path.
pub(super) struct Place(Result<Path<Vec<(String, String)>>, PathRejection>);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Place {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self(Path::from_request_parts(parts, state).await))
    }
}

impl Place {
    fn model(self, state: &AppState) -> Result<Arc<Model>, ApiError> {
        let Path(segments) = self.0.map_err(|e| errors::path(&e))?;
        let find = |key: &str| segments.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        version(state, find("model"), find("version"))
    }
}

/// A model, of which there is one version.
fn version(state: &AppState, model: Option<&str>, version: Option<&str>) -> Result<Arc<Model>, ApiError> {
    let model = state.model(model)?;
    match version.filter(|v| *v != VERSION) {
        None => Ok(model),
        Some(version) => {
            let message = format!("the model `{}` has no version `{version}`", model.info.name);
            Err(ApiError::new(Kind::ModelNotFound, message).hint("there is only version `1`"))
        }
    }
}

fn named(answer: impl IntoResponse, info: &ModelInfo) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(ModelName::from(info));
    response
}

fn metadata(info: &ModelInfo) -> ModelMetadata {
    let side = i64::from(info.contract.crop);
    let tensor = |name, datatype, shape: &[i64]| TensorMetadata { name, datatype, shape: shape.to_vec() };
    let mut inputs =
        vec![tensor(FILES, "BYTES", &[-1]), tensor(InputKind::Uint8.name(), "UINT8", &[-1, side, side, 3])];
    if info.input == InputKind::Float {
        inputs.push(tensor(InputKind::Float.name(), "FP32", &[-1, 3, side, side]));
    }
    let mut outputs = vec![tensor(EMBEDDING, "FP32", &[-1, i64::try_from(info.dim).unwrap_or(-1)])];
    if info.maps {
        outputs.push(tensor(SALIENCY, "FP32", &[-1, -1, -1]));
    }
    ModelMetadata {
        name: info.name.clone(),
        versions: [VERSION],
        platform: "onnxruntime_onnx",
        inputs,
        outputs,
        parameters: ModelParameters {
            fingerprint: info.fingerprint.clone(),
            identity: info.identity.clone(),
            encoder: info.encoder.clone(),
            provider: info.provider.clone(),
        },
    }
}

async fn encode(
    state: &AppState,
    model: &Model,
    admitted: &mut Admitted,
    pictures: Pictures,
) -> Result<Vec<Encoded>, ApiError> {
    match pictures {
        Pictures::Files(files) => {
            let answers = encode_all(state, model, admitted, files).await?;
            Ok(answers.into_iter().map(|a| a.encoded).collect())
        }
        Pictures::Crops(crops) => encode_crops(state, model, admitted, crops).await,
    }
}

fn answer(made: Made) -> Response {
    let Some(json) = made.json else {
        return ([(header::CONTENT_TYPE, "application/json")], made.body).into_response();
    };
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], made.body).into_response();
    response.headers_mut().insert(HEADER_LENGTH, HeaderValue::from(json));
    response
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(&HEADER_LENGTH) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|v| v.parse().ok());
    let error =
        || ApiError::new(Kind::BadRequest, "`Inference-Header-Content-Length` is not a number of bytes");
    parsed.map(Some).ok_or_else(error)
}
