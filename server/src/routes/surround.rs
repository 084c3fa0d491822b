//! What every answer has: a request id, the model's name and fingerprint, security headers, one shape of error, and
//! its place in the counters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::images::ModelName;
use super::leftover::lend;
use crate::admission::draining;
use crate::error::{ApiError, Kind, Shape};
use crate::metrics::Stage;
use crate::state::AppState;
use crate::telemetry::{Trace, attribute, number};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const MODEL: HeaderName = HeaderName::from_static("x-occlude-model");
const FINGERPRINT: HeaderName = HeaderName::from_static("x-occlude-fingerprint");
const IDENTITY: HeaderName = HeaderName::from_static("x-occlude-identity");

/// Headers of answers that pages of other origins may read.
pub(super) const EXPOSED: [&str; 7] = [
    "x-request-id",
    "x-occlude-model",
    "x-occlude-fingerprint",
    "x-occlude-identity",
    "x-occlude-notes",
    "retry-after",
    "inference-header-content-length",
];

/// Longest id that is taken over from a client.
const MAX_ID: usize = 64;

/// The id of the request that is being answered.
#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

pub(super) async fn surround(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(request.headers());
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or("other", MatchedPath::as_str).to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let telemetry = state.telemetry();
    let trace = telemetry.as_ref().and_then(|_| Trace::begin(request.headers()));
    let (request, leftover) = lend(request);
    let let_in = authorise(&state, &route, request.headers());
    let let_in = let_in.and_then(|holder| still_open(&state, &route).map(|()| holder));
    let (holder, mut response) = match let_in {
        Ok(holder) => match trace.clone() {
            Some(trace) => (holder, trace.during(next.run(request)).await),
            None => (holder, next.run(request).await),
        },
        Err(error) => (None, error.into_response()),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let flat = path == "/v2" || path.starts_with("/v2/");
        let shape = if flat { Shape::Flat } else { Shape::Nested };
        response = render(&state, &error, (&id, shape), response.headers());
    }
    let model = response.extensions_mut().remove::<ModelName>();
    // Who was too slow gets no more time.
    let slow = response.status() == StatusCode::REQUEST_TIMEOUT;
    if slow || !leftover.drained(state.limits().max_body).await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    finish(&state, &id, model.as_ref(), response.headers_mut());
    state.metrics().request(&route, response.status().as_u16());
    state.metrics().observe(Stage::Total, start.elapsed());
    if let (Some(telemetry), Some(trace)) = (telemetry, trace) {
        let status = response.status().as_u16();
        let attributes = [
            attribute("http.request.method", method.as_str()),
            attribute("http.route", &route),
            number("http.response.status_code", i64::from(status)),
            attribute("occlude.request_id", &id),
        ];
        trace.end(&telemetry, &format!("{method} {route}"), status, &attributes);
    }
    log(&id, &format!("{method} {path}"), &route, &response, holder.as_deref(), start.elapsed());
    response
}

/// Routes that need no key: what tells an orchestrator whether the server lives, and documents without secrets.
pub(super) const OPEN: [&str; 10] = [
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
            "this server asks for an API key, and has none like yours",
        )
        .hint("send it as `Authorization: Bearer KEY`; the operator makes keys with `occlude-serve key`")),
    }
}

/// At shutdown only what watches the server and what describes it is answered on.
fn still_open(state: &AppState, route: &str) -> Result<(), ApiError> {
    let open = OPEN.contains(&route) || matches!(route, "/metrics" | "other");
    if state.draining() && !open { Err(draining()) } else { Ok(()) }
}

/// A line for every request; those that only watch the server are of interest to nobody.
fn log(id: &str, what: &str, route: &str, response: &Response, key: Option<&str>, time: Duration) {
    let status = response.status().as_u16();
    let ms = (time.as_secs_f64() * 1e4).round() / 10.0;
    let key = key.unwrap_or("-");
    if matches!(route, "/healthz" | "/readyz" | "/metrics" | "/v2/health/live" | "/v2/health/ready") {
        tracing::debug!(request_id = id, status, ms, key, "{what}");
    } else {
        tracing::info!(request_id = id, status, ms, key, "{what}");
    }
}

fn render(state: &AppState, error: &ApiError, (id, shape): (&str, Shape), before: &HeaderMap) -> Response {
    let (status, code) = error.kind.status();
    state.metrics().error(code);
    if status.is_server_error() && !matches!(error.kind, Kind::Loading | Kind::Draining) {
        tracing::error!(request_id = id, code, "{error}");
    }
    let mut response = error.render(id, shape).into_response();
    // 405 says which methods there are.
    if let Some(allow) = before.get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

fn finish(state: &AppState, id: &str, model: Option<&ModelName>, headers: &mut HeaderMap) {
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(REQUEST_ID, id);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    if let Some(model) = model {
        set(MODEL, &model.name);
        set(FINGERPRINT, &model.fingerprint);
        set(IDENTITY, &model.identity);
    }
    if state.draining() {
        set(header::CONNECTION, "close");
    }
}

/// The client's own id where it is a plain word, else a new one: time of start and a number.
fn request_id(headers: &HeaderMap) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let plain = |v: &str| {
        (1..=MAX_ID).contains(&v.len()) && v.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let given = headers.get(&REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|v| plain(v));
    given.map_or_else(
        || format!("{:08x}-{:06x}", started(), NEXT.fetch_add(1, Ordering::Relaxed)),
        ToOwned::to_owned,
    )
}

fn started() -> u32 {
    static STARTED: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // The low bits change with every start; the high ones say nothing new.
        since.map_or(0, |d| d.as_nanos() as u32 ^ d.as_secs() as u32)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(id: &'static str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static(id));
        request_id(&headers)
    }

    #[test]
    fn plain_ids_are_kept_and_others_replaced() {
        assert_eq!(with("abc-1_2.3"), "abc-1_2.3");
        for odd in ["", "has space", "<script>", "a\"b"] {
            assert_ne!(with(odd), odd);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
