//! `/v1/embed`, `/v1/saliency`, `/v1/analyze`: what the model says about pictures.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use occlude_preprocess::decode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::uploads;
use super::errors;
use super::negotiate::{Media, format, query, query_and_fields, within};
use super::search::{Neighbour, neighbours};
use super::surround::RequestId;
use crate::admission::Admitted;
use crate::batch::Wants;
use crate::clock;
use crate::error::{ApiError, Kind};
use crate::gallery::Gallery;
use crate::geometry::placement;
use crate::metrics::Stage;
use crate::model::{Model, ModelInfo};
use crate::npy;
use crate::picture::{Answer, decode_limits, encode_all_wanting};
use crate::pool::{Pool, Pooling};
use crate::render::{self, Drawing, How, Masks, RenderError, Saliency, View};
use crate::state::AppState;

/// Longest side of a drawn picture, unless asked otherwise, and the most that can be asked.
const SIDE: (u32, u32) = (1024, 4096);
const OPACITY: f32 = 0.6;
/// Bounds of the threshold in standard deviations from the mean; no grid of a model's goes beyond.
const DEVIATIONS: (f64, f64) = (-100.0, 100.0);
/// Most neighbours of one picture.
pub(super) const MAX_K: usize = 1000;

const NOTES: HeaderName = HeaderName::from_static("x-occlude-notes");

/// What an answer holds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Parts {
    pub(super) embedding: Option<Pooling>,
    pub(super) saliency: Option<How>,
    /// So many neighbours from the gallery.
    pub(super) neighbours: Option<usize>,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    Json,
    /// One array of the embeddings (n, D), or of the saliency (n, h, w).
    Npy,
    Png(Drawing),
}

/// The JSON answer of every route that takes pictures.
#[derive(Serialize, ToSchema)]
pub(super) struct Answers {
    request_id: String,
    model: ModelName,
    results: Vec<Item>,
}

/// Which model answered; also an extension of the response, from which its headers are made.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = ModelUsed)]
pub(super) struct ModelName {
    pub(super) name: String,
    pub(super) fingerprint: String,
    pub(super) identity: String,
}

impl From<&ModelInfo> for ModelName {
    fn from(info: &ModelInfo) -> Self {
        let ModelInfo { name, fingerprint, identity, .. } = info;
        Self { name: name.clone(), fingerprint: fingerprint.clone(), identity: identity.clone() }
    }
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

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct EmbedQuery {
    /// Name of a model; the first without it.
    model: Option<String>,
    /// Which cells of the feature map make the embedding.
    #[param(inline)]
    pool: Option<Pool>,
    /// Of the foreground, in standard deviations from the mean; with `pool=foreground`.
    #[param(minimum = -100, maximum = 100)]
    threshold: Option<f64>,
    /// How the answer is written; before `Accept`.
    #[param(inline)]
    format: Option<Media>,
}

impl EmbedQuery {
    fn pooling(&self) -> Result<Pooling, ApiError> {
        let pool = self.pool.unwrap_or_default();
        if self.threshold.is_some() && pool == Pool::All {
            let error = ApiError::new(Kind::BadRequest, "`threshold` has no effect on this embedding");
            return Err(error.hint("it takes `pool=foreground` with it"));
        }
        Ok(Pooling { pool, deviations: deviations(self.threshold)? })
    }
}

/// The threshold of the foreground, in standard deviations from the mean.
fn deviations(asked: Option<f64>) -> Result<f64, ApiError> {
    within("threshold", asked.unwrap_or(How::default().deviations), DEVIATIONS)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SaliencyQuery {
    /// Name of a model; the first without it.
    model: Option<String>,
    /// What a PNG shows.
    #[param(inline)]
    view: Option<View>,
    /// Of the overlay.
    #[param(minimum = 0, maximum = 1)]
    opacity: Option<f32>,
    /// Longest side of overlay and heat map in pixels.
    #[param(minimum = 1, maximum = 4096)]
    max_side: Option<u32>,
    /// Of the foreground, in standard deviations from the mean.
    #[param(minimum = -100, maximum = 100)]
    threshold: Option<f64>,
    /// Forms of the mask: a list of `png`, `rle`, `polygons`, or `none`.
    #[param(pattern = "^(none|(png|rle|polygons)(,(png|rle|polygons))*)$")]
    mask: Option<String>,
    /// Which cells of the feature map make the embedding; of /v1/analyze.
    #[param(inline)]
    pool: Option<Pool>,
    /// Neighbours from the gallery; of /v1/analyze.
    #[param(minimum = 1, maximum = 1000)]
    k: Option<usize>,
    /// How the answer is written; before `Accept`.
    #[param(inline)]
    format: Option<Media>,
}

impl SaliencyQuery {
    fn how(&self) -> Result<How, ApiError> {
        let masks = self.mask.as_deref().map(str::parse::<Masks>).transpose();
        let masks = masks.map_err(|message| ApiError::new(Kind::BadRequest, message))?.unwrap_or_default();
        Ok(How { deviations: deviations(self.threshold)?, masks })
    }

    fn form(&self, headers: &HeaderMap, offered: &[Media]) -> Result<Form, ApiError> {
        let drawing = self.drawing()?;
        Ok(match format(self.format, headers, offered)? {
            Media::Json => Form::Json,
            Media::Npy => Form::Npy,
            Media::Png => Form::Png(drawing),
        })
    }

    fn drawing(&self) -> Result<Drawing, ApiError> {
        Ok(Drawing {
            view: self.view.unwrap_or_default(),
            opacity: within("opacity", self.opacity.unwrap_or(OPACITY), (0.0, 1.0))?,
            max_side: within("max_side", self.max_side.unwrap_or(SIDE.0), (1, SIDE.1))?,
            deviations: deviations(self.threshold)?,
        })
    }
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
    id: Extension<RequestId>,
    request: Request,
) -> Response {
    let run = answer(&state, id.0, request, |asked: &EmbedQuery, headers| {
        let media = format(asked.format, headers, &[Media::Json, Media::Npy])?;
        Ok(Plan {
            form: if media == Media::Npy { Form::Npy } else { Form::Json },
            parts: Parts { embedding: Some(asked.pooling()?), ..Parts::default() },
            model: state.model(asked.model.as_deref())?,
        })
    });
    in_time(&state, run).await
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
    id: Extension<RequestId>,
    request: Request,
) -> Response {
    let run = answer(&state, id.0, request, |asked: &SaliencyQuery, headers| {
        for (name, given) in [("k", asked.k.is_some()), ("pool", asked.pool.is_some())] {
            if given {
                let message = format!("`{name}` is no parameter of /v1/saliency");
                return Err(ApiError::new(Kind::BadRequest, message).hint("/v1/analyze takes it"));
            }
        }
        let parts = Parts { saliency: Some(asked.how()?), ..Parts::default() };
        let form = asked.form(headers, &[Media::Json, Media::Png, Media::Npy])?;
        Ok(Plan { form, parts, model: state.model(asked.model.as_deref())? })
    });
    in_time(&state, run).await
}

/// Embeddings, saliency and neighbours of pictures from one run of the model
#[utoipa::path(post, path = "/v1/analyze", tag = "pictures", params(SaliencyQuery), responses(
    (status = 200, content((Answers = "application/json"), (Vec<u8> = "image/png"))),
    errors::Search
))]
pub(super) async fn analyze(
    State(state): State<AppState>,
    id: Extension<RequestId>,
    request: Request,
) -> Response {
    let run = answer(&state, id.0, request, |asked: &SaliencyQuery, headers| {
        let how = asked.how()?;
        let pooling = Pooling { pool: asked.pool.unwrap_or_default(), deviations: how.deviations };
        let parts = Parts {
            embedding: Some(pooling),
            saliency: Some(how),
            neighbours: asked.k.map(|k| within("k", k, (1, MAX_K))).transpose()?,
        };
        let form = asked.form(headers, &[Media::Json, Media::Png])?;
        Ok(Plan { form, parts, model: state.model(asked.model.as_deref())? })
    });
    in_time(&state, run).await
}

/// 504 when the answer takes longer than `--timeout` from the end of the request.
pub(super) async fn in_time(
    state: &AppState,
    run: impl Future<Output = Result<Response, ApiError>>,
) -> Response {
    let limit = state.limits().timeout;
    let late = || {
        let message = format!("no answer within {} s", limit.as_secs_f64());
        Err(ApiError::new(Kind::Timeout, message).hint("send fewer pictures at once, or try again later"))
    };
    clock::in_time(limit, run).await.unwrap_or_else(late).into_response()
}

/// What a request asks of its pictures.
pub(super) struct Plan {
    /// The same one from beginning to end, whatever is loaded in between.
    pub(super) model: Arc<Model>,
    pub(super) parts: Parts,
    pub(super) form: Form,
}

/// A plan, and what it needs.
struct Call<'a> {
    state: &'a AppState,
    id: RequestId,
    plan: Plan,
    wants: Wants,
    gallery: Option<Arc<Gallery>>,
}

impl<'a> Call<'a> {
    fn new(state: &'a AppState, id: RequestId, plan: Plan) -> Result<Self, ApiError> {
        let wants = plan.parts.embedding.map(|p| p.wants(&plan.model.info)).transpose()?.unwrap_or_default();
        let gallery = plan.parts.neighbours.map(|_| state.gallery(&plan.model)).transpose()?;
        Ok(Self { state, id, plan, wants, gallery })
    }
}

/// Takes the request in, encodes its pictures and answers. What is asked for is planned from the address before a
/// byte of the body is read, and again where a form has fields that are parameters.
pub(super) async fn answer<T: DeserializeOwned + IntoParams>(
    state: &AppState,
    id: RequestId,
    request: Request,
    plan: impl Fn(&T, &HeaderMap) -> Result<Plan, ApiError>,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let first = plan(&query(&head.uri)?, &head.headers)?;
    // Held until the answer is made; dropped with this future when the client leaves.
    let mut admitted = Admitted::new(state)?;
    let mut call = Call::new(state, id.clone(), first)?;
    let sent = uploads(state, &mut admitted, &head.headers, body).await?;
    if let Some(asked) = query_and_fields(&head.uri, &sent.fields)? {
        call = Call::new(state, id, plan(&asked, &head.headers)?)?;
    }
    let model = Arc::clone(&call.plan.model);
    let answers = encode_all_wanting(state, &model, &mut admitted, sent.uploads, call.wants).await?;
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
    let Call { state, id, plan: Plan { model, parts, .. }, gallery, .. } = call;
    let shared = Arc::clone(&model);
    let all = move || {
        let item = |answer| item(&shared.info, gallery.as_deref(), answer, parts);
        answers.into_iter().map(item).collect::<Result<Vec<_>, _>>()
    };
    let heavy = parts.saliency.is_some() || parts.neighbours.is_some();
    let results = if heavy { state.pooled(all).await?? } else { all()? };
    let answers = Answers { request_id: id.0, model: ModelName::from(&model.info), results };
    Ok(Json(answers).into_response())
}

fn item(info: &ModelInfo, gallery: Option<&Gallery>, answer: Answer, parts: Parts) -> Result<Item, ApiError> {
    let Answer { upload, facts, encoded } = answer;
    let place = placement(&info.contract, facts.width, facts.height);
    let saliency = parts.saliency.map(|how| render::describe(&encoded, &place, how)).transpose()?;
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

impl From<RenderError> for ApiError {
    fn from(error: RenderError) -> Self {
        ApiError::new(Kind::Internal, error.to_string())
    }
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
            let grid = answers.first().map_or((0, 0), |a| a.encoded.grid);
            (vec![grid.0, grid.1], answers.iter().map(|a| a.encoded.saliency.clone()).collect())
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
    let Call { state, plan: Plan { model, .. }, .. } = call;
    let Some(Answer { upload, facts, encoded }) = answers.pop().filter(|_| answers.is_empty()) else {
        return Err(ApiError::new(Kind::BadRequest, "a PNG answer shows one picture")
            .hint("send one picture a request, or accept application/json"));
    };
    let place = placement(&model.info.contract, facts.width, facts.height);
    let limits = decode_limits(state.limits());
    let draw = move || {
        // Decoded a second time: keeping the pixels while the picture waits would cost far more memory.
        let original = || decode(&upload.bytes, &limits).map(|d| d.image).map_err(|e| ApiError::decode(&e));
        render::draw(&encoded, &place, drawing, original)
    };
    let png = state.pooled(draw).await??;
    let mut response = ([(header::CONTENT_TYPE, "image/png")], png).into_response();
    if let Ok(notes) = HeaderValue::from_str(&facts.notes.join(",")) {
        response.headers_mut().insert(NOTES, notes);
    }
    Ok(response)
}
