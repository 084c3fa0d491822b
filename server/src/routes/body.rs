//! Request bodies: receiving them within bounds, and finding the pictures in them.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::BodyExt;
use serde::Deserialize;
use utoipa::ToSchema;

use super::json::{essence, parse, text};
use crate::admission::Admitted;
use crate::clock;
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::metrics::Stage;
use crate::picture::Upload;
use crate::state::AppState;

/// Base64 as clients write it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How the pictures are packed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Packing {
    Raw,
    Json,
    Multipart { boundary: String },
}

/// Receives the body and unpacks its pictures; at least one.
pub(super) async fn uploads(
    state: &AppState,
    admitted: &mut Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Vec<Upload>, ApiError> {
    // Before a byte is read: a wrong type costs nothing.
    let packing = packing(headers)?;
    let bytes = whole(state, admitted, headers, body).await?;
    if bytes.is_empty() {
        let hint = "send the picture as the body, e.g. curl --data-binary @photo.jpg";
        return Err(ApiError::new(Kind::BadRequest, "the body is empty").hint(hint));
    }
    let limit = state.limits().max_images;
    match packing {
        Packing::Raw => Ok(vec![Upload { name: None, bytes, url: None }]),
        Packing::Multipart { boundary } => multipart(bytes, boundary, limit).await,
        // A body of megabytes takes milliseconds to parse.
        Packing::Json => state.on_pool(Stage::Read, move || items(&bytes, limit)).await?,
    }
}

/// Receives the whole body within the limits of size and time.
pub(super) async fn whole(
    state: &AppState,
    admitted: &mut Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, ApiError> {
    // Before a byte is read: an announced size costs nothing.
    check_length(headers, state.limits().max_body)?;
    let start = Instant::now();
    let bytes = clock::stopped(receive(state, admitted, body)).await?;
    state.metrics().observe(Stage::Read, start.elapsed());
    Ok(bytes)
}

fn packing(headers: &HeaderMap) -> Result<Packing, ApiError> {
    let Some(essence) = essence(headers) else { return Ok(Packing::Raw) };
    match essence.as_str() {
        "multipart/form-data" => match multer::parse_boundary(text(headers)) {
            Ok(boundary) => Ok(Packing::Multipart { boundary }),
            Err(_) => Err(ApiError::new(Kind::BadRequest, "the multipart content type has no boundary")
                .hint("let the HTTP client write the header, e.g. curl -F file=@photo.jpg")),
        },
        "application/json" => Ok(Packing::Json),
        // What curl --data-binary sends unless told otherwise; the bytes decide what it is.
        "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Packing::Raw),
        image if image.starts_with("image/") => Ok(Packing::Raw),
        other => {
            let message = format!("content type `{other}` is not taken");
            let hint = "send image/*, application/octet-stream, multipart/form-data or application/json";
            Err(ApiError::new(Kind::UnsupportedMediaType, message).hint(hint))
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::new(Kind::BodyTooLarge, format!("the body is larger than {limit} bytes"))
        .hint("send fewer or smaller pictures")
}

fn check_length(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|l| l > limit as u64) { Err(too_large(limit)) } else { Ok(()) }
}

/// Collects the body, taking room for every piece before it is kept. However large it is, each time of `read_timeout`
/// has to bring what `min_rate` asks for: a slow phone gets through, and whoever only keeps a connection busy does not.
async fn receive(state: &AppState, admitted: &mut Admitted, mut body: Body) -> Result<Bytes, ApiError> {
    let Limits { max_body, read_timeout, min_rate, .. } = *state.limits();
    let least = ((min_rate as f64 * read_timeout.as_secs_f64()) as usize).max(1);
    let mut whole = BytesMut::new();
    let (mut end, mut before) = (Instant::now() + read_timeout, 0);
    loop {
        let frame = match tokio::time::timeout_at(end.into(), body.frame()).await {
            Ok(frame) => frame,
            Err(_) if whole.len() - before >= least => {
                (end, before) = (end + read_timeout, whole.len());
                continue;
            }
            Err(_) => return Err(too_slow(whole.len() - before, read_timeout)),
        };
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        let broken = |e| ApiError::new(Kind::BadRequest, format!("the body broke off: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if whole.len() + data.len() > max_body {
            return Err(too_large(max_body));
        }
        admitted.bytes(data.len())?;
        whole.extend_from_slice(&data);
    }
}

fn too_slow(bytes: usize, time: Duration) -> ApiError {
    let message = format!("the body came too slowly: {bytes} bytes in {} s", time.as_secs_f64());
    ApiError::new(Kind::ReadTimeout, message).hint("send a smaller picture, or try a faster connection")
}

pub(super) fn too_many(limit: usize) -> ApiError {
    ApiError::new(Kind::TooManyImages, format!("more than {limit} pictures in one request"))
        .hint("split the request")
}

async fn multipart(bytes: Bytes, boundary: String, limit: usize) -> Result<Vec<Upload>, ApiError> {
    let broken = |e: multer::Error| ApiError::new(Kind::BadRequest, format!("broken multipart body: {e}"));
    let body = stream::iter([Ok::<_, std::convert::Infallible>(bytes)]);
    let mut form = multer::Multipart::new(body, boundary);
    let mut found = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.file_name().or(field.name()).map(ToOwned::to_owned);
        if found.len() == limit {
            return Err(too_many(limit));
        }
        found.push(Upload { name, bytes: field.bytes().await.map_err(broken)?, url: None });
    }
    if found.is_empty() {
        let error = ApiError::new(Kind::InvalidRequest, "the form has no file");
        return Err(error.hint("send one or several, e.g. curl -F file=@a.jpg -F file=@b.jpg"));
    }
    Ok(found)
}

/// A form of files; the names of the fields do not matter.
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

/// The base64 of a picture's file, a data URL or a web address, with a name or without.
#[derive(Deserialize, ToSchema)]
#[schema(as = Picture)]
#[serde(untagged, expecting = "a picture is a string or {\"name\": .., \"data\": ..}")]
pub(super) enum Item {
    Plain(String),
    Named { name: String, data: String },
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

pub(super) fn unpack(index: usize, item: Item) -> Result<Upload, ApiError> {
    let (name, text) = match item {
        Item::Plain(text) => (None, text),
        Item::Named { name, data } => (Some(name), data),
    };
    let bad = |what: &str| {
        let error = ApiError::new(Kind::BadRequest, format!("picture {index}: {what}"));
        error.hint("encode the file itself, e.g. base64 -w0 photo.jpg, or send data:image/jpeg;base64,...")
    };
    let encoded = match text.strip_prefix("data:") {
        Some(url) => match url.split_once(',') {
            Some((head, data)) if head.ends_with(";base64") => data,
            _ => return Err(bad("a data URL without `;base64,`")),
        },
        None if text.starts_with("http://") || text.starts_with("https://") => {
            return Ok(Upload { name, bytes: Bytes::new(), url: Some(text) });
        }
        None => text.as_str(),
    };
    let decoded = if encoded.bytes().any(|b| b.is_ascii_whitespace()) {
        // Tools that wrap lines put them into the string.
        BASE64.decode(encoded.split_ascii_whitespace().collect::<String>())
    } else {
        BASE64.decode(encoded)
    };
    Ok(Upload {
        name,
        bytes: decoded.map_err(|e| bad(&format!("no base64: {}", e.to_string().to_lowercase())))?.into(),
        url: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn packed(value: &'static str) -> Result<Packing, Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
        packing(&headers).map_err(|e| e.kind)
    }

    #[test]
    fn content_types() {
        assert_eq!(packed("image/jpeg"), Ok(Packing::Raw));
        assert_eq!(packed("IMAGE/PNG; x=y"), Ok(Packing::Raw));
        assert_eq!(packed("application/octet-stream"), Ok(Packing::Raw));
        assert_eq!(packed("application/json; charset=utf-8"), Ok(Packing::Json));
        let multipart = Packing::Multipart { boundary: "xx".to_owned() };
        assert_eq!(packed("multipart/form-data; boundary=xx"), Ok(multipart));
        assert_eq!(packed("multipart/form-data"), Err(Kind::BadRequest));
        assert_eq!(packed("text/plain"), Err(Kind::UnsupportedMediaType));
        assert_eq!(packing(&HeaderMap::new()).unwrap(), Packing::Raw);
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
        assert_eq!(bytes_of(r#"{"image":"data:image/png,xx"}"#), Err(Kind::BadRequest));
        assert_eq!(bytes_of(r#"{"images":["aGk=","aGk=","aGk="]}"#), Err(Kind::TooManyImages));
        let named = items(br#"{"image":"https://example.org/a.jpg"}"#, 2).unwrap();
        assert_eq!(named[0].url.as_deref(), Some("https://example.org/a.jpg"), "fetched later, or refused");
    }
}
