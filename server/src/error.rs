//! What a request can fail with, and the one place where kinds become statuses.

mod grpc;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use occlude_preprocess::{DecodeError, Format};
use serde::Serialize;
use utoipa::ToSchema;

#[cfg(feature = "grpc")]
pub(crate) use grpc::GRPC_STATUS;

/// Kinds of failure; the code of each is part of the API (docs/server.md lists them all).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// No API key, or one that is not known.
    Unauthorized,
    /// Something that the server was not set up to do for clients.
    Forbidden,
    /// No such collection.
    CollectionNotFound,
    /// No such point.
    PointNotFound,
    /// A web address that is not fetched.
    UrlRefused,
    /// A web address that could not be fetched.
    UrlFailed,
    /// No room on the disk.
    StorageFull,
    /// The disk or the database failed.
    StorageFailed,
    /// The database of the collections cannot be reached.
    StorageUnavailable,
    /// Vectors of another model.
    WrongModel,
    /// A body, header or query that cannot be read as what it claims to be.
    BadRequest,
    /// No such route or picture.
    NotFound,
    /// No such model.
    ModelNotFound,
    /// The route exists, for another method.
    MethodNotAllowed,
    /// The answer cannot be given in the media type asked for.
    NotAcceptable,
    /// The client was too slow.
    ReadTimeout,
    /// The body has more bytes than allowed.
    BodyTooLarge,
    /// A picture has more pixels than allowed.
    ImageTooLarge,
    /// More pictures than allowed in one request.
    TooManyImages,
    /// A content type that is no picture's, multipart or JSON.
    UnsupportedMediaType,
    /// Bytes of no picture format that is read.
    UnsupportedImage,
    /// A picture that cannot be decoded.
    BrokenImage,
    /// Readable JSON of the wrong shape.
    InvalidRequest,
    /// The queue is full.
    Overloaded,
    /// A defect of the server.
    Internal,
    /// The model did not run.
    EncoderFailed,
    /// The model or the gallery is not there yet.
    Loading,
    /// The server is shutting down.
    Draining,
    /// The answer took too long.
    Timeout,
}

impl Kind {
    /// Every kind, for documentation and tests.
    pub const ALL: [Kind; 29] = [
        Kind::Forbidden,
        Kind::UrlRefused,
        Kind::UrlFailed,
        Kind::CollectionNotFound,
        Kind::PointNotFound,
        Kind::StorageFull,
        Kind::StorageFailed,
        Kind::StorageUnavailable,
        Kind::Unauthorized,
        Kind::WrongModel,
        Kind::ModelNotFound,
        Kind::BadRequest,
        Kind::NotFound,
        Kind::MethodNotAllowed,
        Kind::NotAcceptable,
        Kind::ReadTimeout,
        Kind::BodyTooLarge,
        Kind::ImageTooLarge,
        Kind::TooManyImages,
        Kind::UnsupportedMediaType,
        Kind::UnsupportedImage,
        Kind::BrokenImage,
        Kind::InvalidRequest,
        Kind::Overloaded,
        Kind::Internal,
        Kind::EncoderFailed,
        Kind::Loading,
        Kind::Draining,
        Kind::Timeout,
    ];

    /// Status and `error.code`.
    pub fn status(self) -> (StatusCode, &'static str) {
        match self {
            Kind::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Kind::Forbidden => (StatusCode::FORBIDDEN, "forbidden"),
            Kind::ModelNotFound => (StatusCode::NOT_FOUND, "model_not_found"),
            Kind::UrlRefused => (StatusCode::UNPROCESSABLE_ENTITY, "url_refused"),
            Kind::UrlFailed => (StatusCode::UNPROCESSABLE_ENTITY, "url_failed"),
            Kind::CollectionNotFound => (StatusCode::NOT_FOUND, "collection_not_found"),
            Kind::PointNotFound => (StatusCode::NOT_FOUND, "point_not_found"),
            Kind::StorageFull => (StatusCode::INSUFFICIENT_STORAGE, "storage_full"),
            Kind::StorageFailed => (StatusCode::INTERNAL_SERVER_ERROR, "storage_failed"),
            Kind::StorageUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable"),
            Kind::WrongModel => (StatusCode::CONFLICT, "wrong_model"),
            Kind::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
            Kind::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Kind::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Kind::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not_acceptable"),
            Kind::ReadTimeout => (StatusCode::REQUEST_TIMEOUT, "read_timeout"),
            Kind::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Kind::ImageTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "image_too_large"),
            Kind::TooManyImages => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_images"),
            Kind::UnsupportedMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Kind::UnsupportedImage => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_image"),
            Kind::BrokenImage => (StatusCode::UNPROCESSABLE_ENTITY, "broken_image"),
            Kind::InvalidRequest => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_request"),
            Kind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Kind::EncoderFailed => (StatusCode::INTERNAL_SERVER_ERROR, "encoder_failed"),
            Kind::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
            Kind::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Kind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        }
    }
}

/// Longest name of a picture in a message, in characters.
const MAX_NAME: usize = 256;

/// A failed request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// What went wrong, as the status.
    pub kind: Kind,
    /// What went wrong, in words.
    pub message: String,
    /// What the caller can do about it.
    pub hint: Option<String>,
    /// Seconds after which trying again makes sense (429 and 503).
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error without a hint.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, retry_after: None }
    }

    /// In the words of a library, whose messages end in their own hint where there is one.
    pub(crate) fn told(kind: Kind, text: &str) -> Self {
        match text.split_once("; hint: ") {
            Some((message, hint)) => Self::new(kind, message).hint(hint),
            None => Self::new(kind, text),
        }
    }

    /// With what the caller can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a `Retry-After` in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// For what will be there soon.
    pub(crate) fn loading(message: &str) -> Self {
        Self::new(Kind::Loading, message).hint("`GET /readyz` says when it is done").retry_after(1)
    }

    /// A picture that could not be decoded.
    pub fn decode(error: &DecodeError) -> Self {
        let kind = match error {
            DecodeError::Empty => Kind::BadRequest,
            DecodeError::UnknownFormat { .. } | DecodeError::OtherFormat { .. } => Kind::UnsupportedImage,
            DecodeError::TooLarge { .. } => Kind::ImageTooLarge,
            _ => Kind::BrokenImage,
        };
        let mut told = Self::told(kind, &error.to_string());
        if told.hint.is_none() && kind == Kind::UnsupportedImage {
            told.hint = Some(format!("send the bytes of a {} file", Format::LISTED));
        }
        told
    }

    /// About one picture of several: the one at `place`, counted from 0 as in answers, and its name.
    #[must_use]
    pub(crate) fn at(mut self, place: usize, name: Option<&str>) -> Self {
        let name = name.map(|n| format!(" (`{}`)", n.chars().take(MAX_NAME).collect::<String>()));
        self.message = format!("picture {place}{}: {}", name.unwrap_or_default(), self.message);
        self
    }

    /// The JSON answer, which names the request, in the shape of the API.
    pub(crate) fn render(&self, request_id: &str, shape: Shape) -> Response {
        let (status, code) = self.kind.status();
        let hint = self.hint.as_deref();
        let mut response = match shape {
            Shape::Nested => {
                let error = Detail { code, message: &self.message, hint, request_id };
                (status, Json(Body { error })).into_response()
            }
            Shape::Flat => {
                let error = &*self.message;
                (status, Json(FlatBody { error, code, hint, request_id })).into_response()
            }
            Shape::Grpc => grpc::render(self),
        };
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// How an error is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An object under `error`, as in the whole API but the below.
    Nested,
    /// A message under `error` and the rest beside it: clients of the inference protocol take nothing else.
    Flat,
    /// A status and a message in the headers: gRPC.
    Grpc,
}

/// An error of the inference protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = InferenceError)]
pub(crate) struct FlatBody<'a> {
    error: &'a str,
    code: &'static str,
    hint: Option<&'a str>,
    request_id: &'a str,
}

/// An error.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct Body<'a> {
    error: Detail<'a>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ErrorDetail)]
struct Detail<'a> {
    code: &'static str,
    message: &'a str,
    hint: Option<&'a str>,
    request_id: &'a str,
}

impl IntoResponse for ApiError {
    /// Leaves the error in the response's extensions: the outermost layer knows the request's id and renders it.
    fn into_response(self) -> Response {
        let mut response = self.kind.status().0.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<occlude_retrieval::Error> for ApiError {
    fn from(error: occlude_retrieval::Error) -> Self {
        use occlude_retrieval::{Error, Kind as Cause};

        let kind = match error.kind() {
            Cause::NotFound if matches!(error, Error::NoPoint { .. }) => Kind::PointNotFound,
            Cause::NotFound => Kind::CollectionNotFound,
            // Where the database is, and what it said, is the operator's: the log has it.
            Cause::Unavailable => {
                return Self::new(
                    Kind::StorageUnavailable,
                    "the database of the collections cannot be reached",
                )
                .hint("try again in some seconds; a change that was under way may have been made")
                .retry_after(2);
            }
            Cause::Refused => {
                return Self::new(
                    Kind::StorageFailed,
                    "the database of the collections answered with an error",
                );
            }
            Cause::AlreadyExists | Cause::Invalid => Kind::InvalidRequest,
            Cause::TooDeep => Kind::BadRequest,
            Cause::WrongFingerprint => Kind::WrongModel,
            Cause::Full => Kind::StorageFull,
            Cause::Locked | Cause::Io | Cause::Corrupt => Kind::StorageFailed,
        };
        Self::told(kind, &error.to_string())
    }
}

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenderError {
    #[error(transparent)]
    Saliency(#[from] occlude_saliency::Error),
    #[error("cannot write a PNG: {0}")]
    Png(#[from] png::EncodingError),
}

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> Self {
        Self::new(Kind::Internal, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_preprocess::Limits;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_every_kind_is_listed() {
        let codes: BTreeSet<_> = Kind::ALL.iter().map(|k| k.status().1).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|k| k.status().0.is_client_error() || k.status().0.is_server_error()));
    }

    #[test]
    fn decode_errors_become_kinds() {
        let kind = |e: DecodeError| ApiError::decode(&e).kind;
        assert_eq!(kind(DecodeError::Empty), Kind::BadRequest);
        assert_eq!(kind(DecodeError::OtherFormat { name: "AVIF" }), Kind::UnsupportedImage);
        assert_eq!(kind(DecodeError::UnknownFormat { start: vec![1] }), Kind::UnsupportedImage);
        let limits = Limits::default();
        assert_eq!(kind(DecodeError::TooLarge { width: 9, height: 9, limits }), Kind::ImageTooLarge);
        assert_eq!(kind(DecodeError::ZeroSize { width: 0, height: 9 }), Kind::BrokenImage);
        assert_eq!(kind(DecodeError::Truncated { format: Format::Png }), Kind::BrokenImage);
    }

    #[test]
    fn hints_of_the_decoder_move_to_the_hint() {
        let error = ApiError::decode(&DecodeError::OtherFormat { name: "AVIF" }).at(1, Some("a.avif"));
        assert_eq!(error.message, "picture 1 (`a.avif`): `AVIF` is not supported");
        assert_eq!(error.hint, Some(format!("convert it to {}", Format::LISTED)));
        let error = ApiError::decode(&DecodeError::UnknownFormat { start: vec![1] });
        assert!(error.hint.is_some_and(|hint| hint.contains(Format::LISTED)));
    }
}
