//! From uploaded bytes to what the model says about them.

use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use occlude_preprocess::{Preprocess, Rgb, decode, dimensions};

use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::inference::batcher::{Announced, Reply};
use crate::inference::encode::{Crop, EncodeError, Encoded, NOT_FINITE, Wants};
use crate::inference::model::Model;
use crate::observe::metrics::Stage;
use crate::observe::telemetry;
use crate::pictures::cache::{Key, Row};
use crate::pictures::facts::Facts;
use crate::pictures::window::Window;
use crate::serving::admission::{Admitted, overloaded};
use crate::serving::state::AppState;

/// One file of a request.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    /// Which of the request's pictures it is, from 0.
    pub(crate) place: usize,
    /// File name, where the client gave one.
    pub(crate) name: Option<String>,
    /// The file; empty until it is fetched, where there is an address.
    pub(crate) bytes: Bytes,
    /// Where the client says that it lies.
    pub(crate) url: Option<String>,
}

impl Upload {
    /// An error about this picture; where there are several, it says about which.
    fn error(&self, several: bool, error: ApiError) -> ApiError {
        if several { error.at(self.place, self.name.as_deref()) } else { error }
    }
}

/// How a picture is looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) window: Window,
    /// Encode its mirror image, too.
    pub(crate) mirror: bool,
    /// Keep its colours for refining the map.
    pub(crate) guide: bool,
    /// What the model is to give besides embedding and saliency.
    pub(crate) wants: Wants,
}

/// A picture with the model's answer.
pub(crate) struct Answer {
    pub(crate) upload: Upload,
    pub(crate) facts: Facts,
    pub(crate) encoded: Encoded,
    /// The answer for the mirror image, where it was asked for.
    pub(crate) mirrored: Option<Encoded>,
    /// The part of the picture that the model saw, small; where it was asked for.
    pub(crate) guide: Option<Rgb>,
}

/// A picture on its way into the model.
struct Prepared {
    facts: Facts,
    /// The picture, then its mirror image if that is wanted.
    crops: Vec<Crop>,
    guide: Option<Rgb>,
}

/// Decodes and encodes all pictures of a request side by side; the first failure ends them all.
pub(crate) async fn encode_all(
    state: &AppState,
    model: &Model,
    admitted: &mut Admitted,
    uploads: Vec<Upload>,
) -> Result<Vec<Answer>, ApiError> {
    encode_all_as(state, model, admitted, uploads, Look::default()).await
}

/// [`encode_all`] in another way than the contract's own.
pub(crate) async fn encode_all_as(
    state: &AppState,
    model: &Model,
    admitted: &mut Admitted,
    mut uploads: Vec<Upload>,
    look: Look,
) -> Result<Vec<Answer>, ApiError> {
    admitted.pictures(uploads.len())?;
    // A picture in another place than the first is one of several points, whose vectors may be there already.
    let several = uploads.len() > 1 || uploads.iter().any(|u| u.place > 0);
    fetch_all(state, admitted, &mut uploads, several).await?;
    admitted.pixels(pixels(state.limits(), &uploads, several)?)?;
    try_join_all(uploads.into_iter().map(|upload| encode_one(state, model, upload, (several, look)))).await
}

/// Fetches those pictures that the client only named; their bytes count as those of a body do, while they are read.
async fn fetch_all(
    state: &AppState,
    admitted: &Admitted,
    uploads: &mut [Upload],
    several: bool,
) -> Result<(), ApiError> {
    let wanted = uploads.iter_mut().filter(|u| u.url.is_some());
    let got = wanted.map(|upload| async move {
        let (url, room) = (upload.url.as_deref().unwrap_or_default(), admitted.buffered());
        let got = match state.fetcher() {
            Some(fetcher) => fetcher.get(url, move |bytes| room.take(bytes)).await,
            None => Err(ApiError::new(Kind::UrlRefused, "web addresses are not fetched")
                .hint("send the picture itself, as base64 or as a body")),
        };
        upload.bytes = got.map_err(|e| upload.error(several, e))?.into();
        Ok::<_, ApiError>(())
    });
    try_join_all(got).await.map(drop)
}

/// Pixels of all pictures, from their headers; each within the limit, and all together such that an empty server
/// could take them.
fn pixels(limits: &Limits, uploads: &[Upload], several: bool) -> Result<u64, ApiError> {
    let decode = limits.decode();
    let mut total = 0u64;
    for upload in uploads {
        let size = dimensions(&upload.bytes, &decode);
        let (w, h) = size.map_err(|e| upload.error(several, ApiError::decode(&e)))?;
        total += u64::from(w) * u64::from(h);
    }
    if total > limits.max_queue_pixels {
        let most = limits.max_queue_pixels;
        let message =
            format!("the pictures have {total} pixels together, at most {most} are accepted at once");
        let error = ApiError::new(Kind::TooManyImages, message);
        return Err(error.hint("split the request"));
    }
    Ok(total)
}

/// One picture; one that was asked about before costs its hash, where answers are kept.
async fn encode_one(
    state: &AppState,
    model: &Model,
    upload: Upload,
    (several, look): (bool, Look),
) -> Result<Answer, ApiError> {
    // Colours for refining are kept nowhere: they would be larger than all the rest.
    let Some(cache) = state.cache().filter(|_| !look.guide) else {
        return encode_anew(state, model, upload, (several, look)).await;
    };
    let (start, bytes, identity) = (Instant::now(), upload.bytes.clone(), model.info.identity.clone());
    let Look { window, mirror, wants, .. } = look;
    let key = state.pooled(move || Key::of(&identity, window, mirror, wants, &bytes)).await?;
    let known = cache.get(&key);
    state.metrics().looked_up(&model.info.name, known.is_some(), start.elapsed());
    if let Some(row) = known {
        let Row { facts, encoded, mirrored } = Row::clone(&row);
        return Ok(Answer { upload, facts, encoded, mirrored, guide: None });
    }
    let answer = encode_anew(state, model, upload, (several, look)).await?;
    let Answer { facts, encoded, mirrored, .. } = &answer;
    cache.put(key, Row { facts: facts.clone(), encoded: encoded.clone(), mirrored: mirrored.clone() });
    Ok(answer)
}

async fn encode_anew(
    state: &AppState,
    model: &Model,
    upload: Upload,
    (several, look): (bool, Look),
) -> Result<Answer, ApiError> {
    let announced = model.batcher.announce_request();
    let (bytes, contract) = (upload.bytes.clone(), model.info.contract.clone());
    let limits = state.limits().decode();
    let due = announced.due();
    let prepare = move || {
        // it may have waited for the pool as well
        let late = due.is_some_and(|due| due < Instant::now());
        (!late).then(|| prepare(&bytes, &contract, &limits, look))
    };
    let prepared = state.on_pool(Stage::Decode, Some(&model.info.name), prepare).await?;
    let prepared = prepared
        .ok_or_else(|| overloaded(state))?
        .map_err(|e| upload.error(several, ApiError::decode(&e)))?;
    let Prepared { facts, crops, guide } = prepared;
    let replies = announced.submit_together(crops, look.wants).map_err(|_| overloaded(state))?;
    let encoded = try_join_all(replies.into_iter().map(|reply| answered(state, reply))).await?;
    let encoded = encoded.into_iter().map(finite).collect::<Result<Vec<_>, _>>();
    let mut encoded = encoded.map_err(|e| upload.error(several, e))?.into_iter();
    let first = encoded.next().ok_or_else(|| failed("the model returned no result"))?;
    Ok(Answer { upload, facts, encoded: first, mirrored: encoded.next(), guide })
}

/// Encodes pictures that already have the contract's crop, as one request.
pub(crate) async fn encode_crops(
    state: &AppState,
    model: &Model,
    admitted: &mut Admitted,
    crops: Vec<Crop>,
) -> Result<Vec<Encoded>, ApiError> {
    admitted.pictures(crops.len())?;
    let side = u64::from(model.info.contract.crop);
    admitted.pixels(crops.len() as u64 * side * side)?;
    let announced: Vec<_> = crops.into_iter().map(|crop| (model.batcher.announce_request(), crop)).collect();
    let submit = |(announced, crop): (Announced, Crop)| announced.submit(crop).map_err(|_| overloaded(state));
    let replies = announced.into_iter().map(submit).collect::<Result<Vec<_>, _>>()?;
    let several = replies.len() > 1;
    let named = |(place, reply)| async move {
        finite(answered(state, reply).await?).map_err(|e| if several { e.at(place, None) } else { e })
    };
    try_join_all(replies.into_iter().enumerate().map(named)).await
}

/// Fails as a batch does: it is not known because of which of its pictures.
async fn answered(state: &AppState, reply: Reply) -> Result<Encoded, ApiError> {
    let start = Instant::now();
    let reply = reply.await;
    telemetry::stage("queue and encode", start.elapsed());
    let encoded = reply.map_err(|_| failed("the worker has stopped"))?;
    encoded.map_err(|e| match e {
        EncodeError::Late => overloaded(state),
        e => failed(e.to_string()),
    })
}

fn finite(encoded: Encoded) -> Result<Encoded, ApiError> {
    let sum = encoded.sum.iter().flat_map(|sum| &sum.values);
    if encoded.embedding.iter().chain(&encoded.saliency).chain(sum).all(|v| v.is_finite()) {
        return Ok(encoded);
    }
    Err(failed(NOT_FINITE))
}

fn failed(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::EncoderFailed, message)
}

fn prepare(
    bytes: &[u8],
    contract: &Preprocess,
    limits: &occlude_preprocess::Limits,
    look: Look,
) -> Result<Prepared, occlude_preprocess::DecodeError> {
    let decoded = decode(bytes, limits)?;
    let pixels = look.window.pixels(contract, &decoded.image);
    // What the model saw, mirrored: the mirror image's own crop may lie a pixel beside it.
    let mirrored = look.mirror.then(|| mirrored(&pixels));
    let guide = look.guide.then(|| look.window.guide(contract, &decoded.image));
    let crops = [Some(pixels), mirrored].into_iter().flatten().map(Crop::from).collect();
    Ok(Prepared { facts: Facts::from(&decoded), crops, guide })
}

/// Columns from right to left.
fn mirrored(image: &Rgb) -> Rgb {
    let row = |row: &[u8]| row.as_chunks::<3>().0.iter().rev().flatten().copied().collect::<Vec<u8>>();
    let data = image.data.chunks_exact((3 * image.width.max(1)) as usize).flat_map(row).collect();
    Rgb { data, ..*image }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_images_have_their_columns_from_right_to_left() {
        let image = Rgb { width: 2, height: 2, data: (0..12).collect() };
        assert_eq!(mirrored(&image).data, [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
        assert_eq!(mirrored(&mirrored(&image)), image);
    }
}
