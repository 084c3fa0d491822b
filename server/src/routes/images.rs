//! `/v1/embed`, `/v1/saliency`, `/v1/analyze`: what the model says about pictures.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use occlude_preprocess::decode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::body::uploads;
use super::errors;
use super::negotiate::{Form, Media, format, query, query_and_fields, within};
use super::neighbours::{Neighbour, neighbours};
use super::queries::{AnalyzeQuery, EmbedQuery, SaliencyQuery};
use crate::error::{ApiError, Kind};
use crate::gallery::Gallery;
use crate::inference::model::{Model, ModelInfo};
use crate::observe::metrics::Stage;
use crate::pictures::encoding::{Answer, Look, encode_all_as};
use crate::pictures::maps::{Maps, Reading};
use crate::pictures::npy;
use crate::pictures::pooling::Pooling;
use crate::pictures::render::{self, Drawing, Masks, Saliency};
use crate::pictures::window::Window;
use crate::serving::admission::Admitted;
use crate::serving::model_used::ModelName;
use crate::serving::request_id::RequestId;
use crate::serving::state::AppState;

/// Most neighbours of one picture.
pub(super) const MAX_K: usize = 1000;

const NOTES: HeaderName = HeaderName::from_static("x-occlude-notes");

/// What an answer holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parts {
    pub(super) embedding: Option<Pooling>,
    pub(super) saliency: Option<(Reading, Masks)>,
    /// So many neighbours from the gallery.
    pub(super) neighbours: Option<usize>,
}

/// The JSON answer of every route that takes pictures.
#[derive(Serialize, ToSchema)]
pub(super) struct Answers {
    request_id: String,
    model: ModelName,
    results: Vec<Item>,
}

/// One picture's answer.
#[derive(Serialize, ToSchema)]
#[schema(as = Answer)]
struct Item {
    name: Option<String>,
    width: u32,
    height: u32,
    format: &'static str,
    /// What preprocessing did besides resizing.
    notes: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    saliency: Option<Saliency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    neighbours: Option<Vec<Neighbour>>,
}

/// Embeddings of pictures
///
/// A vector for each picture, in order; they have length 1 unless the model was exported otherwise.
#[utoipa::path(post, path = "/v1/embed", tag = "pictures", params(EmbedQuery), responses(
    (status = 200, content((Answers = "application/json"), (Vec<u8> = "application/x-npy"))),
    errors::Pictures
))]
pub(super) async fn embed(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&state, id, request, |asked: &EmbedQuery, headers| {
        let media = format(asked.format, headers, &[Media::Json, Media::Npy])?;
        let form = if media == Media::Npy { Form::Npy } else { Form::Json };
        let model = state.model(asked.model.as_deref())?;
        let parts = Parts { embedding: Some(asked.pooling(&model.info)?), ..Parts::default() };
        Ok(Plan { form, parts, window: asked.window.unwrap_or_default(), model })
    })
    .await
}

/// What a model looks at in pictures
///
/// Grid, boxes and mask as JSON; of one picture, a drawing as PNG.
#[utoipa::path(post, path = "/v1/saliency", tag = "pictures", params(SaliencyQuery), responses(
    (status = 200, content(
        (Answers = "application/json"), (Vec<u8> = "image/png"), (Vec<u8> = "application/x-npy")
    )),
    errors::Pictures
))]
pub(super) async fn saliency(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&state, id, request, |asked: &SaliencyQuery, headers| {
        let model = state.model(asked.model.as_deref())?;
        let parts = Parts { saliency: Some(asked.saliency(&model.info)?), ..Parts::default() };
        let form = asked.form(headers, &[Media::Json, Media::Png, Media::Npy])?;
        Ok(Plan { form, parts, window: asked.window(), model })
    })
    .await
}

/// Embeddings, saliency and neighbours of pictures from one run of the model
#[utoipa::path(post, path = "/v1/analyze", tag = "pictures", params(AnalyzeQuery), responses(
    (status = 200, content((Answers = "application/json"), (Vec<u8> = "image/png"))),
    errors::Search
))]
pub(super) async fn analyze(
    State(state): State<AppState>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&state, id, request, |asked: &AnalyzeQuery, headers| {
        let model = state.model(asked.model.as_deref())?;
        let parts = Parts {
            embedding: Some(asked.pooling(&model.info)?),
            saliency: Some(asked.saliency(&model.info)?),
            neighbours: asked.k.map(|k| within("k", k, (1, MAX_K))).transpose()?,
        };
        let form = asked.form(headers, &[Media::Json, Media::Png])?;
        Ok(Plan { form, parts, window: asked.window(), model })
    })
    .await
}

/// What a request asks of its pictures.
pub(super) struct Plan {
    /// The same one from the end of the body to that of the answer, whatever is loaded in between.
    pub(super) model: Arc<Model>,
    pub(super) parts: Parts,
    pub(super) window: Window,
    pub(super) form: Form,
}

/// A plan, and what it needs.
struct Call<'a> {
    state: &'a AppState,
    id: RequestId,
    plan: Plan,
    look: Look,
    gallery: Option<Arc<Gallery>>,
}

impl<'a> Call<'a> {
    fn new(state: &'a AppState, id: RequestId, plan: Plan) -> Result<Self, ApiError> {
        let parts = plan.parts;
        let mut wants = parts.embedding.map(|p| p.wants(&plan.model.info)).transpose()?.unwrap_or_default();
        let reading = parts.saliency.map(|(reading, _)| reading);
        wants.sum = reading.is_some_and(|r| r.sum);
        let mirror = reading.is_some_and(|r| r.mirror);
        // An array is the model's own grid.
        let guide = reading.is_some_and(|r| r.refine) && !matches!(plan.form, Form::Npy);
        let look = Look { window: plan.window, mirror, guide, wants };
        let gallery = parts.neighbours.map(|_| state.gallery(&plan.model)).transpose()?;
        Ok(Self { state, id, plan, look, gallery })
    }
}

/// Takes the request in, encodes its pictures and answers. What is asked for is planned from the address before a
/// byte of the body is read, so that what cannot be costs nothing, and again once the body is there: a form may have
/// fields that are parameters, and who sends slowly keeps no model that is to be unloaded.
pub(super) async fn answer<T: DeserializeOwned + IntoParams + Send>(
    state: &AppState,
    id: RequestId,
    request: Request,
    plan: impl Fn(&T, &HeaderMap) -> Result<Plan, ApiError>,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let first: T = query(&head.uri)?;
    let planned = plan(&first, &head.headers)?;
    // Held until the answer is made; dropped with this future when the client leaves.
    let mut admitted = Admitted::new(state)?;
    drop(Call::new(state, id.clone(), planned)?);
    let sent = uploads(state, &mut admitted, &head.headers, body).await?;
    let asked = query_and_fields(&head.uri, &sent.fields)?.unwrap_or(first);
    let call = Call::new(state, id, plan(&asked, &head.headers)?)?;
    let model = Arc::clone(&call.plan.model);
    let answers = encode_all_as(state, &model, &mut admitted, sent.uploads, call.look).await?;
    let start = Instant::now();
    let mut response = match call.plan.form {
        Form::Json => json(call, answers).await?,
        Form::Npy => array(&answers, call.plan.parts)?,
        Form::Png(drawing) => picture(&call, answers, drawing).await?,
    };
    response.extensions_mut().insert(ModelName::from(&model.info));
    state.metrics().observe(Stage::Render, Some(&model.info.name), start.elapsed());
    Ok(response)
}

async fn json(call: Call<'_>, answers: Vec<Answer>) -> Result<Response, ApiError> {
    let Call { state, id, plan: Plan { model, parts, window, .. }, gallery, .. } = call;
    let shared = Arc::clone(&model);
    let all = move || {
        let item = |answer| item(&shared.info, gallery.as_deref(), answer, (parts, window));
        answers.into_iter().map(item).collect::<Result<Vec<_>, _>>()
    };
    let heavy = parts.saliency.is_some() || parts.neighbours.is_some();
    let results = if heavy { state.pooled(all).await?? } else { all()? };
    let answers = Answers { request_id: id.0, model: ModelName::from(&model.info), results };
    Ok(Json(answers).into_response())
}

fn item(
    info: &ModelInfo,
    gallery: Option<&Gallery>,
    answer: Answer,
    (parts, window): (Parts, Window),
) -> Result<Item, ApiError> {
    let place = window.placement(&info.contract, answer.facts.width, answer.facts.height);
    let describe = |(reading, masks)| {
        let maps = Maps::of(&answer, reading)?;
        Ok::<_, ApiError>(render::describe(&maps, &place, masks)?)
    };
    let saliency = parts.saliency.map(describe).transpose()?;
    let Answer { upload, facts, encoded, .. } = answer;
    let near = |(g, k)| neighbours(g, &encoded.embedding, k);
    let neighbours = gallery.zip(parts.neighbours).map(near);
    Ok(Item {
        name: upload.name,
        width: facts.width,
        height: facts.height,
        format: facts.format,
        notes: facts.notes,
        embedding: parts.embedding.map(|pooling| pooling.embedding(&encoded)).transpose()?,
        saliency,
        neighbours,
    })
}

/// One array of all pictures: of the embeddings where they were asked for, else of the saliency.
fn array(answers: &[Answer], parts: Parts) -> Result<Response, ApiError> {
    let (row, rows): (Vec<usize>, Vec<Vec<f32>>) = match parts.embedding {
        Some(pooling) => {
            let rows =
                answers.iter().map(|a| pooling.embedding(&a.encoded)).collect::<Result<Vec<_>, _>>()?;
            (vec![rows.first().map_or(0, Vec::len)], rows)
        }
        None => {
            let reading = parts.saliency.map(|(reading, _)| Reading { refine: false, ..reading });
            let grid = |answer: &Answer| reading.map(|reading| Maps::of(answer, reading).map(|m| m.grid));
            let grids = answers.iter().filter_map(grid).collect::<Result<Vec<_>, _>>()?;
            let shape = grids.first().map_or(vec![0, 0], |g| vec![g.height, g.width]);
            (shape, grids.into_iter().map(|g| g.values).collect())
        }
    };
    let length: usize = row.iter().product();
    if rows.iter().any(|r| r.len() != length) {
        return Err(ApiError::new(Kind::Internal, "the rows of the array have different lengths"));
    }
    let shape: Vec<usize> = std::iter::once(rows.len()).chain(row).collect();
    let file = npy::float32(&shape, rows.concat().into_iter());
    Ok(([(header::CONTENT_TYPE, Media::Npy.name())], file).into_response())
}

async fn picture(call: &Call<'_>, mut answers: Vec<Answer>, drawing: Drawing) -> Result<Response, ApiError> {
    let Call { state, plan: Plan { model, parts, window, .. }, .. } = call;
    let Some(answer) = answers.pop().filter(|_| answers.is_empty()) else {
        return Err(ApiError::new(Kind::BadRequest, "a PNG response shows a single picture")
            .hint("send one picture per request, or accept application/json"));
    };
    let reading = parts.saliency.map(|(reading, _)| reading);
    let reading = reading.ok_or_else(|| ApiError::new(Kind::Internal, "there is nothing to draw"))?;
    let facts = answer.facts.clone();
    let place = window.placement(&model.info.contract, facts.width, facts.height);
    let limits = state.limits().decode();
    let draw = move || {
        let (maps, upload) = (Maps::of(&answer, reading)?, answer.upload);
        // Decoded a second time: keeping the pixels while the picture waits would cost far more memory.
        let original = || decode(&upload.bytes, &limits).map(|d| d.image).map_err(|e| ApiError::decode(&e));
        render::draw(&maps, &place, drawing, original)
    };
    let png = state.pooled(draw).await??;
    let mut response = ([(header::CONTENT_TYPE, "image/png")], png).into_response();
    if let Ok(notes) = HeaderValue::from_str(&facts.notes.join(",")) {
        response.headers_mut().insert(NOTES, notes);
    }
    Ok(response)
}
