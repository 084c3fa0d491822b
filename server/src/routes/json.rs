//! Bodies of JSON, and what their content type says.

use axum::extract::Request;
use axum::http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::body::whole;
use crate::admission::Admitted;
use crate::error::{ApiError, Kind};
use crate::metrics::Stage;
use crate::state::AppState;

/// The content type as it was sent; empty where there is none, or one that is no text.
pub(super) fn text(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

/// The content type without its parameters, in lower case; none where the header is missing.
pub(super) fn essence(headers: &HeaderMap) -> Option<String> {
    headers.get(header::CONTENT_TYPE)?;
    Some(text(headers).split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// Whether the content type is JSON's.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    essence(headers).is_some_and(|e| e == "application/json")
}

/// JSON of a type: 400 where it is none, 422 where it says something else.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let kind = if e.is_data() { Kind::InvalidRequest } else { Kind::BadRequest };
        ApiError::new(kind, format!("json: {e}"))
    })
}

/// A body that has to be JSON.
pub(super) async fn body<T: DeserializeOwned + Send + 'static>(
    state: &AppState,
    admitted: &mut Admitted,
    request: Request,
) -> Result<T, ApiError> {
    let (head, sent) = request.into_parts();
    if !is_json(&head.headers) {
        let message = "this route takes application/json";
        return Err(ApiError::new(Kind::UnsupportedMediaType, message)
            .hint("send the header `content-type: application/json`"));
    }
    let bytes = whole(state, admitted, &head.headers, sent).await?;
    state.on_pool(Stage::Read, move || parse(&bytes)).await?
}

/// A body of JSON, whatever it is called, or none: then the default.
pub(super) async fn body_or_default<T: DeserializeOwned + Default + Send + 'static>(
    state: &AppState,
    admitted: &mut Admitted,
    request: Request,
) -> Result<T, ApiError> {
    let (head, sent) = request.into_parts();
    let bytes = whole(state, admitted, &head.headers, sent).await?;
    if bytes.is_empty() { Ok(T::default()) } else { parse(&bytes) }
}
