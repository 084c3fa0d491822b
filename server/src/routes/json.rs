//! Bodies of JSON, and what their content type says.

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::receive::whole;
use super::shape::Shape;
use crate::error::{ApiError, Kind};
use crate::observe::metrics::Stage;
use crate::serving::admission::Admitted;
use crate::serving::parameters::Parameters;
use crate::serving::state::AppState;

const TOO_DEEP: &str = "nested deeper than 127 levels";

/// The content type; none where the header is missing or empty.
pub(super) fn content_type(headers: &HeaderMap) -> Option<Parameters> {
    let parsed = Parameters::parse(headers.get(header::CONTENT_TYPE)?.as_bytes());
    Some(parsed).filter(|p| !p.essence.is_empty())
}

/// Whether a content type is JSON's, or that of a language in JSON (RFC 6839, 3.1).
pub(super) fn is_json(essence: &str) -> bool {
    matches!(essence, "application/json" | "text/json") || essence.ends_with("+json")
}

/// Whether a content type is one that clients send unless told otherwise, such as curl with `--data-binary`.
pub(super) fn says_nothing(essence: &str) -> bool {
    ["application/octet-stream", "binary/octet-stream", "application/x-www-form-urlencoded"]
        .contains(&essence)
}

/// Without the byte order mark that some editors put in front of UTF-8 (RFC 8259, 8.1 lets readers ignore it).
pub(super) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// JSON of a type: 400 where it is none or nested too deep, 422 where it says something else.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    let bytes = without_mark(bytes);
    serde_json::from_slice(bytes).map_err(|e| match error("json", &e) {
        // Who reads no further than a value of the wrong kind has not seen how deep it is.
        error if error.kind == Kind::InvalidRequest && Shape::of(bytes).deep => {
            ApiError::new(Kind::BadRequest, format!("json: {TOO_DEEP}"))
        }
        error => error,
    })
}

/// What is wrong with JSON.
pub(super) fn error(what: &str, error: &serde_json::Error) -> ApiError {
    let kind = if error.is_data() { Kind::InvalidRequest } else { Kind::BadRequest };
    let text = error.to_string();
    // The parser's own bound; its words speak of recursion, which is no matter of clients.
    let text = match text.strip_prefix("recursion limit exceeded") {
        Some(place) => format!("{TOO_DEEP}{place}"),
        None => text,
    };
    ApiError::new(kind, format!("{what}: {text}"))
}

/// A body that has to be JSON.
pub(super) async fn body<T: DeserializeOwned + Send + 'static>(
    state: &AppState,
    admitted: &mut Admitted,
    request: Request,
) -> Result<T, ApiError> {
    let (head, sent) = request.into_parts();
    // Said expressly: pages of other origins may send every other type without asking.
    if !content_type(&head.headers).is_some_and(|t| is_json(&t.essence)) {
        let message = "this route accepts only application/json";
        return Err(ApiError::new(Kind::UnsupportedMediaType, message)
            .hint("send the header `content-type: application/json`"));
    }
    let bytes = whole(state, admitted, &head.headers, sent).await?;
    state.on_pool(Stage::Parse, None, move || parse(&bytes)).await?
}

/// A body of JSON, whatever it is called, or none: then the default.
pub(super) async fn body_or_default<T: DeserializeOwned + Default + Send + 'static>(
    state: &AppState,
    admitted: &mut Admitted,
    request: Request,
) -> Result<T, ApiError> {
    let (head, sent) = request.into_parts();
    let bytes = whole(state, admitted, &head.headers, sent).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    state.on_pool(Stage::Parse, None, move || parse(&bytes)).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn marks_are_ignored_and_depth_is_bounded() {
        assert_eq!(parse::<Value>(b"\xef\xbb\xbf{\"a\": 1}").unwrap()["a"], 1);
        assert_eq!(parse::<Value>(b"\xef\xbb{}").unwrap_err().kind, Kind::BadRequest);
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n)).into_bytes();
        assert!(parse::<Value>(&nested(127)).is_ok());
        for deep in [nested(128), nested(100_000)] {
            let error = parse::<Value>(&deep).unwrap_err();
            assert_eq!(error.kind, Kind::BadRequest);
            assert!(error.message.starts_with("json: nested deeper than 127 levels at line 1"), "{error}");
        }
        assert_eq!(parse::<u8>(b"[]").unwrap_err().kind, Kind::InvalidRequest);
        let deep = parse::<u8>(&nested(128)).unwrap_err();
        assert_eq!(
            (deep.kind, deep.message.as_str()),
            (Kind::BadRequest, "json: nested deeper than 127 levels")
        );
    }
}
