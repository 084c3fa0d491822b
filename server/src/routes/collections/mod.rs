//! `/v1/collections`: named collections of vectors, filled and searched by picture, by vector or by id.

mod sent;
mod vectors;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode};
use axum::response::{IntoResponse, Response};
use occlude_retrieval::{Engine, Filter, Hit, Info, Page, Record, With};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use self::sent::{Filtered, filter, payloads, present};
use self::vectors::{Collection, one_of, unique};
use super::body::{self, Unpacked, unpacked};
use super::coded::{Item, unpack};
use super::negotiate::{Segment, query, query_and_fields, within};
use super::numbers::{EncodingFormat, Numbers};
use super::{errors, json, schemas};
use crate::error::{ApiError, Kind};
use crate::observe::metrics::Stage;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

/// Hits and points of one answer, unless asked otherwise, and the most that can be asked.
const LIMIT: (usize, usize) = (12, 1000);

/// Points of one upsert: each may be a picture, and all go into one transaction.
const MAX_POINTS: usize = 1000;

#[derive(Serialize, ToSchema)]
pub(super) struct Collections {
    #[schema(value_type = Vec<schemas::Collection>)]
    collections: Vec<Info>,
}

/// All collections
#[utoipa::path(
    get, path = "/v1/collections", operation_id = "list_collections", tag = "collections",
    responses((status = 200, body = Collections), errors::Collections)
)]
pub(super) async fn list(State(state): State<AppState>) -> Result<Json<Collections>, ApiError> {
    let collections = state.on_store(|s| s.collections()).await?;
    Ok(Json(Collections { collections }))
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct Create {
    /// Whose vectors it will hold; the first model by default.
    model: Option<String>,
    /// Of a collection that an older release made, and that notes no identity: its vectors are this model's.
    #[serde(default)]
    adopt: bool,
}

/// Makes a collection
///
/// 201 where it is new, 200 where it is there for the same model.
#[utoipa::path(
    put, path = "/v1/collections/{name}", operation_id = "create_collection", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    request_body = Option<Create>,
    responses(
        (status = 200, body = schemas::Collection, description = "It exists for the same model"),
        (status = 201, body = schemas::Collection, description = "It is new"),
        errors::CollectionBody
    )
)]
pub(super) async fn create(
    State(state): State<AppState>,
    Segment(name): Segment,
    mut admitted: Admitted,
    request: Request,
) -> Result<(StatusCode, Json<Info>), ApiError> {
    let asked: Create = json::body_or_default(&state, &mut admitted, request).await?;
    let spec = state.model(asked.model.as_deref())?.info.spec();
    let make = move |store: &dyn Engine| {
        if asked.adopt && store.collection(&name).is_ok() {
            store.adopt(&name, &spec)?;
        }
        store.ensure_collection(&name, &spec)
    };
    let (info, new) = state.on_store(make).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(info)))
}

/// One collection
#[utoipa::path(
    get, path = "/v1/collections/{name}", operation_id = "show_collection", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    responses((status = 200, body = schemas::Collection), errors::Collection)
)]
pub(super) async fn show(
    State(state): State<AppState>,
    Segment(name): Segment,
) -> Result<Json<Info>, ApiError> {
    Ok(Json(state.on_store(move |s| s.collection(&name)).await?))
}

/// Deletes a collection
#[utoipa::path(
    delete, path = "/v1/collections/{name}", operation_id = "delete_collection", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    responses((status = 204, description = "It was deleted with all its points"), errors::Collection)
)]
pub(super) async fn remove(
    State(state): State<AppState>,
    Segment(name): Segment,
    _admitted: Admitted,
) -> Result<StatusCode, ApiError> {
    state.on_store(move |s| s.drop_collection(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Upsert {
    points: Vec<NewPoint>,
    /// Of the model that made the vectors; needed where there are any.
    identity: Option<String>,
    /// In place of `identity` for models whose fingerprint is their identity; of others it says too little.
    fingerprint: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPoint {
    id: String,
    vector: Option<Vec<f32>>,
    /// Base64 or data URL, in place of the vector.
    image: Option<String>,
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Object)]
    payload: Option<Box<RawValue>>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Upserted {
    added: usize,
    replaced: usize,
}

/// Adds or replaces points
///
/// JSON with vectors or pictures, or a form of files whose names are the ids; no id twice.
/// All points or none, and acknowledged only when they are on disk.
#[utoipa::path(
    post, path = "/v1/collections/{name}/points", operation_id = "upsert_points", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    request_body(content((Upsert = "application/json"), (body::Form = "multipart/form-data"))),
    responses((status = 200, body = Upserted), errors::CollectionPictures)
)]
pub(super) async fn upsert(
    State(state): State<AppState>,
    Segment(name): Segment,
    mut admitted: Admitted,
    request: Request,
) -> Result<(Extensions, Json<Upserted>), ApiError> {
    let collection = Collection::find(&state, name).await?;
    let (head, body) = request.into_parts();
    let (points, maker) = match unpacked(&state, &mut admitted, &head.headers, body).await? {
        Unpacked::Json(bytes) => {
            let room = admitted.buffered();
            let parse = move || {
                let mut asked = json::parse::<Upsert>(&bytes)?;
                let payloads = payloads(&mut asked.points, &room)?;
                Ok::<_, ApiError>((asked, payloads))
            };
            let (asked, payloads) = state.on_pool(Stage::Parse, None, parse).await??;
            collection.points(&state, &mut admitted, asked, payloads).await?
        }
        Unpacked::Files(sent) => collection.files(&state, &mut admitted, sent.uploads).await?,
    };
    let name = collection.info.name;
    let done = state.on_store(move |s| s.upsert(&name, &maker, &points)).await?;
    Ok((collection.served, Json(Upserted { added: done.added, replaced: done.replaced })))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    ids: Option<Vec<String>>,
    #[schema(value_type = Option<schemas::Filter>)]
    filter: Option<Filtered>,
}

enum Which {
    Ids(Vec<String>),
    Matching(Filter),
}

#[derive(Serialize, ToSchema)]
pub(super) struct Count {
    count: usize,
}

/// Deletes points
///
/// By ids, or by a filter.
#[utoipa::path(
    post, path = "/v1/collections/{name}/points/delete", operation_id = "delete_points", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    request_body = Delete,
    responses((status = 200, body = Count), errors::CollectionBody)
)]
pub(super) async fn delete(
    State(state): State<AppState>,
    Segment(name): Segment,
    mut admitted: Admitted,
    request: Request,
) -> Result<Json<Count>, ApiError> {
    let asked: Delete = json::body(&state, &mut admitted, request).await?;
    let which = match (asked.ids, filter(asked.filter)?) {
        (Some(ids), None) => Which::Ids(unique(ids, "ids")?),
        (None, Some(filter)) => Which::Matching(filter),
        _ => return Err(one_of("`ids` or `filter`")),
    };
    let work = move |store: &dyn Engine| match which {
        Which::Ids(ids) => store.delete(&name, &ids),
        Which::Matching(filter) => store.delete_where(&name, &filter),
    };
    let count = state.on_store(work).await?;
    Ok(Json(Count { count }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Scroll {
    /// Only these, in this order.
    ids: Option<Vec<String>>,
    after: Option<String>,
    limit: Option<usize>,
    #[schema(value_type = Option<schemas::Filter>)]
    filter: Option<Filtered>,
    #[serde(default)]
    with_vector: bool,
    /// How the numbers of vectors are written.
    #[serde(default)]
    encoding_format: EncodingFormat,
    with_payload: Option<bool>,
}

/// A stored point.
#[derive(Serialize, ToSchema)]
struct Stored {
    id: String,
    /// Scaled to length 1, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    vector: Option<Numbers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    payload: Option<Map<String, Value>>,
}

#[derive(Serialize, ToSchema)]
struct Points {
    points: Vec<Stored>,
    /// What `after` has to be for the next page; null at the end.
    next: Option<String>,
}

/// Reads points
///
/// Some points by id, or all of them page by page.
#[utoipa::path(
    post, path = "/v1/collections/{name}/points/scroll", operation_id = "scroll_points", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    request_body = Scroll,
    responses((status = 200, body = Points), errors::CollectionBody)
)]
pub(super) async fn scroll(
    State(state): State<AppState>,
    Segment(name): Segment,
    mut admitted: Admitted,
    request: Request,
) -> Result<Response, ApiError> {
    let asked: Scroll = json::body(&state, &mut admitted, request).await?;
    let limit = within("limit", asked.limit.unwrap_or(LIMIT.1), (1, LIMIT.1))?;
    let with = With { vector: asked.with_vector, payload: asked.with_payload.unwrap_or(true) };
    if asked.ids.as_ref().is_some_and(|ids| ids.len() > LIMIT.1) {
        let message = format!("more than {} `ids` in one request", LIMIT.1);
        return Err(ApiError::new(Kind::InvalidRequest, message));
    }
    let ids = asked.ids.map(|ids| unique(ids, "ids")).transpose()?;
    let page = Page { after: asked.after, limit, filter: filter(asked.filter)?, with };
    let work = move |store: &dyn Engine| match ids {
        Some(ids) => Ok((store.get(&name, &ids, with)?, false)),
        None => store.scroll(&name, &page).map(|points| (points, true)),
    };
    let format = asked.encoding_format;
    let work = move |store: &dyn Engine| {
        // in the same place as the reading: it is the longer part of a large page
        work(store).map(|(points, paged)| (points.into_iter().map(|p| stored(p, format)).collect(), paged))
    };
    let (points, paged): (Vec<Stored>, bool) = state.on_store(work).await?;
    let last = points.last().map(|p| p.id.clone());
    let next = last.filter(|_| paged && points.len() == limit);
    Ok(Json(Points { points, next }).into_response())
}

fn stored(point: Record, format: EncodingFormat) -> Stored {
    let vector = point.vector.map(|vector| Numbers::written(vector, format));
    Stored { id: point.id, vector, payload: point.payload }
}

#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct CountQuery {
    #[schema(value_type = Option<schemas::Filter>)]
    filter: Option<Filtered>,
}

/// Counts points
#[utoipa::path(
    post, path = "/v1/collections/{name}/count", operation_id = "count_points", tag = "collections",
    params(("name" = String, Path, description = "Name of the collection", example = "photos")),
    request_body = Option<CountQuery>,
    responses((status = 200, body = Count), errors::CollectionBody)
)]
pub(super) async fn count(
    State(state): State<AppState>,
    Segment(name): Segment,
    mut admitted: Admitted,
    request: Request,
) -> Result<Json<Count>, ApiError> {
    let asked: CountQuery = json::body_or_default(&state, &mut admitted, request).await?;
    let filter = filter(asked.filter)?;
    let count = state.on_store(move |s| s.count(&name, filter.as_ref())).await?;
    Ok(Json(Count { count }))
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = CollectionSearch)]
#[serde(deny_unknown_fields)]
struct Search {
    image: Option<Item>,
    vector: Option<Vec<f32>>,
    /// Of the model that made the vector; needed with it.
    identity: Option<String>,
    /// In place of `identity` for models whose fingerprint is their identity; of others it says too little.
    fingerprint: Option<String>,
    id: Option<String>,
    limit: Option<usize>,
    #[schema(value_type = Option<schemas::Filter>)]
    filter: Option<Filtered>,
    #[serde(default)]
    exact: bool,
    #[serde(default)]
    with_vector: bool,
    with_payload: Option<bool>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchQuery {
    /// Hits at most, where the body says nothing.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
struct Found {
    collection: String,
    #[schema(value_type = Vec<schemas::Hit>)]
    hits: Vec<Hit>,
}

/// The nearest points
///
/// Like a picture (the body itself, a form or JSON), a vector or a point.
#[utoipa::path(
    post, path = "/v1/collections/{name}/search", operation_id = "search_collection", tag = "collections",
    params(
        ("name" = String, Path, description = "Name of the collection", example = "photos"),
        SearchQuery
    ),
    request_body(
        content(
            (Search = "application/json"),
            (body::Form = "multipart/form-data"),
            (Vec<u8> = "application/octet-stream")
        )
    ),
    responses((status = 200, body = Found), errors::CollectionPictures)
)]
pub(super) async fn search(
    State(state): State<AppState>,
    Segment(name): Segment,
    request: Request,
) -> Result<Response, ApiError> {
    let mut asked: SearchQuery = query(request.uri())?;
    let mut admitted = Admitted::new(&state)?;
    let collection = Collection::find(&state, name).await?;
    let (head, body) = request.into_parts();
    let (mut search, pictures) = match unpacked(&state, &mut admitted, &head.headers, body).await? {
        Unpacked::Json(bytes) => {
            let parse = move || json::parse::<Search>(&bytes);
            let mut search = state.on_pool(Stage::Parse, None, parse).await??;
            let image = search.image.take().map(|item| unpack(0, item)).transpose()?;
            (search, image.into_iter().collect())
        }
        Unpacked::Files(sent) => {
            asked = query_and_fields(&head.uri, &sent.fields)?.unwrap_or(asked);
            (Search::default(), sent.uploads)
        }
    };
    search.limit = search.limit.or(asked.limit);
    let (query, maker) = collection.query(&state, &mut admitted, search, pictures).await?;
    let Collection { info, served, .. } = collection;
    let name = info.name.clone();
    let hits = state.on_store(move |s| s.search(&name, &maker, &query)).await?;
    Ok((served, Json(Found { collection: info.name, hits })).into_response())
}
