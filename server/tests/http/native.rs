//! What the native routes can be asked for: other forms of the answer, of the mask, and other thresholds.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use occlude_preprocess::{Preprocess, decode};
use occlude_saliency::{Map, foreground_above, foreground_pooled, threshold_at};
use occlude_serve::{AppState, Encode, Expected, Limits, Model, ModelInfo, app};
use serde_json::{Value, json};

use crate::common::*;
use crate::fake::Fake;

/// Four quarters of different brightness, as the fake sees them.
fn quarters() -> Vec<u8> {
    let at = |i: u32| match (i % 64 >= 32, i / 64 >= 32) {
        (false, false) => 40,
        (true, false) => 0,
        (false, true) => 10,
        (true, true) => 240,
    };
    png_of(64, 64, &(0..64 * 64).flat_map(|i| [at(i); 3]).collect::<Vec<u8>>())
}

async fn refused(app: &Router, uri: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
    let answer = post(app, uri, headers, quarters()).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    (answer.status.as_u16(), answer.code(), message)
}

async fn saliency(app: &Router, uri: &str) -> Value {
    let answer = post(app, uri, &[], quarters()).await;
    assert_eq!(answer.status, StatusCode::OK, "{uri}");
    answer.json()["results"][0]["saliency"].clone()
}

/// Shape and values as numpy reads them.
fn numpy(file: &[u8]) -> (Vec<usize>, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    std::fs::write(&path, file).unwrap();
    let script = "import json, sys, numpy as np; a = np.load(sys.argv[1], allow_pickle=False); \
                  assert a.dtype == np.dtype('<f4') and a.flags['C_CONTIGUOUS'], a.dtype; \
                  print(json.dumps([list(a.shape), [float(v) for v in a.ravel()]]))";
    let python =
        std::env::var("OCCLUDE_PYTHON").expect("set by `.cargo/config.toml` after `cargo xtask setup`");
    let output = Command::new(python).args(["-c", script]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shape = read[0].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize);
    (shape.collect(), floats(&read[1]))
}

#[tokio::test]
async fn numpy_reads_what_the_json_says() {
    let app = fake_app();
    let pictures = [quarters(), png(50, 40, [200, 20, 20])];
    let encoded = pictures.each_ref().map(|p| base64(p));
    let body = json!({ "images": encoded }).to_string();
    let kind = ("content-type", "application/json");
    let npy = ("accept", "application/x-npy");
    for (uri, of, shape) in [
        ("/v1/embed", "/embedding", vec![2, Fake::DIM]),
        ("/v1/saliency", "/saliency/grid/values", vec![2, 2, 2]),
    ] {
        let told = post(&app, uri, &[kind], body.clone()).await.json();
        let results = told["results"].as_array().unwrap();
        let expected: Vec<f32> = results.iter().flat_map(|r| floats(r.pointer(of).unwrap())).collect();
        let answer = post(&app, uri, &[kind, npy], body.clone()).await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/x-npy"));
        assert_eq!(answer.header("x-occlude-fingerprint"), FINGERPRINT);
        assert_eq!(numpy(&answer.bytes), (shape, expected), "{uri}");
        let by_query = post(&app, &format!("{uri}?format=npy"), &[kind], body.clone()).await;
        assert_eq!(by_query.bytes, answer.bytes);
    }
}

#[tokio::test]
async fn the_format_can_be_in_the_query() {
    let app = fake_app();
    let drawn = post(&app, "/v1/analyze?format=png&view=mask", &[], quarters()).await;
    assert_eq!((drawn.status, drawn.header("content-type")), (StatusCode::OK, "image/png"));
    let accept = [("accept", "image/png")];
    let told = post(&app, "/v1/saliency?format=json", &accept, quarters()).await;
    assert!(told.json()["results"][0]["saliency"].is_object());
    let (status, code, _) = refused(&app, "/v1/analyze?format=npy", &[]).await;
    assert_eq!((status, code.as_str()), (406, "not_acceptable"), "two arrays are not one");
    let npy = [("accept", "application/x-npy")];
    assert_eq!(refused(&app, "/v1/analyze", &npy).await.1, "not_acceptable");
    assert_eq!(refused(&app, "/v1/embed?format=png", &[]).await.1, "not_acceptable");
    assert_eq!(refused(&app, "/v1/embed?format=xml", &[]).await.1, "bad_request");
}

#[tokio::test]
async fn forms_of_the_mask_are_chosen() {
    let app = fake_app();
    let names = |s: &Value| s["mask"].as_object().map(|m| m.keys().cloned().collect::<BTreeSet<_>>());
    let found = |list: &[&str]| Some(list.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>());
    assert_eq!(names(&saliency(&app, "/v1/saliency").await), found(&["png", "rle"]));
    assert_eq!(names(&saliency(&app, "/v1/analyze?mask=rle").await), found(&["rle"]));
    assert_eq!(names(&saliency(&app, "/v1/saliency?mask=none").await), None);
    let all = saliency(&app, "/v1/saliency?mask=png,rle,polygons").await;
    assert_eq!(names(&all), found(&["png", "polygons", "rle"]));
    let polygons = all["mask"]["polygons"].as_array().unwrap();
    assert!(
        polygons.iter().all(|p| p.as_array().unwrap().len() % 2 == 0 && p.as_array().unwrap().len() >= 6)
    );
    let (status, code, message) = refused(&app, "/v1/saliency?mask=svg", &[]).await;
    assert_eq!((status, code.as_str()), (400, "bad_request"));
    assert!(message.contains("`polygons`"), "{message}");
}

#[tokio::test]
async fn the_threshold_is_in_standard_deviations() {
    let app = fake_app();
    let usual = saliency(&app, "/v1/saliency").await;
    assert_eq!(usual["deviations"], -0.6);
    assert_eq!(saliency(&app, "/v1/saliency?threshold=-0.6").await, usual);
    let values = floats(&usual["grid"]["values"]);
    for deviations in [-1.5, 0.0, 1.2] {
        let found = saliency(&app, &format!("/v1/saliency?threshold={deviations}")).await;
        let threshold = found["threshold"].as_f64().unwrap();
        let above = values.iter().filter(|v| f64::from(**v) >= threshold).count();
        assert_eq!(found["foreground_ratio"], above as f64 / 4.0, "at {deviations}");
    }
    // The brightest quarter alone, then nothing.
    let one = saliency(&app, "/v1/saliency?threshold=1").await;
    assert_eq!((one["boxes"].as_array().unwrap().len(), &one["boxes"][0]["ratio"]), (1, &json!(0.25)));
    assert_eq!(one["boxes"][0]["mean"].as_f64().unwrap() as f32, values[3]);
    let side = |b: &Value, key: &str| b[key].as_f64().unwrap();
    for key in ["x", "y", "width", "height"] {
        assert_eq!(side(&one["box"], key), side(&one["boxes"][0], key), "the first of the boxes is the box");
    }
    let none = saliency(&app, "/v1/saliency?threshold=9&mask=polygons").await;
    assert_eq!(
        (&none["box"], &none["boxes"], &none["mask"]),
        (&Value::Null, &json!([]), &json!({"polygons": []}))
    );
    let drawn = post(&app, "/v1/saliency?threshold=9&format=png&view=mask", &[], quarters()).await;
    assert!(decode(&drawn.bytes, &Default::default()).unwrap().image.data.iter().all(|v| *v == 0));
    for wrong in ["nan", "inf", "200", "x"] {
        assert_eq!(refused(&app, &format!("/v1/saliency?threshold={wrong}"), &[]).await.0, 400, "{wrong}");
    }
}

#[tokio::test]
async fn two_parts_have_two_boxes() {
    // The two bright quarters touch at a corner only.
    let app = fake_app();
    let at = |i: u32| if (i % 64 >= 32) == (i / 64 >= 32) { 240 } else { 5 };
    let picture = png_of(64, 64, &(0..64 * 64).flat_map(|i| [at(i); 3]).collect::<Vec<u8>>());
    let answer = post(&app, "/v1/saliency?mask=polygons", &[], picture).await.json();
    let found = &answer["results"][0]["saliency"];
    assert_eq!(found["boxes"].as_array().unwrap().len(), 2);
    assert_eq!(found["mask"]["polygons"].as_array().unwrap().len(), 2);
    let ratio = |i: usize| found["boxes"][i]["ratio"].as_f64().unwrap();
    assert_eq!(ratio(0) + ratio(1), found["foreground_ratio"].as_f64().unwrap());
}

#[tokio::test]
async fn pooling_the_foreground_needs_a_feature_output() {
    let app = fake_app();
    for uri in ["/v1/embed", "/v1/analyze"] {
        let plain = post(&app, &format!("{uri}?pool=all"), &[], quarters()).await;
        assert_eq!(plain.status, StatusCode::OK);
        let answer = post(&app, &format!("{uri}?pool=foreground"), &[], quarters()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "invalid_request"), "{uri}");
        assert!(
            answer.json()["error"]["hint"].as_str().unwrap().contains("--outputs embedding,saliency,res5")
        );
    }
    assert_eq!(refused(&app, "/v1/embed?threshold=1", &[]).await.1, "bad_request", "of nothing");
    assert_eq!(refused(&app, "/v1/saliency?pool=all", &[]).await.1, "bad_request");
    assert_eq!(refused(&app, "/v1/embed?pool=half", &[]).await.1, "bad_request");
}

#[tokio::test]
async fn the_foreground_alone_is_pooled() {
    let limits = Limits::default();
    let state = AppState::new(limits.clone(), Expected::default());
    let info = ModelInfo { features: true, ..Fake::info("fake", FINGERPRINT) };
    let encoder = Box::new(Fake::default()) as Box<dyn Encode>;
    state.set_model(Model::start(info, vec![encoder], &limits, &Arc::clone(state.metrics())));
    let app = app(state);
    let pixels = decode(&quarters(), &Default::default()).unwrap().image;
    let said = Fake::answer(&Preprocess::imagenet(32).pixels(&pixels));
    let features = Fake::features(&said);
    let map = Map::new(2, 2, &said.saliency).unwrap();
    for threshold in [-0.6, 0.5] {
        let mask = foreground_above(map, threshold_at(map, threshold)).unwrap();
        let expected = foreground_pooled(features.channels, &features.values, &mask).unwrap();
        for route in ["embed", "analyze"] {
            let uri = format!("/v1/{route}?pool=foreground&threshold={threshold}");
            let told = post(&app, &uri, &[], quarters()).await.json();
            assert_eq!(floats(&told["results"][0]["embedding"]), expected, "{uri}");
        }
        let uri = format!("/v1/embed?pool=foreground&format=npy&threshold={threshold}");
        let array = post(&app, &uri, &[], quarters()).await;
        assert_eq!(numpy(&array.bytes), (vec![1, Fake::DIM], expected));
    }
}

#[tokio::test]
async fn pooling_every_cell_is_the_models_own_embedding() {
    let app = app(onnx_state("tiny-features.onnx"));
    let picture = png_of(90, 60, &ramp(90, 60));
    let embedding = async |uri: &str| {
        let answer = post(&app, uri, &[], picture.clone()).await.json();
        floats(&answer["results"][0]["embedding"])
    };
    let own = embedding("/v1/embed").await;
    let every = embedding("/v1/embed?pool=foreground&threshold=-100").await;
    assert!(cosine(&own, &every) > 1.0 - 1e-6 && own.len() == every.len());
    let foreground = embedding("/v1/embed?pool=foreground").await;
    assert!(cosine(&own, &foreground) < 1.0 - 1e-4, "some cells are background");
}
