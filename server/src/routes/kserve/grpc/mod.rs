//! The Open Inference Protocol over gRPC: `inference.GRPCInferenceService`, as far as clients of KServe and Triton ask
//! for what there is here, and `grpc.health.v1.Health`.
//!
//! Every call has one message and one answer, so that the handlers are those of any route: bodies come in within the
//! bounds of all bodies, and ids, keys, metrics and errors with the layers around all routes. A message is read as a
//! whole by [`frame`] and not by a gRPC library, which would take it in before anybody is asked whether it fits.

mod bounds;
mod frame;
mod infer;
mod message;
mod operating;

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use utoipa::IntoResponses;

use self::frame::{Reply, Small};
use self::message::{
    Empty, Flag, HealthCheckRequest, HealthCheckResponse, ModelMetadataResponse, ModelRequest,
    ServerMetadataResponse, TensorMetadata,
};
use super::{EXTENSIONS, errors, metadata, named, version};
use crate::error::{ApiError, Kind};
use crate::serving::gate::Service;
use crate::serving::state::{AppState, Phase};
use crate::serving::timeout;

/// The calls, as routes.
pub(crate) fn routes(state: &AppState) -> Router<AppState> {
    let at = |call: &str| Service::Inference.path(call);
    Router::new()
        .route(&at("ServerLive"), post(server_live))
        .route(&at("ServerReady"), post(server_ready))
        .route(&at("ServerMetadata"), post(server_metadata))
        .route(&at("ModelReady"), post(model_ready))
        .route(&at("ModelMetadata"), post(model_metadata))
        .route(&at("ModelConfig"), post(operating::config))
        .route(&at("ModelStatistics"), post(operating::done))
        .route(&Service::Health.path("Check"), post(check))
        .merge(timed(state))
        .fallback(unknown)
        .method_not_allowed_fallback(other_method)
}

/// Every call with every status that its answers may have.
pub(crate) fn answers() -> Vec<(String, String)> {
    let at = |call: &str| Service::Inference.path(call);
    let server = ["ServerLive", "ServerReady", "ServerMetadata"];
    let model = ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"];
    let about = server.into_iter().chain(model).map(|call| (at(call), errors::InferenceModel::responses()));
    let repository = ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"];
    let repository = repository.map(|call| (at(call), errors::Repository::responses()));
    let check = (Service::Health.path("Check"), errors::InferenceModel::responses());
    let infer = (at("ModelInfer"), errors::Inference::responses());
    let statuses = |(path, errors): (String, BTreeMap<String, _>)| {
        let all = std::iter::once("200".to_owned()).chain(errors.into_keys());
        all.map(move |status| (path.clone(), status)).collect::<Vec<_>>()
    };
    about.into_iter().chain(repository).chain([check, infer]).flat_map(statuses).collect()
}

/// The calls under the time-out of requests: those that run a model or read a disk.
fn timed(state: &AppState) -> Router<AppState> {
    let at = |call: &str| Service::Inference.path(call);
    Router::new()
        .route(&at("ModelInfer"), post(infer::infer))
        .route(&at("RepositoryIndex"), post(operating::index))
        .route(&at("RepositoryModelLoad"), post(operating::load))
        .route(&at("RepositoryModelUnload"), post(operating::unload))
        .route_layer(from_fn_with_state(state.clone(), timeout::in_time))
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::new(Kind::NotFound, format!("there is no call `{}`", uri.path()))
        .hint("docs/server.md lists the calls of `inference.GRPCInferenceService` that are offered")
}

async fn other_method(method: Method, uri: Uri) -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, format!("`{}` does not accept {method}", uri.path()))
        .hint("this port speaks gRPC, which sends everything with POST")
}

async fn server_live(_: Small<Empty>) -> Response {
    Reply(Flag { is: true }).into_response()
}

async fn server_ready(State(state): State<AppState>, _: Small<Empty>) -> Response {
    Reply(Flag { is: state.phase() == Phase::Ready }).into_response()
}

async fn server_metadata(_: Small<Empty>) -> Response {
    let extensions = EXTENSIONS.iter().map(|&e| e.to_owned()).collect();
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Reply(ServerMetadataResponse { name: "occlude-serve".to_owned(), version, extensions }).into_response()
}

/// A model that there is not is one that is not ready, as with Triton.
async fn model_ready(
    State(state): State<AppState>,
    Small(asked): Small<ModelRequest>,
) -> Result<Response, ApiError> {
    match version(&state, Some(&asked.name), some(&asked.version)) {
        Ok(model) => Ok(named(Reply(Flag { is: !state.ending() }), &model.info)),
        Err(error) if matches!(error.kind, Kind::ModelNotFound | Kind::Loading) => {
            Ok(Reply(Flag { is: false }).into_response())
        }
        Err(error) => Err(error),
    }
}

async fn model_metadata(
    State(state): State<AppState>,
    Small(asked): Small<ModelRequest>,
) -> Result<Response, ApiError> {
    let model = version(&state, Some(&asked.name), some(&asked.version))?;
    let about = metadata(&model.info);
    let tensors = |list: Vec<super::TensorMetadata>| list.into_iter().map(TensorMetadata::from).collect();
    let answer = ModelMetadataResponse {
        name: about.name,
        versions: about.versions.map(str::to_owned).to_vec(),
        platform: about.platform.to_owned(),
        inputs: tensors(about.inputs),
        outputs: tensors(about.outputs),
    };
    Ok(named(Reply(answer), &model.info))
}

impl From<super::TensorMetadata> for TensorMetadata {
    fn from(tensor: super::TensorMetadata) -> Self {
        let super::TensorMetadata { name, datatype, shape } = tensor;
        Self { name: name.to_owned(), datatype: datatype.to_owned(), shape }
    }
}

/// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>
async fn check(
    State(state): State<AppState>,
    Small(asked): Small<HealthCheckRequest>,
) -> Result<Response, ApiError> {
    if !asked.service.is_empty() && asked.service != Service::Inference.name() {
        let message = format!("there is no service `{}`", asked.service);
        return Err(
            ApiError::new(Kind::ModelNotFound, message).hint("ask for the whole server by an empty name")
        );
    }
    let status = if state.phase() == Phase::Ready { 1 } else { 2 };
    Ok(Reply(HealthCheckResponse { status }).into_response())
}

/// What a string says that may be left out.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests;
