//! The application: the routes, and what surrounds them all.

use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::compressed::compressed;
use super::request_id::identify;
use super::state::AppState;
use super::surround::{EXPOSED, surround};
use crate::config::Cors;
use crate::error::{ApiError, Kind};
#[cfg(feature = "grpc")]
use crate::routes::grpc;
use crate::routes::{answers, routes};

/// The whole HTTP application (docs/server.md describes every route and status).
pub fn app(state: AppState) -> Router {
    for (route, status) in answers() {
        state.metrics().expect_answer(&route, &status);
    }
    let routes = routes(&state).fallback(not_found).method_not_allowed_fallback(method_not_allowed);
    surrounded(routes.layer(from_fn_with_state(state.clone(), compressed)), state)
}

/// The Open Inference Protocol over gRPC, for a port of its own: HTTP/2 alone can carry it.
#[cfg(feature = "grpc")]
pub fn grpc_app(state: AppState) -> Router {
    for (route, status) in grpc::answers() {
        state.metrics().expect_answer(&route, &status);
    }
    surrounded(grpc::routes(&state), state)
}

fn surrounded(routes: Router<AppState>, state: AppState) -> Router {
    routes.layer(from_fn_with_state(state.clone(), surround)).layer(from_fn(identify)).with_state(state)
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
    let exposed = EXPOSED.map(HeaderName::from_static);
    let layer = layer.allow_methods(methods).expose_headers(exposed).max_age(Duration::from_secs(3600));
    app.layer(layer).layer(from_fn(identify))
}

async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(Kind::NotFound, format!("there is nothing at `{}`", uri.path()))
        .hint("POST a picture to /v1/embed, /v1/saliency, /v1/analyze or /v1/search; the page is at /")
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(Kind::MethodNotAllowed, format!("`{}` does not accept {method}", uri.path()))
        .hint("pictures are sent with POST, everything else is read with GET")
}
