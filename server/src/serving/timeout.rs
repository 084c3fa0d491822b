//! The time-out of requests: a layer around the routes whose answers take the server some time.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;

use super::clock;
use super::state::AppState;
use crate::error::{ApiError, Kind};

/// Says how long a caller of gRPC waits.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// 504 when the answer takes longer than `--timeout` from the end of the request, or than a caller of gRPC waits.
pub(crate) async fn in_time(
    State(state): State<AppState>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let limit = state.limits().timeout.time();
    let limit = patience(request.headers()).map_or(limit, |patience| limit.min(patience));
    let late = || {
        let message = format!("no answer within {} s", limit.as_secs_f64());
        ApiError::new(Kind::Timeout, message).hint("send fewer pictures at once, or try again later")
    };
    clock::in_time(limit, next.run(request)).await.ok_or_else(late)
}

/// How long a caller of gRPC waits: up to eight digits and a unit, as in `250m` for milliseconds. What is written otherwise
/// says nothing. <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Requests"
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = digits.parse::<u64>().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'))?;
    match unit {
        "H" => Some(Duration::from_secs(3600 * number)),
        "M" => Some(Duration::from_secs(60 * number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let call = Request::get("/work").header(GRPC_TIMEOUT, "50m").body(Body::empty()).unwrap();
        let impatient = app.clone().oneshot(call).await.unwrap();
        let error = impatient.extensions().get::<ApiError>().unwrap();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Timeout, "no answer within 0.05 s"));
        let late = ask("/work").await.unwrap();
        assert_eq!(late.status(), StatusCode::GATEWAY_TIMEOUT);
        let error = late.extensions().get::<ApiError>().unwrap();
        assert_eq!((error.kind, error.message.as_str()), (Kind::Timeout, "no answer within 0.2 s"));
    }

    #[test]
    fn times_of_callers_are_read_as_the_protocol_has_them() {
        let read = |text: &str| {
            patience(&HeaderMap::from_iter([(GRPC_TIMEOUT.parse().unwrap(), text.parse().unwrap())]))
        };
        let known = [
            ("2H", 7200e9),
            ("3M", 180e9),
            ("4S", 4e9),
            ("250m", 250e6),
            ("99999999u", 99_999_999e3),
            ("0n", 0.0),
        ];
        for (text, nanoseconds) in known {
            assert_eq!(read(text), Some(Duration::from_nanos(nanoseconds as u64)), "{text}");
        }
        assert!(
            ["", "S", "5", "5s", "-1S", "+1S", "1.5S", "123456789S", "5 S"]
                .iter()
                .all(|text| read(text).is_none())
        );
    }
}
