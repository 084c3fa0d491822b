//! `/healthz`, `/readyz`, `/metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::errors;

use crate::gallery::Gallery;
use crate::inference::model::ModelInfo;
use crate::inference::rule::MapRule;
use crate::serving::state::{AppState, Phase};

/// Whether the process answers
///
/// Nothing about the model.
#[utoipa::path(get, path = "/healthz", tag = "server", responses(
    (status = 200, body = String, content_type = "text/plain", description = "The process answers"),
))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// What the server can do at present.
#[derive(Serialize, ToSchema)]
struct Ready {
    ready: bool,
    status: &'static str,
    version: &'static str,
    models: Vec<ModelJson>,
    gallery: Option<GalleryJson>,
    collections: Option<CollectionsJson>,
}

/// The state of the collections; null where the server has none.
#[derive(Serialize, ToSchema)]
#[schema(as = CollectionsState)]
struct CollectionsJson {
    /// Whether something can be added; searching and deleting do not depend on it.
    writable: bool,
    /// Why not.
    problem: Option<&'static str>,
}

/// A model, as answers show it.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub(super) struct ModelJson {
    name: String,
    /// Hash over weights and preprocessing.
    fingerprint: String,
    /// Hash over all that changes the numbers, precision and quantisation included.
    identity: String,
    encoder: String,
    method: Option<String>,
    licence: Option<String>,
    checkpoint: Option<String>,
    /// What really runs it.
    provider: String,
    input: &'static str,
    dim: usize,
    /// Least cosine with the stored answers for the golden picture; null where the model has none.
    golden: Option<f64>,
    /// Whether `pool=foreground` is possible.
    features: bool,
    /// Whether it has a saliency map at all; models of other projects have none.
    maps: bool,
    /// How its saliency map is made, and where the foreground begins by default.
    saliency: MapRule,
    /// Whether the channel sum is there beside it, for `map=sum`; a model whose rule is the sum needs no second one.
    saliency_sum: bool,
    /// The contract, as it is in the file.
    preprocess: serde_json::Value,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Gallery)]
struct GalleryJson {
    images: usize,
    skipped: usize,
}

impl From<&ModelInfo> for ModelJson {
    fn from(info: &ModelInfo) -> Self {
        Self {
            name: info.name.clone(),
            fingerprint: info.fingerprint.clone(),
            identity: info.identity.clone(),
            encoder: info.encoder.clone(),
            method: info.method.clone(),
            licence: info.licence.clone(),
            checkpoint: info.checkpoint.clone(),
            provider: info.provider.clone(),
            input: info.input.element(),
            dim: info.dim,
            golden: info.golden,
            features: info.features,
            maps: info.maps,
            saliency: info.rule.clone(),
            saliency_sum: info.sum,
            preprocess: serde_json::from_str(&info.contract.to_json()).unwrap_or_default(),
        }
    }
}

/// What the server can do at present
///
/// 200 when models are loaded, the gallery is indexed and the collections are open, else 503, with the same body.
#[utoipa::path(get, path = "/readyz", tag = "server", responses(
    (status = 200, body = Ready, description = "Everything is loaded"),
    (status = 503, body = Ready, description = "Something is loading, or the server shuts down"),
))]
pub(super) async fn readyz(State(state): State<AppState>) -> Response {
    let phase = state.phase();
    let ready = phase == Phase::Ready;
    let gallery = |g: &Gallery| GalleryJson { images: g.len(), skipped: g.skipped() };
    let body = Ready {
        ready,
        status: phase.name(),
        version: env!("CARGO_PKG_VERSION"),
        models: state.models().iter().map(|m| ModelJson::from(&m.info)).collect(),
        gallery: state.indexed().as_deref().map(gallery),
        collections: state
            .has_store()
            .then(|| CollectionsJson { writable: state.writable(), problem: state.store_problem() }),
    };
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// Counters for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, body = String, content_type = "text/plain", description = "Prometheus text, version 0.0.4"),
    errors::Plain
))]
pub(super) async fn metrics(State(state): State<AppState>) -> Response {
    let text = state.metrics().render(&state.gauges());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
