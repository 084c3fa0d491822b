//! The time-out of requests: a layer around the routes whose answers take the server some time.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::clock;
use super::state::AppState;
use crate::error::{ApiError, Kind};

/// 504 when the answer takes longer than `--timeout` from the end of the request.
pub(crate) async fn in_time(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit = state.limits().timeout.time();
    let late = || {
        let message = format!("no answer within {} s", limit.as_secs_f64());
        ApiError::new(Kind::Timeout, message).hint("send fewer pictures at once, or try again later")
    };
    clock::in_time(limit, next.run(request)).await.ok_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::http::StatusCode;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::super::state::Expected;
    use crate::config::Limits;

    async fn wait() {
        tokio::time::sleep(Duration::from_millis(700)).await;
    }

    #[tokio::test]
    async fn late_answers_are_errors_and_receiving_a_body_does_not_count() {
        let limits = Limits { timeout: Duration::from_millis(200).into(), ..Limits::default() };
        let state = AppState::new(limits, Expected::default());
        let app = Router::new()
            .route("/work", get(wait))
            .route("/body", get(|| clock::stopped(wait())))
            .route_layer(from_fn_with_state(state, in_time));
        let ask = |path| app.clone().oneshot(Request::get(path).body(Body::empty()).unwrap());
        assert_eq!(ask("/body").await.unwrap().status(), StatusCode::OK);
        let late = ask("/work").await.unwrap();
        assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
        let error = late.extensions().get::<ApiError>().unwrap();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Timeout, "no answer within 0.2 s"));
    }
}
