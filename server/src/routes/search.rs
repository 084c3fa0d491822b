//! `/v1/search` and the gallery's thumbnails.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::errors;
use super::images::{Answers, MAX_K, Parts, Plan, answer};
use super::negotiate::{Form, Media, Segment, media, within};
use crate::error::{ApiError, Kind};
use crate::gallery::thumbnail as draw;
use crate::observe::metrics::Stage;
use crate::pictures::window::Window;
use crate::serving::admission::Admitted;
use crate::serving::request_id::RequestId;
use crate::serving::state::AppState;

const DEFAULT_K: usize = 12;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Name of a model; the first without it.
    model: Option<String>,
    /// Neighbours of each picture.
    #[param(minimum = 1, maximum = 1000)]
    k: Option<usize>,
}

/// The gallery's nearest pictures
#[utoipa::path(post, path = "/v1/search", tag = "pictures", params(SearchQuery), responses(
    (status = 200, body = Answers),
    errors::Search
))]
pub(super) async fn search(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&state, id, request, |asked: &SearchQuery, headers| {
        let k = within("k", asked.k.unwrap_or(DEFAULT_K), (1, MAX_K))?;
        media(headers, &[Media::Json])?;
        let parts = Parts { neighbours: Some(k), ..Parts::default() };
        let model = state.model(asked.model.as_deref())?;
        Ok(Plan { form: Form::Json, parts, window: Window::Crop, model })
    })
    .await
}

/// A small JPEG of a picture in the gallery
#[utoipa::path(get, path = "/v1/gallery/{id}/thumbnail", tag = "gallery",
    params(("id" = usize, Path, description = "Number of the picture", example = 0)),
    responses((status = 200, body = Vec<u8>, content_type = "image/jpeg"), errors::Gallery)
)]
pub(super) async fn thumbnail(
    State(state): State<AppState>,
    Segment(id): Segment,
    _admitted: Admitted,
) -> Result<impl IntoResponse, ApiError> {
    let missing = || ApiError::new(Kind::NotFound, format!("no picture `{id}` in the gallery"));
    let gallery = state.indexed().ok_or_else(missing)?;
    let file = id.parse().ok().and_then(|id| gallery.file(id)).ok_or_else(missing)?.to_owned();
    let limits = state.limits().clone();
    // The file was there when it was indexed; its name stays on the server.
    let made = state.on_pool(Stage::Render, None, move || draw(&file, &limits)).await?;
    let bytes = made.map_err(|_| missing().hint("it was moved or changed since the server was started"))?;
    let headers = [(header::CONTENT_TYPE, "image/jpeg"), (header::CACHE_CONTROL, "private, max-age=600")];
    Ok((headers, bytes))
}
