//! OpenAI's API as far as a server of image embeddings can speak it: `/v1/embeddings` and `/v1/models`.
//! <https://platform.openai.com/docs/api-reference/embeddings>

use std::fmt;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::bounds::too_many;
use super::coded::{Item, unpack as picture};
use super::errors;
use super::json::{content_type, is_json, parse, says_nothing};
use super::negotiate::{Media, Segment, media};
use super::numbers::{EncodingFormat, Numbers};
use super::ops::ModelJson;
use super::receive::whole;
use crate::error::{ApiError, Kind};
use crate::inference::model::{Model, ModelInfo};
use crate::observe::metrics::Stage;
use crate::pictures::encoding::{Answer, Upload, encode_all};
use crate::serving::admission::Admitted;
use crate::serving::model_used::ModelName;
use crate::serving::parameters::Parameters;
use crate::serving::state::AppState;

const HINT: &str = "send {\"model\": \"<name>\", \"input\": \"<base64 or data URL>\"} or a list as `input`";

/// The body of `POST /v1/embeddings`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EmbeddingsRequest {
    /// One picture or several, each the base64 of a file of a format that is read, or a data URL.
    input: Input,
    /// Name of a model that is served.
    model: String,
    /// How the numbers of the answer are written.
    #[serde(default)]
    encoding_format: Option<EncodingFormat>,
    /// Length of the embedding; only the model's own.
    #[serde(default)]
    dimensions: Option<usize>,
    /// Ignored.
    #[serde(default)]
    #[expect(dead_code, reason = "clients may send it")]
    user: Option<String>,
}

#[derive(ToSchema)]
#[serde(untagged)]
enum Input {
    One(String),
    Many(Vec<String>),
}

/// What serde makes of `untagged` keeps whatever is there as a tree before it looks at it.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputReader)
    }
}

struct InputReader;

impl<'de> Visitor<'de> for InputReader {
    type Value = Input;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as `input` a picture in base64 or a list of them; text and tokens are not supported")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Input, E> {
        Ok(Input::One(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Input, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = list.next_element()? {
            texts.push(text);
        }
        Ok(Input::Many(texts))
    }
}

/// OpenAI's list of embeddings.
#[derive(Serialize, ToSchema)]
struct EmbeddingsAnswer {
    object: &'static str,
    /// In the order of `input`.
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Serialize, ToSchema)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

/// A picture counts as one token.
#[derive(Serialize, ToSchema)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// OpenAI's list of models.
#[derive(Serialize, ToSchema)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

/// OpenAI's fields of a model, then ours.
#[derive(Serialize, ToSchema)]
struct ModelCard {
    id: String,
    object: &'static str,
    /// Unix seconds at which this server loaded it.
    created: u64,
    owned_by: &'static str,
    /// Width and height of what the model sees, in pixels.
    input_size: u32,
    #[serde(flatten)]
    model: ModelJson,
}

impl From<&Model> for ModelCard {
    fn from(model: &Model) -> Self {
        Self {
            id: model.info.name.clone(),
            object: "model",
            created: model.loaded.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            owned_by: "occlude",
            input_size: model.info.contract.crop,
            model: ModelJson::from(&model.info),
        }
    }
}

/// The models that are served
#[utoipa::path(get, path = "/v1/models", operation_id = "list_models", tag = "openai", responses(
    (status = 200, body = ModelList),
    errors::Plain
))]
pub(super) async fn models(State(state): State<AppState>) -> Response {
    let data = state.models().iter().map(|m| ModelCard::from(&**m)).collect();
    Json(ModelList { object: "list", data }).into_response()
}

/// One model
#[utoipa::path(get, path = "/v1/models/{model}", operation_id = "get_model", tag = "openai",
    params(("model" = String, Path, description = "Name of a model")),
    responses((status = 200, body = ModelCard), errors::OneModel)
)]
pub(super) async fn model(State(state): State<AppState>, Segment(id): Segment) -> Result<Response, ApiError> {
    let model = state.model(Some(&id))?;
    let mut response = Json(ModelCard::from(&*model)).into_response();
    response.extensions_mut().insert(ModelName::from(&model.info));
    Ok(response)
}

/// Embeddings for OpenAI's clients
///
/// Pictures where OpenAI has text; a picture counts as one token.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingsRequest, responses(
    (status = 200, body = EmbeddingsAnswer),
    errors::Pictures
))]
pub(super) async fn embeddings(
    State(state): State<AppState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    media(&head.headers, &[Media::Json])?;
    json_only(&head.headers)?;
    let mut admitted = Admitted::new(&state)?;
    let bytes = whole(&state, &mut admitted, &head.headers, body).await?;
    let limit = state.limits().max_images;
    let (asked, uploads) = state.on_pool(Stage::Parse, None, move || unpack(&bytes, limit)).await??;
    let model = state.model(Some(&asked.model))?;
    fits(asked.dimensions, &model.info)?;
    let answers = encode_all(&state, &model, &mut admitted, uploads).await?;
    let answer = describe(&model.info, answers, asked.format);
    let mut response = Json(answer).into_response();
    response.extensions_mut().insert(ModelName::from(&model.info));
    Ok(response)
}

fn json_only(headers: &HeaderMap) -> Result<(), ApiError> {
    let taken = |t: &Parameters| is_json(&t.essence) || says_nothing(&t.essence);
    let Some(other) = content_type(headers).filter(|t| !taken(t)) else { return Ok(()) };
    let message = format!("content type `{}` is not supported", other.essence);
    Err(ApiError::new(Kind::UnsupportedMediaType, message)
        .hint("send application/json; /v1/embed accepts files and forms"))
}

/// What is left of a request once its pictures are taken out.
struct Asked {
    model: String,
    format: EncodingFormat,
    dimensions: Option<usize>,
}

fn unpack(bytes: &[u8], limit: usize) -> Result<(Asked, Vec<Upload>), ApiError> {
    let request: EmbeddingsRequest = parse(bytes).map_err(|e| e.hint(HINT))?;
    let texts = match request.input {
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    if texts.is_empty() {
        return Err(ApiError::new(Kind::InvalidRequest, "json: `input` is empty").hint(HINT));
    }
    if texts.len() > limit {
        return Err(too_many(limit));
    }
    let upload = |(i, data)| picture(i, Item::Named { name: format!("input[{i}]"), data });
    let uploads = texts.into_iter().enumerate().map(upload).collect::<Result<_, ApiError>>()?;
    let format = request.encoding_format.unwrap_or_default();
    Ok((Asked { model: request.model, format, dimensions: request.dimensions }, uploads))
}

/// Embeddings are not shortened: a part of one is no embedding of the model.
fn fits(dimensions: Option<usize>, info: &ModelInfo) -> Result<(), ApiError> {
    match dimensions {
        Some(asked) if asked != info.dim => {
            let message = format!("`dimensions` is {asked}, but the model `{}` has {}", info.name, info.dim);
            Err(ApiError::new(Kind::InvalidRequest, message).hint("leave out `dimensions`"))
        }
        _ => Ok(()),
    }
}

fn describe(info: &ModelInfo, answers: Vec<Answer>, format: EncodingFormat) -> EmbeddingsAnswer {
    let count = answers.len();
    let item = |(index, answer): (usize, Answer)| Embedding {
        object: "embedding",
        index,
        embedding: Numbers::written(answer.encoded.embedding, format),
    };
    EmbeddingsAnswer {
        object: "list",
        data: answers.into_iter().enumerate().map(item).collect(),
        model: info.name.clone(),
        usage: Usage { prompt_tokens: count, total_tokens: count },
    }
}
