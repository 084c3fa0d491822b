//! Models that clients load and unload, as Triton's extension of the protocol has it.
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md>

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{errors, json};
use super::VERSION;
use super::inputs::invalid;
use crate::error::ApiError;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

/// Which models are listed.
#[derive(Deserialize, ToSchema)]
pub(super) struct IndexRequest {
    /// Only those that are served.
    ready: Option<bool>,
}

/// A model that is served or can be loaded.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelIndex {
    name: String,
    version: &'static str,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    state: &'static str,
    /// Why it is not there.
    reason: String,
}

/// How a model is loaded or unloaded.
#[derive(Deserialize, ToSchema)]
pub(super) struct RepositoryRequest {
    /// `unload_dependents` is ignored: no model depends on another.
    #[schema(value_type = Option<Object>)]
    parameters: Option<BTreeMap<String, IgnoredAny>>,
}

/// The models that are served or can be loaded
#[utoipa::path(post, path = "/v2/repository/index", operation_id = "repository_index", tag = "inference",
    request_body = Option<IndexRequest>,
    responses((status = 200, body = Vec<ModelIndex>), errors::RepositoryIndex)
)]
pub(crate) async fn index(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let mut admitted = Admitted::new(&state)?;
    let asked: Option<IndexRequest> = json::body_or_default(&state, &mut admitted, request).await?;
    let ready = asked.and_then(|asked| asked.ready).unwrap_or(false);
    let listed = state.model_index(ready).await.into_iter();
    let row = |l: crate::serving::repository::Listed| ModelIndex {
        name: l.name,
        version: VERSION,
        state: l.state,
        reason: l.reason,
    };
    Ok(Json(listed.map(row).collect::<Vec<_>>()).into_response())
}

/// Loads a model from a folder that the operator named
///
/// Ends when it is served. A model that is served already is loaded again if its file has changed.
#[utoipa::path(post, path = "/v2/repository/models/{model}/load", operation_id = "model_load", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    request_body = Option<RepositoryRequest>,
    responses((status = 200, description = "It is served"), errors::Repository)
)]
pub(crate) async fn load(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|e| errors::path(&e))?;
    let mut admitted = Admitted::new(&state)?;
    let asked: Option<RepositoryRequest> = json::body_or_default(&state, &mut admitted, request).await?;
    check_parameters(asked.iter().flat_map(|asked| &asked.parameters).flat_map(BTreeMap::keys))?;
    state.load_model(&name).await?;
    Ok(StatusCode::OK.into_response())
}

/// Serves a model no more that was loaded
///
/// Ends when the last request that began with it is answered.
#[utoipa::path(post, path = "/v2/repository/models/{model}/unload", operation_id = "model_unload", tag = "inference",
    params(("model" = String, Path, description = "Name of a model")),
    request_body = Option<RepositoryRequest>,
    responses((status = 200, description = "It is no longer served"), errors::Repository)
)]
pub(crate) async fn unload(
    State(state): State<AppState>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|e| errors::path(&e))?;
    let mut admitted = Admitted::new(&state)?;
    let _: Option<RepositoryRequest> = json::body_or_default(&state, &mut admitted, request).await?;
    state.unload_model(&name).await?;
    Ok(StatusCode::OK.into_response())
}

/// Files and their configuration come from the operator's folders alone.
pub(super) fn check_parameters<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), ApiError> {
    match names.find(|n| *n == "config" || n.starts_with("file:")) {
        None => Ok(()),
        Some(name) => {
            Err(invalid(format!("the parameter `{name}` is not supported: models are loaded as they are")))
        }
    }
}
