//! `/v1/gallery`: the pictures of the indexed folder, and what is near one of them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::errors;
use super::images::MAX_K;
use super::negotiate::{Segment, query, within};
use super::neighbours::{Neighbour, neighbours_of, thumbnail_of};
use crate::error::{ApiError, Kind};
use crate::gallery::Gallery;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

/// Neighbours of one answer, unless asked otherwise.
const NEAR: usize = 12;

/// Pictures of one answer, unless asked otherwise.
const LISTED: usize = 100;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Number of the first picture.
    from: Option<usize>,
    /// Pictures at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// A picture of the gallery.
#[derive(Serialize, ToSchema)]
#[schema(as = GalleryPicture)]
struct Picture {
    id: usize,
    path: String,
    class: Option<String>,
    thumbnail: String,
}

/// A page of the gallery.
#[derive(Serialize, ToSchema)]
#[schema(as = GalleryPictures)]
pub(super) struct Pictures {
    pictures: Vec<Picture>,
    /// What `from` has to be for the next page; null at the end.
    next: Option<usize>,
}

/// The gallery's pictures
///
/// Page by page, in the order of their numbers.
#[utoipa::path(get, path = "/v1/gallery", operation_id = "list_gallery", tag = "gallery", params(ListQuery),
    responses((status = 200, body = Pictures), errors::Gallery)
)]
pub(super) async fn list(
    State(state): State<AppState>,
    uri: Uri,
    _admitted: Admitted,
) -> Result<Json<Pictures>, ApiError> {
    let asked: ListQuery = query(&uri)?;
    let (from, limit) =
        (asked.from.unwrap_or(0), within("limit", asked.limit.unwrap_or(LISTED), (1, MAX_K))?);
    let gallery = indexed(&state)?;
    let picture = |(id, path, class): (usize, &str, Option<&str>)| Picture {
        id,
        path: path.to_owned(),
        class: class.map(ToOwned::to_owned),
        thumbnail: thumbnail_of(id),
    };
    let pictures: Vec<_> = gallery.pictures(from).take(limit).map(picture).collect();
    let end = from.saturating_add(pictures.len());
    let next = (!pictures.is_empty() && end < gallery.len()).then_some(end);
    Ok(Json(Pictures { pictures, next }))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct NearQuery {
    /// Neighbours at most.
    #[param(minimum = 1, maximum = 1000)]
    k: Option<usize>,
}

/// What is near a picture of the gallery.
#[derive(Serialize, ToSchema)]
#[schema(as = GalleryNeighbours)]
pub(super) struct Near {
    neighbours: Vec<Neighbour>,
}

/// The gallery's pictures nearest to one of its own
///
/// By the vector that it was indexed with: nothing is encoded. It is not among them itself.
#[utoipa::path(get, path = "/v1/gallery/{id}/neighbours", operation_id = "gallery_neighbours", tag = "gallery",
    params(("id" = usize, Path, description = "Number of the picture", example = 0), NearQuery),
    responses((status = 200, body = Near), errors::Gallery)
)]
pub(super) async fn near(
    State(state): State<AppState>,
    Segment(id): Segment,
    uri: Uri,
    _admitted: Admitted,
) -> Result<Json<Near>, ApiError> {
    let asked: NearQuery = query(&uri)?;
    let k = within("k", asked.k.unwrap_or(NEAR), (1, MAX_K))?;
    let gallery = indexed(&state)?;
    let missing = || ApiError::new(Kind::NotFound, format!("no picture `{id}` in the gallery"));
    let number: usize = id.parse().map_err(|_| missing())?;
    let found = state.pooled(move || gallery.near(number, k).map(neighbours_of)).await?;
    Ok(Json(Near { neighbours: found.ok_or_else(missing)? }))
}

fn indexed(state: &AppState) -> Result<Arc<Gallery>, ApiError> {
    state.indexed().ok_or_else(|| ApiError::new(Kind::NotFound, "this server has no gallery, or not yet"))
}
