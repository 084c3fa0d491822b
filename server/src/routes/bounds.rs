//! Answers to requests that are too large.

use crate::error::{ApiError, Kind};

/// For a body of more bytes than are taken.
pub(super) fn too_large(limit: usize) -> ApiError {
    ApiError::new(Kind::BodyTooLarge, format!("the body is larger than {limit} bytes"))
        .hint("send fewer or smaller pictures")
}

/// For more pictures than are taken at once.
pub(super) fn too_many(limit: usize) -> ApiError {
    ApiError::new(Kind::TooManyImages, format!("more than {limit} pictures in one request"))
        .hint("split the request")
}
