//! The routes: one file for each family of them.

mod body;
mod bounds;
mod coded;
mod coding;
mod collections;
mod docs;
mod errors;
mod form;
mod gallery;
mod images;
mod json;
mod kserve;
mod names;
mod negotiate;
mod neighbours;
mod numbers;
mod openai;
mod openapi;
mod ops;
mod page;
mod queries;
mod receive;
mod schemas;
mod search;
mod shape;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use crate::serving::state::AppState;
use crate::serving::timeout;

#[cfg(feature = "grpc")]
pub(crate) use kserve::grpc;
pub(crate) use openapi::answers;

/// Every route (docs/server.md describes them all).
pub(crate) fn routes(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/", get(page::index))
        .route("/page/{*file}", get(page::file))
        .route("/docs", get(docs::redirect))
        .route("/docs/", get(docs::index))
        .route("/docs/{*file}", get(docs::file))
        .route("/openapi.json", get(openapi::openapi))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz))
        .route("/metrics", get(ops::metrics))
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{model}", get(openai::model))
        .route("/v2", get(kserve::server))
        .route("/v2/health/live", get(kserve::live))
        .route("/v2/health/ready", get(kserve::ready))
        .route("/v2/models/{model}", get(kserve::model))
        .route("/v2/models/{model}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/config", get(kserve::config::config))
        .route("/v2/models/{model}/stats", get(kserve::statistics::of_one))
        .route("/v2/models/stats", get(kserve::statistics::of_all))
        .route("/v2/models/{model}/versions/{version}", get(kserve::model))
        .route("/v2/models/{model}/versions/{version}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/versions/{version}/config", get(kserve::config::config))
        .route("/v2/models/{model}/versions/{version}/stats", get(kserve::statistics::of_one))
        .merge(timed(state))
}

/// The routes under the time-out of requests: those that run a model or read a disk. The others only tell what is in
/// memory.
fn timed(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/v1/embed", post(images::embed))
        .route("/v1/saliency", post(images::saliency))
        .route("/v1/analyze", post(images::analyze))
        .route("/v1/search", post(search::search))
        .route("/v1/collections", get(collections::list))
        .route(
            "/v1/collections/{name}",
            get(collections::show).put(collections::create).delete(collections::remove),
        )
        .route("/v1/collections/{name}/points", post(collections::upsert))
        .route("/v1/collections/{name}/points/delete", post(collections::delete))
        .route("/v1/collections/{name}/points/scroll", post(collections::scroll))
        .route("/v1/collections/{name}/count", post(collections::count))
        .route("/v1/collections/{name}/search", post(collections::search))
        .route("/v1/gallery", get(gallery::list))
        .route("/v1/gallery/{id}/neighbours", get(gallery::near))
        .route("/v1/gallery/{id}/thumbnail", get(search::thumbnail))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v2/repository/index", post(kserve::repository::index))
        .route("/v2/repository/models/{model}/load", post(kserve::repository::load))
        .route("/v2/repository/models/{model}/unload", post(kserve::repository::unload))
        .route("/v2/models/{model}/infer", post(kserve::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(kserve::infer))
        .route_layer(from_fn_with_state(state.clone(), timeout::in_time))
}
