//! Pictures of the gallery in answers.

use serde::Serialize;
use utoipa::ToSchema;

use crate::gallery::{Gallery, Hit};

/// A picture of the gallery that is like the query.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Neighbour {
    id: usize,
    path: String,
    class: Option<String>,
    cosine: f32,
    thumbnail: String,
}

/// The `k` pictures that are most like an embedding, best first.
pub(super) fn neighbours(gallery: &Gallery, embedding: &[f32], k: usize) -> Vec<Neighbour> {
    neighbours_of(gallery.search(embedding, k))
}

/// Pictures that were found, as answers have them.
pub(super) fn neighbours_of(hits: Vec<Hit<'_>>) -> Vec<Neighbour> {
    let neighbour = |hit: Hit<'_>| Neighbour {
        id: hit.id,
        path: hit.path.to_owned(),
        class: hit.class.map(ToOwned::to_owned),
        cosine: hit.cosine,
        thumbnail: thumbnail_of(hit.id),
    };
    hits.into_iter().map(neighbour).collect()
}

/// Where the thumbnail of a picture is.
pub(super) fn thumbnail_of(id: usize) -> String {
    format!("/v1/gallery/{id}/thumbnail")
}
