//! Answers in gzip.

use std::io::Read;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::common::*;

/// Compressed answers are the same answers; small ones, pictures and arrays stay as they are.
#[tokio::test]
async fn answers_are_compressed_for_those_who_ask() {
    let app = fake_app();
    let body = json!({"images": vec![STANDARD.encode(png(40, 40, [3, 4, 5])); 32]}).to_string();
    let kind = ("content-type", "application/json");
    let plain = post(&app, "/v1/analyze", &[kind, ("x-request-id", "a")], body.clone()).await;
    assert_eq!((plain.header("content-encoding"), plain.header("vary")), ("", "accept-encoding"));
    let wanted = [kind, ("x-request-id", "a"), ("accept-encoding", "br, gzip")];
    let small = post(&app, "/v1/analyze", &wanted, body.clone()).await;
    assert_eq!((small.status, small.header("content-encoding")), (StatusCode::OK, "gzip"));
    let mut whole = Vec::new();
    flate2::read::GzDecoder::new(small.bytes.as_slice()).read_to_end(&mut whole).unwrap();
    assert!(whole == plain.bytes && small.bytes.len() < whole.len() / 2);
    let gzip = [("accept-encoding", "gzip")];
    let picture = png(40, 40, [3, 4, 5]);
    for (path, sent) in [("/v1/embed", picture.clone()), ("/v1/saliency?format=png", picture.clone())] {
        let answer = post(&app, path, &gzip, sent).await;
        assert_eq!((answer.status, answer.header("content-encoding")), (StatusCode::OK, ""), "{path}");
    }
    let refused = post(&app, "/v1/analyze", &[kind, ("accept-encoding", "gzip")], "{").await;
    assert_eq!(refused.code(), "bad_request", "errors are small");
}
