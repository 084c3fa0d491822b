//! What the address of `/v1/embed`, `/v1/saliency` and `/v1/analyze` can ask for.

use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterIn};

use super::negotiate::{Form, Media, format, within};
use crate::error::{ApiError, Kind};
use crate::inference::model::ModelInfo;
use crate::inference::rule::DEVIATIONS;
use crate::pictures::maps::{Reading, Source};
use crate::pictures::pooling::{Pool, Pooling};
use crate::pictures::render::{Drawing, Masks, View};
use crate::pictures::window::Window;

/// Longest side of a drawn picture, unless asked otherwise, and the most that can be asked.
const SIDE: (u32, u32) = (1024, 4096);
const OPACITY: f32 = 0.6;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbedQuery {
    /// Name of a model; the first without it.
    pub(super) model: Option<String>,
    /// Which part of the picture the model sees: `crop`, the contract's, or `whole`, all of it, squashed to a square.
    #[param(inline)]
    pub(super) window: Option<Window>,
    /// Which cells of the feature map make the embedding.
    #[param(inline)]
    pool: Option<Pool>,
    /// Of the foreground, in standard deviations from the mean; with `pool=foreground`.
    #[param(minimum = -100, maximum = 100)]
    threshold: Option<f64>,
    /// How the answer is written; before `Accept`.
    #[param(inline)]
    pub(super) format: Option<Media>,
}

impl EmbedQuery {
    pub(super) fn pooling(&self, model: &ModelInfo) -> Result<Pooling, ApiError> {
        let pool = self.pool.unwrap_or_default();
        if self.threshold.is_some() && pool == Pool::All {
            let error = ApiError::new(Kind::BadRequest, "`threshold` has no effect on this embedding");
            return Err(error.hint("it requires `pool=foreground`"));
        }
        pooling(pool, self.threshold, model)
    }
}

/// By the model's own rule and nothing else: an embedding does not depend on how its map is shown.
fn pooling(pool: Pool, threshold: Option<f64>, model: &ModelInfo) -> Result<Pooling, ApiError> {
    Ok(Pooling { pool, deviations: deviations(threshold)?.unwrap_or(model.rule.deviations) })
}

/// The threshold of the foreground, in standard deviations from the mean.
fn deviations(asked: Option<f64>) -> Result<Option<f64>, ApiError> {
    asked.map(|asked| within("threshold", asked, DEVIATIONS)).transpose()
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AnalyzeQuery {
    /// Name of a model; the first without it.
    pub(super) model: Option<String>,
    /// Which part of the picture the model sees: `crop`, the contract's, or `whole`, all of it, squashed to a square.
    #[param(inline)]
    window: Option<Window>,
    /// Which map: `default`, by the model's own rule, or `sum`, the channel sum.
    #[param(inline)]
    map: Option<Source>,
    /// Average the map with the mirror image's, and answer how far both agree.
    mirror: Option<bool>,
    /// Give the map the picture's edges: boxes, masks and drawings are of pixels, not of cells.
    refine: Option<bool>,
    /// What a PNG shows.
    #[param(inline)]
    view: Option<View>,
    /// Of the overlay.
    #[param(minimum = 0, maximum = 1)]
    opacity: Option<f32>,
    /// Longest side of overlay and heat map in pixels.
    #[param(minimum = 1, maximum = 4096)]
    max_side: Option<u32>,
    /// Of the foreground, in standard deviations from the mean; the rule of the map has a default.
    #[param(minimum = -100, maximum = 100)]
    threshold: Option<f64>,
    /// Forms of the mask: a list of `png`, `rle`, `polygons`, or `none`.
    #[param(pattern = "^(none|(png|rle|polygons)(,(png|rle|polygons))*)$")]
    mask: Option<String>,
    /// Which cells of the feature map make the embedding.
    #[param(inline)]
    pool: Option<Pool>,
    /// Neighbours from the gallery.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) k: Option<usize>,
    /// How the answer is written; before `Accept`.
    #[param(inline)]
    format: Option<Media>,
}

impl AnalyzeQuery {
    pub(super) fn window(&self) -> Window {
        self.window.unwrap_or_default()
    }

    pub(super) fn pooling(&self, model: &ModelInfo) -> Result<Pooling, ApiError> {
        pooling(self.pool.unwrap_or_default(), self.threshold, model)
    }

    pub(super) fn saliency(&self, model: &ModelInfo) -> Result<(Reading, Masks), ApiError> {
        let masks = self.mask.as_deref().map(str::parse::<Masks>).transpose();
        let masks = masks.map_err(|message| ApiError::new(Kind::BadRequest, message))?.unwrap_or_default();
        let reading = Reading::new(self.map.unwrap_or_default(), deviations(self.threshold)?, model)?;
        let (mirror, refine) = (self.mirror.unwrap_or(false), self.refine.unwrap_or(false));
        Ok((Reading { mirror, refine, ..reading }, masks))
    }

    pub(super) fn form(&self, headers: &HeaderMap, offered: &[Media]) -> Result<Form, ApiError> {
        let drawing = Drawing {
            view: self.view.unwrap_or_default(),
            opacity: within("opacity", self.opacity.unwrap_or(OPACITY), (0.0, 1.0))?,
            max_side: within("max_side", self.max_side.unwrap_or(SIDE.0), (1, SIDE.1))?,
        };
        Ok(match format(self.format, headers, offered)? {
            Media::Json => Form::Json,
            Media::Npy => Form::Npy,
            Media::Png => Form::Png(drawing),
        })
    }
}

/// Parameters of `/v1/analyze` that `/v1/saliency` refuses, and does not document.
const NOT_OF_SALIENCY: [&str; 2] = ["k", "pool"];

/// [`AnalyzeQuery`] without them.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct SaliencyQuery(AnalyzeQuery);

impl SaliencyQuery {
    /// Fails where one of the others is given: who sends it expects something of it.
    pub(super) fn own(&self) -> Result<&AnalyzeQuery, ApiError> {
        for (name, given) in NOT_OF_SALIENCY.into_iter().zip([self.0.k.is_some(), self.0.pool.is_some()]) {
            if given {
                let message = format!("`{name}` is not a parameter of /v1/saliency");
                return Err(ApiError::new(Kind::BadRequest, message).hint("/v1/analyze accepts it"));
            }
        }
        Ok(&self.0)
    }
}

impl IntoParams for SaliencyQuery {
    fn into_params(place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let all = AnalyzeQuery::into_params(place);
        all.into_iter().filter(|p| !NOT_OF_SALIENCY.contains(&p.name.as_str())).collect()
    }
}
