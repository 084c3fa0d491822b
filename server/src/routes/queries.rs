//! What the address of `/v1/embed`, `/v1/saliency` and `/v1/analyze` can ask for.

use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::negotiate::{Form, JsonOrNpy, JsonOrPng, Media, format, within};
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
    #[param(inline, value_type = Option<JsonOrNpy>)]
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

/// A query of a route that shows maps: what all of them take, and what is the route's own. Each route has a struct of its
/// own, so that it documents what it takes and refuses all else; a macro, since serde's `flatten` reads no numbers from a
/// query string.
macro_rules! map_query {
    ($name:ident, formats: $formats:ident, own: { $($own:tt)* }) => {
        #[derive(Deserialize, IntoParams)]
        #[into_params(parameter_in = Query)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            /// Name of a model; the first without it.
            pub(super) model: Option<String>,
            /// Which part of the picture the model sees: `crop`, the contract's, or `whole`, all of it, squashed to a
            /// square.
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
            $($own)*
            /// How the answer is written; before `Accept`.
            #[param(inline, value_type = Option<$formats>)]
            format: Option<Media>,
        }

        impl $name {
            pub(super) fn window(&self) -> Window {
                self.window.unwrap_or_default()
            }

            pub(super) fn saliency(&self, model: &ModelInfo) -> Result<(Reading, Masks), ApiError> {
                let reading = Reading::new(self.map.unwrap_or_default(), deviations(self.threshold)?, model)?;
                let (mirror, refine) = (self.mirror.unwrap_or(false), self.refine.unwrap_or(false));
                Ok((Reading { mirror, refine, ..reading }, masks(self.mask.as_deref())?))
            }

            pub(super) fn form(&self, headers: &HeaderMap, offered: &[Media]) -> Result<Form, ApiError> {
                let drawing = drawing(self.view, self.opacity, self.max_side)?;
                Ok(match format(self.format, headers, offered)? {
                    Media::Json => Form::Json,
                    Media::Npy => Form::Npy,
                    Media::Png => Form::Png(drawing),
                })
            }
        }
    };
}

map_query!(SaliencyQuery, formats: Media, own: {});

map_query!(AnalyzeQuery, formats: JsonOrPng, own: {
    /// Which cells of the feature map make the embedding.
    #[param(inline)]
    pool: Option<Pool>,
    /// Neighbours from the gallery.
    #[param(minimum = 1, maximum = 1000)]
    pub(super) k: Option<usize>,
});

impl AnalyzeQuery {
    pub(super) fn pooling(&self, model: &ModelInfo) -> Result<Pooling, ApiError> {
        pooling(self.pool.unwrap_or_default(), self.threshold, model)
    }
}

/// The forms of the mask that a list names.
fn masks(asked: Option<&str>) -> Result<Masks, ApiError> {
    let masks = asked.map(str::parse::<Masks>).transpose();
    Ok(masks.map_err(|message| ApiError::new(Kind::BadRequest, message))?.unwrap_or_default())
}

fn drawing(view: Option<View>, opacity: Option<f32>, max_side: Option<u32>) -> Result<Drawing, ApiError> {
    Ok(Drawing {
        view: view.unwrap_or_default(),
        opacity: within("opacity", opacity.unwrap_or(OPACITY), (0.0, 1.0))?,
        max_side: within("max_side", max_side.unwrap_or(SIDE.0), (1, SIDE.1))?,
    })
}
