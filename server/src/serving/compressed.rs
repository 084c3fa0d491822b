//! Answers in gzip, for clients that ask for it: a layer below those that count and log.
//!
//! The layer of `tower-http` compresses on the threads that serve connections, and would bring a second library for what
//! `flate2` does.

use std::io::Write;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Body as _;

use super::parameters::{Parameters, split};
use super::state::AppState;

/// Bytes below which nothing is gained.
const LEAST: u64 = 4 << 10;

/// Compresses answers of JSON that are worth it.
pub(super) async fn compressed(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let wanted = request.method() != Method::HEAD && takes_gzip(request.headers());
    let mut response = next.run(request).await;
    if !is_worth_it(&response) {
        return response;
    }
    // Caches must not give one client what the other asked for.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !wanted {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // Made as a whole by its handler: there is nothing to wait for, and nothing that can fail.
    let Ok(plain) = to_bytes(body, usize::MAX).await else {
        return Response::from_parts(head, Body::empty());
    };
    let small = {
        let plain = plain.clone();
        state.pooled(move || gzip(&plain)).await
    };
    match small {
        Ok(Some(small)) if small.len() < plain.len() => {
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(head, Body::from(small))
        }
        _ => Response::from_parts(head, Body::from(plain)),
    }
}

/// Numbers as text shrink; everything else that the server sends is compressed already, or binary.
fn is_worth_it(response: &Response) -> bool {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|v| v == "application/json");
    let coded = response.headers().contains_key(header::CONTENT_ENCODING);
    json && !coded && response.body().size_hint().exact().is_some_and(|bytes| bytes >= LEAST)
}

fn gzip(plain: &[u8]) -> Option<Vec<u8>> {
    // The fastest level: the client waits for it.
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 2), Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok()
}

/// Whether `Accept-Encoding` has gzip, by name or by `*`, and does not weigh it 0 (RFC 9110, 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings: Vec<Parameters> =
        lines.flat_map(|v| split(v.as_bytes(), b',')).map(Parameters::parse).collect();
    let named = codings.iter().find(|c| matches!(c.essence.as_str(), "gzip" | "x-gzip"));
    let coding = named.or_else(|| codings.iter().find(|c| c.essence == "*"));
    let weight = |c: &Parameters| {
        c.get("q").map_or(Some(1.0), |q| std::str::from_utf8(q).ok()?.trim().parse::<f64>().ok())
    };
    coding.and_then(weight).is_some_and(|weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn gzip_is_taken_as_clients_say() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        for yes in ["gzip", "GZIP", "deflate, gzip;q=0.5", "x-gzip", "*", "br, *;q=0.1", "*;q=0, gzip"] {
            assert!(takes(yes), "{yes}");
        }
        for no in ["", "br", "identity", "gzip;q=0", "*;q=0", "gzip;q=0, *", "gzip;q=x", "gzipped"] {
            assert!(!takes(no), "{no}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let plain = b"0.0153, -0.0441, ".repeat(1000);
        let small = gzip(&plain).unwrap();
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(small.as_slice()).read_to_end(&mut back).unwrap();
        assert!(back == plain && small.len() < plain.len() / 10);
    }
}
