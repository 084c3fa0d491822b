//! Who is let in: by API key, and at shutdown by route.

use axum::http::HeaderMap;

use super::admission::draining;
use super::state::AppState;
use crate::error::{ApiError, Kind};

/// Routes that need no key: what tells an orchestrator whether the server lives, and documents without secrets.
pub(crate) const OPEN: [&str; 10] = [
    "/",
    "/docs",
    "/docs/",
    "/docs/{*file}",
    "/openapi.json",
    "/healthz",
    "/readyz",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
];

/// Lets a request in, or says why not; gives the name of its key where keys are asked for.
pub(super) fn let_in(state: &AppState, route: &str, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let holder = authorise(state, route, headers)?;
    still_open(state, route)?;
    Ok(holder)
}

/// The name of the request's key where keys are asked for.
fn authorise(state: &AppState, route: &str, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let keys = state.keys();
    if !keys.required() || OPEN.contains(&route) {
        return Ok(None);
    }
    match keys.holder(headers) {
        Some(name) => Ok(Some(name.to_owned())),
        None => Err(ApiError::new(
            Kind::Unauthorized,
            "this server requires an API key, and the request has none that it knows",
        )
        .hint("send it as `Authorization: Bearer KEY`; the operator creates keys with `occlude-serve key`")),
    }
}

/// At shutdown only what watches the server and what describes it is answered on.
fn still_open(state: &AppState, route: &str) -> Result<(), ApiError> {
    let open = OPEN.contains(&route) || matches!(route, "/metrics" | "other");
    if state.draining() && !open { Err(draining()) } else { Ok(()) }
}
