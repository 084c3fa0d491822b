//! Request bodies: finding the pictures in them.

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use utoipa::ToSchema;

use super::bounds::too_many;
use super::coded::{Item, unpack};
use super::form::{self, Sent};
use super::json::{content_type, is_json, parse, says_nothing, without_mark};
use super::receive::whole;
use crate::error::{ApiError, Kind};
use crate::observe::metrics::Stage;
use crate::pictures::encoding::Upload;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

/// How the pictures are packed, as the content type says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Packing {
    Raw,
    Json,
    Multipart {
        boundary: String,
    },
    /// It says nothing, or what clients say unless told otherwise: the bytes decide.
    Unknown,
}

/// A body, unpacked as far as its content type goes.
pub(super) enum Unpacked {
    /// What it says is up to the route.
    Json(Bytes),
    Files(Sent),
}

/// Receives the body and unpacks its pictures; at least one.
pub(super) async fn uploads(
    state: &AppState,
    admitted: &mut Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Sent, ApiError> {
    let limit = state.limits().max_images;
    match unpacked(state, admitted, headers, body).await? {
        Unpacked::Files(sent) => Ok(sent),
        // A body of megabytes takes milliseconds to parse.
        Unpacked::Json(bytes) => {
            let uploads = state.on_pool(Stage::Parse, None, move || items(&bytes, limit)).await??;
            Ok(Sent { uploads, fields: Vec::new() })
        }
    }
}

/// Receives the body, and unpacks it where it is no JSON.
pub(super) async fn unpacked(
    state: &AppState,
    admitted: &mut Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Unpacked, ApiError> {
    // Before a byte is read: a wrong type costs nothing.
    let packing = packing(headers)?;
    let bytes = whole(state, admitted, headers, body).await?;
    if bytes.is_empty() {
        let hint = "send the picture as the body, e.g. curl --data-binary @photo.jpg";
        return Err(ApiError::new(Kind::BadRequest, "the body is empty").hint(hint));
    }
    let raw = |bytes| {
        let uploads = vec![Upload { place: 0, name: None, bytes, url: None }];
        Ok(Unpacked::Files(Sent { uploads, fields: Vec::new() }))
    };
    match packing {
        Packing::Raw => raw(bytes),
        Packing::Unknown if is_object(&bytes) => Ok(Unpacked::Json(bytes)),
        Packing::Unknown => raw(bytes),
        Packing::Multipart { boundary } => {
            form::read(bytes, &boundary, state.limits().max_images).await.map(Unpacked::Files)
        }
        Packing::Json => Ok(Unpacked::Json(bytes)),
    }
}

/// Whether bytes begin as an object of JSON does, and as no picture.
fn is_object(bytes: &[u8]) -> bool {
    without_mark(bytes).trim_ascii_start().starts_with(b"{")
}

fn packing(headers: &HeaderMap) -> Result<Packing, ApiError> {
    let Some(kind) = content_type(headers) else { return Ok(Packing::Unknown) };
    match kind.essence.as_str() {
        "multipart/form-data" => {
            let boundary = kind.get("boundary").and_then(|b| std::str::from_utf8(b).ok());
            match boundary.filter(|b| !b.is_empty()) {
                Some(boundary) => Ok(Packing::Multipart { boundary: boundary.to_owned() }),
                None => Err(ApiError::new(Kind::BadRequest, "the multipart content type has no boundary")
                    .hint("let the HTTP client set the header, e.g. curl -F file=@photo.jpg")),
            }
        }
        essence if is_json(essence) => Ok(Packing::Json),
        essence if says_nothing(essence) => Ok(Packing::Unknown),
        image if image.starts_with("image/") => Ok(Packing::Raw),
        other => {
            let message = format!("content type `{other}` is not supported");
            let hint = "send image/*, application/octet-stream, multipart/form-data or application/json";
            Err(ApiError::new(Kind::UnsupportedMediaType, message).hint(hint))
        }
    }
}

/// A form of files; the names of their fields do not matter. Fields that are no files count as parameters of the
/// address where they are called as one.
#[derive(ToSchema)]
#[schema(as = Files)]
#[expect(dead_code, reason = "only its shape is used: forms are read piece by piece")]
pub(super) struct Form {
    #[schema(value_type = Vec<String>, format = Binary, min_items = 1)]
    file: Vec<Vec<u8>>,
}

/// Pictures as JSON: either one or several.
#[derive(Deserialize, ToSchema)]
#[schema(as = Pictures)]
#[serde(deny_unknown_fields)]
pub(super) struct Json {
    image: Option<Item>,
    #[schema(min_items = 1)]
    images: Option<Vec<Item>>,
}

fn items(bytes: &[u8], limit: usize) -> Result<Vec<Upload>, ApiError> {
    let parsed: Json = parse(bytes)
        .map_err(|e| e.hint("send {\"image\": \"<base64 or data URL>\"} or {\"images\": [..]}"))?;
    let items = match (parsed.image, parsed.images) {
        (Some(one), None) => vec![one],
        (None, Some(many)) if !many.is_empty() => many,
        _ => {
            let error =
                ApiError::new(Kind::InvalidRequest, "json: expected either `image` or a non-empty `images`");
            return Err(error.hint("send {\"image\": \"<base64 or data URL>\"} or {\"images\": [..]}"));
        }
    };
    if items.len() > limit {
        return Err(too_many(limit));
    }
    items.into_iter().enumerate().map(|(i, item)| unpack(i, item)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderValue, header};

    fn packed(value: &'static str) -> Result<Packing, Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
        packing(&headers).map_err(|e| e.kind)
    }

    #[test]
    fn content_types() {
        assert_eq!(packed("image/jpeg"), Ok(Packing::Raw));
        assert_eq!(packed("IMAGE/PNG; x=y"), Ok(Packing::Raw));
        for unknown in
            ["application/octet-stream", "Binary/Octet-Stream", "application/x-www-form-urlencoded", ""]
        {
            assert_eq!(packed(unknown), Ok(Packing::Unknown), "{unknown}");
        }
        for json in
            ["application/json; charset=utf-8", "Application/JSON", "text/json", "application/problem+json"]
        {
            assert_eq!(packed(json), Ok(Packing::Json), "{json}");
        }
        let multipart = Packing::Multipart { boundary: "xx".to_owned() };
        for form in ["multipart/form-data; boundary=xx", "MULTIPART/Form-Data;charset=utf-8; Boundary=\"xx\""]
        {
            assert_eq!(packed(form), Ok(multipart.clone()), "{form}");
        }
        assert_eq!(packed("multipart/form-data; boundary=\"\""), Err(Kind::BadRequest));
        assert_eq!(packed("multipart/form-data"), Err(Kind::BadRequest));
        assert_eq!(packed("text/plain"), Err(Kind::UnsupportedMediaType));
        assert_eq!(packing(&HeaderMap::new()).unwrap(), Packing::Unknown);
    }

    fn bytes_of(text: &str) -> Result<Vec<Vec<u8>>, Kind> {
        let found = items(text.as_bytes(), 2).map_err(|e| e.kind)?;
        Ok(found.into_iter().map(|u| u.bytes.to_vec()).collect())
    }

    #[test]
    fn json_bodies() {
        assert_eq!(bytes_of(r#"{"image":"aGk="}"#), Ok(vec![b"hi".to_vec()]));
        assert_eq!(bytes_of(r#"{"image":"aGk"}"#), Ok(vec![b"hi".to_vec()]), "without padding");
        assert_eq!(bytes_of(r#"{"image":"a\nGk="}"#), Ok(vec![b"hi".to_vec()]), "wrapped lines");
        assert_eq!(bytes_of(r#"{"image":"data:image/png;base64,aGk="}"#), Ok(vec![b"hi".to_vec()]));
        let named = items(br#"{"images":[{"name":"a.jpg","data":"aGk="},"aGk="]}"#, 2).unwrap();
        assert_eq!((named[0].name.as_deref(), named[1].name.as_deref()), (Some("a.jpg"), None));
    }

    #[test]
    fn json_that_is_none_or_says_something_else() {
        assert_eq!(bytes_of("{"), Err(Kind::BadRequest));
        assert_eq!(bytes_of("[1]"), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of("{}"), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of(r#"{"images":[]}"#), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of(r#"{"image":"aGk=","images":["aGk="]}"#), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of(r#"{"picture":"aGk="}"#), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of(r#"{"image":3}"#), Err(Kind::InvalidRequest));
        assert_eq!(bytes_of(r#"{"image":"!!"}"#), Err(Kind::BadRequest));
        assert_eq!(bytes_of(r#"{"image":"data:image/png;base64"}"#), Err(Kind::BadRequest));
        assert_eq!(bytes_of(r#"{"images":["aGk=","aGk=","aGk="]}"#), Err(Kind::TooManyImages));
        let named = items(br#"{"image":"https://example.org/a.jpg"}"#, 2).unwrap();
        assert_eq!(named[0].url.as_deref(), Some("https://example.org/a.jpg"), "fetched later, or refused");
    }
}
