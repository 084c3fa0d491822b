//! Receiving bodies within bounds of size and time.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::bounds::too_large;
use super::coding::Coding;
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::observe::metrics::Stage;
use crate::serving::admission::Admitted;
use crate::serving::clock;
use crate::serving::state::AppState;

/// Receives the whole body within the limits of size and time, and unpacks it where it is compressed.
pub(super) async fn whole(
    state: &AppState,
    admitted: &mut Admitted,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, ApiError> {
    let limit = state.limits().max_body;
    // Before a byte is read: an announced size, or coding, costs nothing.
    check_length(headers, limit)?;
    let coding = Coding::of(headers)?;
    let start = Instant::now();
    let mut bytes = clock::stopped(receive(state, admitted, body)).await?;
    if let Some(coding) = coding.filter(|_| !bytes.is_empty()) {
        // What it grows to is known, and counted, only now; the decoders bound how many grow at once.
        bytes = state.pooled(move || coding.decode(&bytes, limit)).await??;
        admitted.bytes(bytes.len())?;
    }
    state.metrics().observe(Stage::Read, None, start.elapsed());
    Ok(bytes)
}

fn check_length(headers: &HeaderMap, limit: usize) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|l| l > limit as u64) { Err(too_large(limit)) } else { Ok(()) }
}

/// Collects the body, taking room for every piece before it is kept. However large it is, each time of `read_timeout`
/// has to bring what `min_rate` asks for: a slow phone gets through, and whoever only keeps a connection busy does not.
async fn receive(state: &AppState, admitted: &mut Admitted, mut body: Body) -> Result<Bytes, ApiError> {
    let Limits { max_body, read_timeout, min_rate, .. } = *state.limits();
    let read_timeout = read_timeout.time();
    let least = ((min_rate as f64 * read_timeout.as_secs_f64()) as usize).max(1);
    let mut whole = BytesMut::new();
    let (mut end, mut before) = (Instant::now() + read_timeout, 0);
    loop {
        let frame = match tokio::time::timeout_at(end.into(), body.frame()).await {
            Ok(frame) => frame,
            Err(_) if whole.len() - before >= least => {
                (end, before) = (end + read_timeout, whole.len());
                continue;
            }
            Err(_) => return Err(too_slow(whole.len() - before, read_timeout)),
        };
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        let broken = |e| ApiError::new(Kind::BadRequest, format!("the body was interrupted: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if whole.len() + data.len() > max_body {
            return Err(too_large(max_body));
        }
        admitted.bytes(data.len())?;
        whole.extend_from_slice(&data);
    }
}

fn too_slow(bytes: usize, time: Duration) -> ApiError {
    let message = format!("the body arrived too slowly: {bytes} bytes in {} s", time.as_secs_f64());
    ApiError::new(Kind::ReadTimeout, message).hint("send a smaller picture, or try a faster connection")
}
