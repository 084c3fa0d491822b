//! What every answer has besides its id: the model's name and fingerprint, security headers, one shape of error, and its
//! place in the counters.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::asked::{Asked, Line};
use super::gate::let_in;
use super::leftover::lend;
use super::model_used::ModelName;
use super::state::AppState;
use crate::error::{ApiError, Kind, Shape};
use crate::observe::metrics::Answered;
use crate::observe::telemetry::{Trace, attribute, number};

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

/// The layer around all routes. The id is there already: the layer of `request_id` lies around this one.
pub(super) async fn surround(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let asked = Asked::new(&state, &request);
    let telemetry = state.telemetry();
    let trace = telemetry.as_ref().and_then(|_| Trace::begin(request.headers()));
    let (request, mut leftover) = lend(request);
    let (holder, mut response) = match let_in(&state, &asked.route, request.headers()) {
        Ok(holder) => match trace.clone() {
            Some(trace) => (holder, trace.during(run(next, request)).await),
            None => (holder, run(next, request).await),
        },
        Err(error) => (None, error.into_response()),
    };
    let status = response.status();
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = render(&state, &error, (&asked.id, asked.shape()), response.headers());
    }
    let model = response.extensions_mut().remove::<ModelName>();
    // Who was too slow gets no more time.
    let slow = status == StatusCode::REQUEST_TIMEOUT;
    let ends = slow || !leftover.drained(state.limits().max_body).await || state.ending();
    // Where requests come side by side, the end of one is not that of the connection.
    if ends && !asked.multiplexed {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    finish(model.as_ref(), response.headers_mut());
    let time = asked.start.elapsed();
    let model = model.map(|m| m.name);
    let Asked { method, route, .. } = &asked;
    let (method, model_) = (method.as_str(), model.as_deref());
    state.metrics().answered(Answered { method, route, status: status.as_u16(), model: model_, time });
    if let (Some(telemetry), Some(trace)) = (telemetry, trace) {
        let attributes = [
            attribute("http.request.method", method),
            attribute("http.route", route),
            number("http.response.status_code", i64::from(status.as_u16())),
            attribute("occlude.request_id", &asked.id),
        ];
        trace.end(&telemetry, &format!("{method} {route}"), status.as_u16(), &attributes);
    }
    let line = Line { key: holder.as_deref(), model: model_, status, received: leftover.received(), time };
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

fn finish(model: Option<&ModelName>, headers: &mut HeaderMap) {
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    if let Some(model) = model {
        set(MODEL, &model.name);
        set(FINGERPRINT, &model.fingerprint);
        set(IDENTITY, &model.identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every answer of an app whose handlers fail in every way has an id: the client's own where it is sane.
    #[tokio::test]
    async fn panics_are_answers_with_an_id() {
        use axum::Router;
        use axum::body::Body;
        use axum::middleware::{from_fn, from_fn_with_state};
        use axum::routing::get;
        use tower::ServiceExt;

        async fn panics() -> &'static str {
            let nothing: Vec<u8> = Vec::new();
            assert!(!nothing.is_empty(), "as told");
            "unreached"
        }
        let state =
            AppState::new(crate::config::Limits::default(), crate::serving::state::Expected::default());
        let app = Router::new()
            .route("/panics", get(panics))
            .route("/v2/panics", get(panics))
            .layer(from_fn_with_state(state.clone(), surround))
            .layer(from_fn(super::super::request_id::identify))
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
