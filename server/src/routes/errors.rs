//! Which errors the operations can answer with, for the document at `/openapi.json`.

use std::collections::BTreeMap;

use axum::extract::rejection::PathRejection;
use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::error::{ApiError, Body, FlatBody, Kind, Shape};

/// The segment of a path that cannot be read.
pub(super) fn path(error: &PathRejection) -> ApiError {
    ApiError::new(Kind::BadRequest, error.body_text().to_lowercase())
}

/// What a kind means, in a few words.
pub(super) fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Unauthorized => "the server requires a key, and the request has none that it knows",
        Kind::Forbidden => "the server was not set up to do this for clients",
        Kind::CollectionNotFound => "no such collection",
        Kind::PointNotFound => "no such point",
        Kind::UrlRefused => "a web address that is not fetched: not allowed, or not public",
        Kind::UrlFailed => "a web address that could not be fetched",
        Kind::StorageFull => "no space left on the disk",
        Kind::StorageFailed => "the disk or the database failed",
        Kind::StorageUnavailable => "the database of the collections cannot be reached; try again",
        Kind::WrongModel => "the vectors to compare with come from another model",
        Kind::BadRequest => "a body, header, path or query that cannot be read as what it claims to be",
        Kind::NotFound => "no such route or picture, or no gallery",
        Kind::ModelNotFound => "no such model",
        Kind::MethodNotAllowed => "the route expects another method",
        Kind::NotAcceptable => "`Accept` or `format` names no type that the route can return",
        Kind::ReadTimeout => "the body did not arrive in time",
        Kind::BodyTooLarge => "the body has more bytes than allowed",
        Kind::ImageTooLarge => "a picture has more pixels than allowed",
        Kind::TooManyImages => "more pictures than allowed in one request",
        Kind::UnsupportedMediaType => "a content type that is not supported",
        Kind::UnsupportedImage => "bytes of no supported picture format",
        Kind::BrokenImage => "a picture that cannot be decoded",
        Kind::InvalidRequest => "readable JSON or form of the wrong shape",
        Kind::Overloaded => "the server is full; try again after the number of seconds in `Retry-After`",
        Kind::Internal => "an internal error of the server",
        Kind::EncoderFailed => "the model did not run",
        Kind::Loading => "the model or the gallery is not ready yet",
        Kind::Draining => "the server is shutting down",
        Kind::Timeout => "the answer took too long",
    }
}

/// An error as the API writes it.
fn example(kind: Kind, shape: Shape) -> Value {
    let (code, message, id) = (kind.status().1, meaning(kind), "5b1f0c9e-000007");
    match shape {
        Shape::Nested => {
            json!({"error": {"code": code, "message": message, "hint": null, "request_id": id}})
        }
        // The document describes no calls of gRPC.
        Shape::Flat | Shape::Grpc => json!({"error": message, "code": code, "hint": null, "request_id": id}),
    }
}

/// The answer of one status, with an example for each kind that has it.
pub(super) fn response(kinds: &[Kind], shape: Shape) -> Response {
    let schema = match shape {
        Shape::Nested => Body::name(),
        Shape::Flat | Shape::Grpc => FlatBody::name(),
    };
    let examples = kinds.iter().map(|kind| {
        let built = ExampleBuilder::new().summary(meaning(*kind)).value(Some(example(*kind, shape)));
        (kind.status().1.to_owned(), RefOr::T(built.build()))
    });
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .examples_from_iter(examples.collect::<Vec<(String, RefOr<_>)>>());
    let words = kinds.iter().map(|k| format!("`{}`: {}", k.status().1, meaning(*k))).collect::<Vec<_>>();
    let built =
        ResponseBuilder::new().description(words.join("; ")).content("application/json", content.build());
    match kinds {
        [Kind::Overloaded | Kind::Loading | Kind::Draining | Kind::StorageUnavailable, ..] => {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
            let header = HeaderBuilder::new().schema(seconds).description(Some("Seconds"));
            built.header("retry-after", header.build()).build()
        }
        _ => built.build(),
    }
}

fn by_status(kinds: &[Kind], shape: Shape) -> BTreeMap<String, RefOr<Response>> {
    let mut statuses: BTreeMap<String, Vec<Kind>> = BTreeMap::new();
    for kind in kinds {
        statuses.entry(kind.status().0.as_u16().to_string()).or_default().push(*kind);
    }
    statuses.into_iter().map(|(status, kinds)| (status, response(&kinds, shape).into())).collect()
}

/// Groups of errors; each operation names one.
macro_rules! groups {
    ($($(#[$about:meta])* $name:ident $shape:ident [$($kind:ident)*])*) => {$(
        $(#[$about])*
        pub(super) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                by_status(&[$(Kind::$kind),*], Shape::$shape)
            }
        }
    )*};
}

groups! {
    /// Of the list of collections.
    Collections Nested [Unauthorized NotFound Internal StorageFailed StorageUnavailable Loading Timeout]
    /// Of routes about one collection.
    Collection Nested [
        BadRequest Unauthorized NotFound CollectionNotFound InvalidRequest Overloaded Internal StorageFull
        StorageFailed StorageUnavailable Loading Draining Timeout
    ]
    /// Of routes that ask something of one collection, as JSON.
    CollectionBody Nested [
        BadRequest Unauthorized NotFound ModelNotFound CollectionNotFound PointNotFound ReadTimeout WrongModel
        BodyTooLarge UnsupportedMediaType InvalidRequest Overloaded Internal StorageFull StorageFailed StorageUnavailable Loading
        Draining Timeout
    ]
    /// Of routes that send pictures to one collection.
    CollectionPictures Nested [
        BadRequest Unauthorized NotFound CollectionNotFound PointNotFound ReadTimeout WrongModel BodyTooLarge
        ImageTooLarge TooManyImages UnsupportedMediaType UnsupportedImage BrokenImage InvalidRequest UrlRefused
        UrlFailed Overloaded Internal EncoderFailed StorageFull StorageFailed StorageUnavailable Loading Draining Timeout
    ]
    /// Of routes that only tell something.
    Plain Nested [Unauthorized]
    /// Of routes about one model.
    OneModel Nested [BadRequest Unauthorized ModelNotFound Loading]
    /// Of routes about pictures of the gallery.
    Gallery Nested [BadRequest Unauthorized NotFound Overloaded Internal Draining Timeout]
    /// Of routes that take pictures.
    Pictures Nested [
        BadRequest Unauthorized ModelNotFound NotAcceptable ReadTimeout BodyTooLarge ImageTooLarge TooManyImages
        UnsupportedMediaType UnsupportedImage BrokenImage InvalidRequest UrlRefused UrlFailed Overloaded
        Internal EncoderFailed Loading Draining Timeout
    ]
    /// Of routes that take pictures and may search.
    Search Nested [
        BadRequest Unauthorized NotFound ModelNotFound NotAcceptable ReadTimeout WrongModel BodyTooLarge
        ImageTooLarge TooManyImages UnsupportedMediaType UnsupportedImage BrokenImage InvalidRequest UrlRefused
        UrlFailed Overloaded Internal EncoderFailed Loading Draining Timeout
    ]
    /// Of the inference protocol, about one model.
    InferenceModel Flat [BadRequest Unauthorized ModelNotFound Loading Draining]
    /// Of loading and unloading models.
    Repository Flat [
        BadRequest Unauthorized Forbidden ModelNotFound ReadTimeout BodyTooLarge UnsupportedMediaType
        InvalidRequest Overloaded Internal Draining Timeout
    ]
    /// Of the list of models.
    RepositoryIndex Flat [
        BadRequest Unauthorized ReadTimeout BodyTooLarge UnsupportedMediaType InvalidRequest Overloaded Internal
        Draining Timeout
    ]
    /// Of inference.
    Inference Flat [
        BadRequest Unauthorized ModelNotFound ReadTimeout BodyTooLarge ImageTooLarge TooManyImages
        UnsupportedMediaType UnsupportedImage BrokenImage InvalidRequest UrlRefused UrlFailed Overloaded
        Internal EncoderFailed Loading Draining Timeout
    ]
}
