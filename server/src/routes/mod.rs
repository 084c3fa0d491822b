//! The router: one file for each family of routes, and what surrounds them all.

mod body;
mod bounds;
pub(crate) mod client;
mod coded;
mod coding;
mod collections;
mod docs;
mod errors;
mod form;
mod images;
mod json;
mod kserve;
mod leftover;
mod model_used;
mod names;
mod negotiate;
mod neighbours;
mod openai;
mod openapi;
mod ops;
mod page;
mod parameters;
mod queries;
mod receive;
mod schemas;
mod search;
mod surround;
#[cfg(test)]
pub(crate) mod tests_support;
mod timeout;

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::Cors;
use crate::error::{ApiError, Kind};
use crate::state::AppState;

/// The whole HTTP application (docs/server.md describes every route and status).
pub fn app(state: AppState) -> Router {
    for (route, status) in openapi::answers() {
        state.metrics().expect_answer(&route, &status);
    }
    Router::new()
        .route("/", get(page::index))
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
        .route("/v2/models/{model}/versions/{version}", get(kserve::model))
        .route("/v2/models/{model}/versions/{version}/ready", get(kserve::model_ready))
        .merge(timed(&state))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(state.clone(), surround::surround))
        .with_state(state)
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
        .route("/v1/gallery/{id}/thumbnail", get(search::thumbnail))
        .route("/v1/embeddings", post(openai::embeddings))
        .route("/v2/models/{model}/infer", post(kserve::infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(kserve::infer))
        .route_layer(from_fn_with_state(state.clone(), timeout::in_time))
}

/// Answers what browsers ask before a page of another origin may call. Around [`app`]: a preflight carries no key.
pub fn cross_origin(app: Router, cors: &Cors) -> Router {
    let origins = match cors {
        Cors::None => return app,
        Cors::Any => AllowOrigin::any(),
        Cors::Origins(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    // The wildcard is for every header but `Authorization`, which has to be named (fetch.spec.whatwg.org,
    // "Access-Control-Allow-Headers"); the others are named for clients that do not know the wildcard.
    let taken = [
        "authorization",
        "content-type",
        "content-encoding",
        "x-api-key",
        "x-request-id",
        "traceparent",
        "*",
    ];
    let taken = AllowHeaders::list(taken.map(HeaderName::from_static));
    let layer = CorsLayer::new().allow_origin(origins).allow_headers(taken);
    let methods = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
    let exposed = surround::EXPOSED.map(HeaderName::from_static);
    let layer = layer.allow_methods(methods).expose_headers(exposed).max_age(Duration::from_secs(3600));
    app.layer(layer).layer(from_fn(surround::identify))
}

async fn not_found(uri: axum::http::Uri) -> ApiError {
    ApiError::new(Kind::NotFound, format!("there is nothing at `{}`", uri.path()))
        .hint("POST a picture to /v1/embed, /v1/saliency, /v1/analyze or /v1/search; the page is at /")
}

async fn method_not_allowed(method: axum::http::Method, uri: axum::http::Uri) -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, format!("`{}` does not accept {method}", uri.path()))
        .hint("pictures are sent with POST, everything else is read with GET")
}
