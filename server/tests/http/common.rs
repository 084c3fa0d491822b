//! What the suites share: states with a fake or a real model, requests, and pictures.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use occlude_serve::encoder::{Loaded, Options, load};
use occlude_serve::{AppState, Encode, Expected, Limits, Model, ModelInfo, Sessions, app};
use serde_json::Value;
use tower::ServiceExt;

use crate::fake::Fake;

pub(crate) const FINGERPRINT: &str = "f00dfeed";

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn options() -> Options {
    Options { sessions: Sessions::on_cpu(1), max_batch: 4, name: "tiny".to_owned() }
}

/// A state whose model is the fake encoder with a 32-pixel contract.
pub(crate) fn fake_state(limits: &Limits, fakes: Vec<Fake>) -> AppState {
    let state = AppState::new(limits.clone(), Expected::default());
    state.set_model(fake_model(&state, limits, fakes));
    state
}

pub(crate) fn fake_model(state: &AppState, limits: &Limits, fakes: Vec<Fake>) -> Model {
    named_model("fake", FINGERPRINT, state, limits, fakes)
}

pub(crate) fn named_model(
    name: &str,
    fingerprint: &str,
    state: &AppState,
    limits: &Limits,
    fakes: Vec<Fake>,
) -> Model {
    let info = Fake::info(name, fingerprint);
    let encoders = fakes.into_iter().map(|f| Box::new(f) as Box<dyn Encode>).collect();
    Model::start(info, encoders, limits, &Arc::clone(state.metrics()))
}

/// A model of the fake encoder whose fingerprint does not tell all that changes its numbers.
pub(crate) fn precise_model(name: &str, identity: &str, state: &AppState, limits: &Limits) -> Model {
    let info = ModelInfo { identity: identity.to_owned(), ..Fake::info(name, FINGERPRINT) };
    Model::start(info, vec![Box::new(Fake::default())], limits, &Arc::clone(state.metrics()))
}

/// A state with the fixture model in ONNX Runtime.
pub(crate) fn onnx_state(name: &str) -> AppState {
    let Loaded { info, encoders, .. } = load(&fixture(name), &options()).unwrap();
    let state = AppState::new(Limits::default(), Expected::default());
    let encoders = encoders.into_iter().map(|e| Box::new(e) as Box<dyn Encode>).collect();
    state.set_model(Model::start(info, encoders, &Limits::default(), &Arc::clone(state.metrics())));
    state
}

pub(crate) fn fake_app() -> Router {
    app(fake_state(&Limits::default(), vec![Fake::default()]))
}

/// The picture that `make_models.py` calls `ramp`, of any size.
pub(crate) fn ramp(width: u32, height: u32) -> Vec<u8> {
    let pixel = |i: u32| {
        let (x, y) = (i % width, i / width);
        (0..3).map(move |c| ((x * 7 + y * 3 + c * 50) % 256) as u8)
    };
    (0..width * height).flat_map(pixel).collect()
}

pub(crate) fn png_of(width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    out
}

/// A PNG of one colour.
pub(crate) fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    png_of(width, height, &colour.repeat((width * height) as usize))
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The error's code; checks the shape that all errors have.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error.as_object().unwrap().len(), 4, "{json}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{json}");
        assert!(error["hint"].is_string() || error["hint"].is_null(), "{json}");
        assert_eq!(error["request_id"], self.header("x-request-id"), "{json}");
        // Visitors cannot set the operator's flags.
        assert!(!json.to_string().contains("`--"), "{json}");
        assert_eq!(self.header("content-type"), "application/json");
        error["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status, headers: head.headers, bytes }
}

pub(crate) fn request(
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).unwrap()
}

pub(crate) async fn post(app: &Router, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
    send(app, request("POST", uri, headers, body)).await
}

pub(crate) async fn get(app: &Router, uri: &str) -> Answer {
    send(app, request("GET", uri, &[], Body::empty())).await
}

pub(crate) async fn get_with(app: &Router, uri: &str, headers: &[(&str, &str)]) -> Answer {
    send(app, request("GET", uri, headers, Body::empty())).await
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A form whose parts have these headers and bodies, and its content type.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let part =
        |(head, body): &(&str, &[u8])| [b"--XX\r\n", head.as_bytes(), b"\r\n\r\n", body, b"\r\n"].concat();
    let body = [parts.iter().flat_map(part).collect(), b"--XX--\r\n".to_vec()].concat();
    ("multipart/form-data; boundary=XX".to_owned(), body)
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    assert_eq!(a.len(), b.len());
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
