//! Which media type an answer has, and reading query strings.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use bytes::Bytes;
use form_urlencoded::Serializer;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::errors;
use crate::error::{ApiError, Kind};
use crate::pictures::render::Drawing;

/// Longest field of a form that counts as a parameter, in bytes.
const MAX_FIELD: usize = 1024;

/// What an answer can be written as; also the values of `?format=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Media {
    Json,
    Npy,
    Png,
}

/// Of [`Media`], what a route without pictures in its answers documents.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used: another format is read, and refused by its name")]
pub(super) enum JsonOrNpy {
    Json,
    Npy,
}

/// Likewise, of a route without arrays.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only its shape is used: another format is read, and refused by its name")]
pub(super) enum JsonOrPng {
    Json,
    Png,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Json,
    /// One array of the embeddings (n, D), or of the saliency (n, h, w).
    Npy,
    Png(Drawing),
}

impl Media {
    pub(super) fn name(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Npy => "application/x-npy",
            Media::Png => "image/png",
        }
    }

    fn matches(self, range: &str) -> bool {
        range == self.name()
            || match self {
                Media::Json => matches!(range, "*/*" | "application/*"),
                Media::Npy => false,
                Media::Png => range == "image/*",
            }
    }
}

/// `?format=` where it is given, else what `Accept` says.
pub(super) fn format(
    asked: Option<Media>,
    headers: &HeaderMap,
    offered: &[Media],
) -> Result<Media, ApiError> {
    match asked {
        Some(media) if offered.contains(&media) => Ok(media),
        Some(media) => Err(unacceptable(media.name(), offered)),
        None => self::media(headers, offered),
    }
}

fn unacceptable(asked: &str, offered: &[Media]) -> ApiError {
    let names: Vec<_> = offered.iter().map(|m| format!("`{}`", m.name())).collect();
    ApiError::new(Kind::NotAcceptable, format!("cannot answer as `{asked}`"))
        .hint(format!("accept {}", names.join(" or ")))
}

/// The first of `offered` that the best range of `Accept` takes; JSON without the header.
pub(super) fn media(headers: &HeaderMap, offered: &[Media]) -> Result<Media, ApiError> {
    let lines: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let accept = lines.join(",");
    let mut ranges: Vec<(&str, f32)> =
        accept.split(',').map(range).filter(|(r, q)| !r.is_empty() && *q > 0.0).collect();
    if ranges.is_empty() {
        return Ok(Media::Json);
    }
    // Stable: of equal weights the first named wins.
    ranges.sort_by(|a, b| b.1.total_cmp(&a.1));
    let found = ranges.iter().find_map(|(range, _)| offered.iter().find(|m| m.matches(range)));
    found.copied().ok_or_else(|| unacceptable(&accept, offered))
}

fn range(part: &str) -> (&str, f32) {
    let mut pieces = part.split(';').map(str::trim);
    let name = pieces.next().unwrap_or_default();
    let weight = pieces.find_map(|p| p.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
    (name, weight)
}

/// A segment of the path, as text.
pub(super) struct Segment(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|e| errors::path(&e))
    }
}

/// The query string as `T`; unknown and malformed parameters are errors.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let parsed = Query::<T>::try_from_uri(uri);
    parsed.map(|q| q.0).map_err(|e| ApiError::new(Kind::BadRequest, e.body_text().to_lowercase()))
}

/// `T` from the query string together with those fields of a form that are called as a parameter of `T`; nothing
/// where there are none. Other fields are the client's own business.
pub(super) fn query_and_fields<T: DeserializeOwned + IntoParams>(
    uri: &Uri,
    fields: &[(String, Bytes)],
) -> Result<Option<T>, ApiError> {
    let known = T::into_params(|| None);
    let mut fields = fields.iter().filter(|(name, _)| known.iter().any(|p| p.name == *name)).peekable();
    if fields.peek().is_none() {
        return Ok(None);
    }
    let bad =
        |name: &str, what| ApiError::new(Kind::BadRequest, format!("field `{name}` of the form: {what}"));
    let mut all = Serializer::new(uri.query().unwrap_or_default().to_owned());
    for (name, value) in fields {
        if value.len() > MAX_FIELD {
            return Err(bad(name, format!("{} bytes, {MAX_FIELD} at most", value.len())));
        }
        let text = std::str::from_utf8(value).map_err(|_| bad(name, "not UTF-8".to_owned()))?;
        all.append_pair(name, text);
    }
    let together = Uri::try_from(format!("/?{}", all.finish()));
    let together =
        together.map_err(|e| ApiError::new(Kind::BadRequest, format!("the form's fields: {e}")))?;
    query(&together).map(Some)
}

/// A number from a query within its bounds.
pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    name: &str,
    value: T,
    (low, high): (T, T),
) -> Result<T, ApiError> {
    // Also false for NaN.
    if value >= low && value <= high {
        return Ok(value);
    }
    Err(ApiError::new(Kind::BadRequest, format!("`{name}` is {value}: expected {low} to {high}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn chosen(accept: &'static str) -> Result<Media, Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        media(&headers, &[Media::Json, Media::Png]).map_err(|e| e.kind)
    }

    #[test]
    fn accept_headers() {
        assert_eq!(chosen("image/png"), Ok(Media::Png));
        assert_eq!(chosen("*/*"), Ok(Media::Json));
        assert_eq!(chosen(""), Ok(Media::Json));
        assert_eq!(chosen("application/json;q=0.5, image/png"), Ok(Media::Png));
        assert_eq!(chosen("image/png;q=0.2, application/json;q=0.9"), Ok(Media::Json));
        assert_eq!(chosen("image/avif,image/webp,image/png,image/*,*/*;q=0.8"), Ok(Media::Png));
        assert_eq!(chosen("image/png;q=0, */*"), Ok(Media::Json));
        assert_eq!(chosen("text/html"), Err(Kind::NotAcceptable));
        assert_eq!(media(&HeaderMap::new(), &[Media::Json]).unwrap(), Media::Json);
        let mut png = HeaderMap::new();
        png.insert(header::ACCEPT, HeaderValue::from_static("image/png"));
        assert_eq!(media(&png, &[Media::Json]).unwrap_err().kind, Kind::NotAcceptable);
    }

    #[test]
    fn the_query_comes_before_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/x-npy"));
        let all = [Media::Json, Media::Npy];
        assert_eq!(format(None, &headers, &all).unwrap(), Media::Npy);
        assert_eq!(format(Some(Media::Json), &headers, &all).unwrap(), Media::Json);
        let refused = format(Some(Media::Png), &headers, &all).unwrap_err();
        assert_eq!(refused.kind, Kind::NotAcceptable);
        assert_eq!(refused.hint.as_deref(), Some("accept `application/json` or `application/x-npy`"));
    }

    #[derive(Deserialize, IntoParams, Debug, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        model: Option<String>,
        k: Option<usize>,
    }

    #[test]
    fn fields_of_a_form_are_parameters() {
        let of = |uri: &'static str, fields: &[(&str, &[u8])]| {
            let fields: Vec<_> =
                fields.iter().map(|(n, v)| (n.to_string(), Bytes::copy_from_slice(v))).collect();
            query_and_fields::<Asked>(&Uri::from_static(uri), &fields).map_err(|e| e.message)
        };
        let asked = |model: Option<&str>, k| Ok(Some(Asked { model: model.map(ToOwned::to_owned), k }));
        assert_eq!(of("/", &[("purpose", b"x")]), Ok(None));
        assert_eq!(of("/", &[("model", b"a&k=1"), ("purpose", b"x")]), asked(Some("a&k=1"), None));
        assert_eq!(of("/?k=3", &[("model", "é".as_bytes())]), asked(Some("é"), Some(3)));
        assert!(of("/?k=3", &[("k", b"3")]).unwrap_err().contains("duplicate field `k`"));
        assert!(
            of("/", &[("k", b"x")]).is_err() && of("/", &[("k", b"\xff")]).unwrap_err().contains("not UTF-8")
        );
        assert!(of("/", &[("model", &[b'a'; 1025])]).unwrap_err().contains("1024 at most"));
    }

    #[test]
    fn bounds_hold() {
        assert!(within("k", 1, (1, 5)).is_ok());
        assert_eq!(within("k", 6, (1, 5)).unwrap_err().message, "`k` is 6: expected 1 to 5");
        assert!(within("opacity", f32::NAN, (0.0, 1.0)).is_err());
    }
}
