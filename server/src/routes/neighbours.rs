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
    let neighbour = |hit: Hit<'_>| Neighbour {
        id: hit.id,
        path: hit.path.to_owned(),
        class: hit.class.map(ToOwned::to_owned),
        cosine: hit.cosine,
        thumbnail: format!("/v1/gallery/{}/thumbnail", hit.id),
    };
    gallery.search(embedding, k).into_iter().map(neighbour).collect()
}
