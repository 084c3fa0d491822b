//! What every answer has: a request id, the model's name and fingerprint, security headers, one shape of error, and
//! its place in the counters.

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Body as _;

use super::client::{Peer, address};
use super::leftover::lend;
use super::model_used::ModelName;
use crate::admission::draining;
use crate::error::{ApiError, Kind, Shape};
use crate::metrics::Answered;
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

/// What is known of a request before it is answered.
struct Asked {
    id: String,
    method: Method,
    path: String,
    /// The template that matched.
    route: String,
    client: Option<IpAddr>,
    start: Instant,
}

impl Asked {
    fn new(state: &AppState, request: &Request) -> Self {
        let extensions = request.extensions();
        let named = extensions.get::<RequestId>().map(|id| id.0.clone());
        let peer = extensions.get::<Peer>().map(|p| p.0.ip());
        Self {
            id: named.unwrap_or_else(|| request_id(request.headers())),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            route: extensions.get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned(),
            client: peer.map(|p| address(p, request.headers(), state.trusted_proxies())),
            start: Instant::now(),
        }
    }

    fn shape(&self) -> Shape {
        let flat = self.path == "/v2" || self.path.starts_with("/v2/");
        if flat { Shape::Flat } else { Shape::Nested }
    }
}

/// Gives the request its id before anybody answers it, and every answer that has none this id.
pub(super) async fn identify(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().entry(REQUEST_ID).or_insert(value);
    }
    response
}

pub(super) async fn surround(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let asked = Asked::new(&state, &request);
    request.extensions_mut().insert(RequestId(asked.id.clone()));
    let telemetry = state.telemetry();
    let trace = telemetry.as_ref().and_then(|_| Trace::begin(request.headers()));
    let (request, mut leftover) = lend(request);
    let let_in = authorise(&state, &asked.route, request.headers());
    let let_in = let_in.and_then(|holder| still_open(&state, &asked.route).map(|()| holder));
    let (holder, mut response) = match let_in {
        Ok(holder) => match trace.clone() {
            Some(trace) => (holder, trace.during(run(next, request)).await),
            None => (holder, run(next, request).await),
        },
        Err(error) => (None, error.into_response()),
    };
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = render(&state, &error, (&asked.id, asked.shape()), response.headers());
    }
    let model = response.extensions_mut().remove::<ModelName>();
    // Who was too slow gets no more time.
    let slow = response.status() == StatusCode::REQUEST_TIMEOUT;
    if slow || !leftover.drained(state.limits().max_body).await {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    finish(&state, &asked.id, model.as_ref(), response.headers_mut());
    let (status, time) = (response.status().as_u16(), asked.start.elapsed());
    let model = model.map(|m| m.name);
    let Asked { method, route, .. } = &asked;
    let (method, model_) = (method.as_str(), model.as_deref());
    state.metrics().answered(Answered { method, route, status, model: model_, time });
    if let (Some(telemetry), Some(trace)) = (telemetry, trace) {
        let attributes = [
            attribute("http.request.method", method),
            attribute("http.route", route),
            number("http.response.status_code", i64::from(status)),
            attribute("occlude.request_id", &asked.id),
        ];
        trace.end(&telemetry, &format!("{method} {route}"), status, &attributes);
    }
    let line = Line { key: holder.as_deref(), model: model_, received: leftover.received(), time };
    line.log(&asked, &response);
    response
}

/// The handler's answer; a panic of it is a defect of one answer and not the end of the connection.
async fn run(next: Next, request: Request) -> Response {
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        ApiError::new(Kind::Internal, "the request was aborted by an internal error of the server")
            .into_response()
    })
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

/// What the log says of a request besides what it asked.
struct Line<'a> {
    key: Option<&'a str>,
    model: Option<&'a str>,
    received: u64,
    time: Duration,
}

impl Line<'_> {
    /// A line for every request; those that only watch the server are of interest to nobody. The query stays out of it:
    /// it may hold what is nobody else's business.
    fn log(&self, asked: &Asked, response: &Response) {
        let status = response.status().as_u16();
        let ms = (self.time.as_secs_f64() * 1e4).round() / 10.0;
        let (key, model) = (self.key.unwrap_or("-"), self.model);
        let (bytes_in, bytes_out) = (self.received, response.body().size_hint().exact());
        let client = asked.client.map(|c| c.to_string());
        let (method, path, id) = (asked.method.as_str(), asked.path.as_str(), asked.id.as_str());
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = id,
                    method,
                    path,
                    status,
                    model,
                    ms,
                    bytes_in,
                    bytes_out,
                    client,
                    key,
                    "{method} {path}"
                )
            };
        }
        match asked.route.as_str() {
            "/healthz" | "/readyz" | "/metrics" | "/v2/health/live" | "/v2/health/ready" => line!(debug),
            _ => line!(info),
        }
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

    /// Every answer of an app whose handlers fail in every way has an id: the client's own where it is sane.
    #[tokio::test]
    async fn panics_are_answers_with_an_id() {
        use axum::Router;
        use axum::body::Body;
        use axum::middleware::from_fn_with_state;
        use axum::routing::get;
        use tower::ServiceExt;

        async fn panics() -> &'static str {
            let nothing: Vec<u8> = Vec::new();
            assert!(!nothing.is_empty(), "as told");
            "unreached"
        }
        let state = AppState::new(crate::config::Limits::default(), crate::state::Expected::default());
        let app = Router::new()
            .route("/panics", get(panics))
            .route("/v2/panics", get(panics))
            .layer(from_fn_with_state(state.clone(), surround))
            .with_state(state.clone());
        for path in ["/panics", "/v2/panics"] {
            let request = Request::get(path).header("x-request-id", "mine").body(Body::empty()).unwrap();
            let answer = app.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
            assert_eq!(answer.headers()["x-request-id"], "mine");
        }
        assert!(
            state.metrics().render(&state.gauges()).contains("occlude_errors_total{code=\"internal\"} 2")
        );
    }
}
