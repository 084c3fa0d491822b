//! Errors as gRPC has them: a status of its own in headers that end the answer.
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, "Responses"

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::{ApiError, Kind};

/// The outcome of a call; 0 is success.
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Our own code of the error, which is finer.
const CODE: HeaderName = HeaderName::from_static("x-occlude-code");

/// What stands as an escape in `grpc-message`; so does everything that is not ASCII.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

impl Kind {
    /// The status of gRPC. `UNAVAILABLE` is what clients try again by themselves.
    pub(super) fn grpc(self) -> u8 {
        const INVALID_ARGUMENT: u8 = 3;
        const DEADLINE_EXCEEDED: u8 = 4;
        const NOT_FOUND: u8 = 5;
        const PERMISSION_DENIED: u8 = 7;
        const RESOURCE_EXHAUSTED: u8 = 8;
        const FAILED_PRECONDITION: u8 = 9;
        const UNIMPLEMENTED: u8 = 12;
        const INTERNAL: u8 = 13;
        const UNAVAILABLE: u8 = 14;
        const UNAUTHENTICATED: u8 = 16;
        match self {
            Kind::Unauthorized => UNAUTHENTICATED,
            Kind::Forbidden => PERMISSION_DENIED,
            Kind::ModelNotFound | Kind::CollectionNotFound | Kind::PointNotFound => NOT_FOUND,
            // A path is the name of a call, and a coding what the server has not learnt.
            Kind::NotFound | Kind::MethodNotAllowed | Kind::UnsupportedMediaType => UNIMPLEMENTED,
            Kind::BadRequest
            | Kind::InvalidRequest
            | Kind::NotAcceptable
            | Kind::UnsupportedImage
            | Kind::BrokenImage
            | Kind::UrlRefused
            | Kind::UrlFailed => INVALID_ARGUMENT,
            Kind::BodyTooLarge | Kind::ImageTooLarge | Kind::TooManyImages | Kind::StorageFull => {
                RESOURCE_EXHAUSTED
            }
            Kind::ReadTimeout | Kind::Timeout => DEADLINE_EXCEEDED,
            Kind::WrongModel => FAILED_PRECONDITION,
            Kind::Overloaded | Kind::Loading | Kind::Draining | Kind::StorageUnavailable => UNAVAILABLE,
            Kind::Internal | Kind::EncoderFailed | Kind::StorageFailed => INTERNAL,
        }
    }
}

/// The answer to a call that failed. Clients print the message alone, so that the hint is part of it.
pub(super) fn render(error: &ApiError) -> Response {
    let mut told = error.message.clone();
    if let Some(hint) = &error.hint {
        told = format!("{told}; hint: {hint}");
    }
    let told = utf8_percent_encode(&told, ESCAPED).to_string();
    let mut response = ([(header::CONTENT_TYPE, "application/grpc")], Body::empty()).into_response();
    let headers = response.headers_mut();
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.kind.grpc())));
    if let Ok(told) = HeaderValue::from_str(&told) {
        headers.insert(MESSAGE, told);
    }
    headers.insert(CODE, HeaderValue::from_static(error.kind.status().1));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Shape;
    use axum::http::StatusCode;

    #[test]
    fn errors_have_a_status_of_grpcs_and_one_line() {
        let error = ApiError::new(Kind::Overloaded, "voll: 100 %\nü").hint("später").retry_after(3);
        let response = error.render("7", Shape::Grpc);
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert_eq!((header("grpc-status"), header("retry-after")), ("14", "3"));
        assert_eq!(header("grpc-message"), "voll: 100 %25%0A%C3%BC; hint: sp%C3%A4ter");
        assert_eq!((header("content-type"), header("x-occlude-code")), ("application/grpc", "overloaded"));
    }

    #[test]
    fn no_error_is_a_success_and_statuses_agree_with_https() {
        for kind in Kind::ALL {
            let ours = kind.grpc();
            assert!((1..=16).contains(&ours), "{kind:?}");
            let expected: &[u8] = match kind.status().0.as_u16() {
                400 | 406 | 422 => &[3],
                401 => &[16],
                403 => &[7],
                404 => &[5, 12],
                405 | 415 => &[3, 12],
                408 | 504 => &[4],
                409 => &[9],
                413 | 507 => &[8],
                429 | 503 => &[14],
                500 => &[13],
                other => panic!("{other}"),
            };
            assert!(expected.contains(&ours), "{kind:?}: {ours}");
        }
    }
}
