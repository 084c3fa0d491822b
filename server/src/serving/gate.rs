//! Who is let in: by API key, and at shutdown by route.

use axum::http::HeaderMap;

use super::admission::draining;
use super::state::AppState;
use crate::error::{ApiError, Kind};

/// Routes that need no key: what tells an orchestrator whether the server lives, and documents without secrets.
pub(crate) const OPEN: [&str; 11] = [
    "/",
    "/page/{*file}",
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

/// A service of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg(feature = "grpc")]
pub(crate) enum Service {
    /// The Open Inference Protocol.
    Inference,
    /// What orchestrators ask.
    Health,
}

#[cfg(feature = "grpc")]
impl Service {
    /// Its name, with that of its package.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inference => "inference.GRPCInferenceService",
            Self::Health => "grpc.health.v1.Health",
        }
    }

    /// The path of one of its calls.
    pub(crate) fn path(self, call: &str) -> String {
        format!("/{}/{call}", self.name())
    }
}

/// Calls that need no key, as the routes that tell the same.
#[cfg(feature = "grpc")]
fn is_open_call(route: &str) -> bool {
    let call = |service: Service| route.strip_prefix('/')?.strip_prefix(service.name())?.strip_prefix('/');
    matches!(call(Service::Inference), Some("ServerLive" | "ServerReady" | "ServerMetadata"))
        || call(Service::Health).is_some()
}

#[cfg(not(feature = "grpc"))]
fn is_open_call(_: &str) -> bool {
    false
}

fn is_open(route: &str) -> bool {
    OPEN.contains(&route) || is_open_call(route)
}

/// Lets a request in, or says why not; gives the name of its key where keys are asked for.
pub(super) fn let_in(state: &AppState, route: &str, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let holder = authorise(state, route, headers)?;
    still_open(state, route)?;
    Ok(holder)
}

/// The name of the request's key where keys are asked for.
fn authorise(state: &AppState, route: &str, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let keys = state.keys();
    if !keys.required() || is_open(route) {
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
    let open = is_open(route) || matches!(route, "/metrics" | "other");
    if state.draining() && !open { Err(draining()) } else { Ok(()) }
}
