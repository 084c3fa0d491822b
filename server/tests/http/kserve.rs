//! The Open Inference Protocol, in process and with Triton's own client.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_preprocess::{Preprocess, Rgb};
use occlude_serve::{AppState, Expected, Limits, app};
use serde_json::{Value, json};

use crate::binary::{Running, python};
use crate::common::*;
use crate::fake::Fake;

const INFER: &str = "/v2/models/fake/infer";

/// The code of an error in the protocol's shape, with everything that is in ours.
fn code(answer: &Answer) -> String {
    let json = answer.json();
    assert!(!json["error"].as_str().unwrap().is_empty(), "{json}");
    assert!(json["hint"].is_string() || json["hint"].is_null(), "{json}");
    assert_eq!(json["request_id"], answer.header("x-request-id"), "{json}");
    assert_eq!(json.as_object().unwrap().len(), 4, "{json}");
    json["code"].as_str().unwrap().to_owned()
}

/// A picture of the crop's size that the fake encoder answers with its own colour.
fn crop(colour: [u8; 3]) -> Rgb {
    Rgb::filled(32, 32, colour)
}

fn output<'a>(json: &'a Value, name: &str) -> &'a Value {
    json["outputs"].as_array().unwrap().iter().find(|o| o["name"] == name).unwrap()
}

#[tokio::test]
async fn the_server_and_its_models_describe_themselves() {
    let app = fake_app();
    assert_eq!(
        get(&app, "/v2").await.json()["extensions"],
        json!(["binary_tensor_data", "model_configuration", "model_repository", "statistics"])
    );
    assert_eq!(get(&app, "/v2/health/live").await.json(), json!({"live": true}));
    assert_eq!(get(&app, "/v2/health/ready").await.json(), json!({"ready": true, "status": "ready"}));
    let model = get(&app, "/v2/models/fake").await;
    assert_eq!(model.header("x-occlude-fingerprint"), FINGERPRINT);
    let model = model.json();
    assert_eq!((&model["name"], &model["versions"]), (&json!("fake"), &json!(["1"])));
    let names = |key: &str| -> Vec<String> {
        let row = |t: &Value| format!("{} {} {}", t["name"].as_str().unwrap(), t["datatype"], t["shape"]);
        model[key].as_array().unwrap().iter().map(row).collect()
    };
    assert_eq!(
        names("inputs"),
        ["files \"BYTES\" [-1]", "images \"UINT8\" [-1,32,32,3]", "pixel_values \"FP32\" [-1,3,32,32]",]
    );
    assert_eq!(names("outputs"), ["embedding \"FP32\" [-1,3]", "saliency \"FP32\" [-1,-1,-1]"]);
    assert_eq!(model["parameters"]["fingerprint"], FINGERPRINT);
    assert_eq!(get(&app, "/v2/models/fake/versions/1").await.json(), model);
    for ready in ["/v2/models/fake/ready", "/v2/models/fake/versions/1/ready"] {
        assert_eq!(get(&app, ready).await.json(), json!({"name": "fake", "ready": true}));
    }
    for missing in ["/v2/models/x", "/v2/models/x/ready", "/v2/models/fake/versions/2"] {
        let answer = get(&app, missing).await;
        assert_eq!((answer.status, code(&answer).as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
    }
    assert_eq!(code(&get(&app, "/v2/what").await), "not_found");
    assert_eq!(code(&get(&app, INFER).await), "method_not_allowed");
    assert_eq!(code(&get(&app, "/v2/models/%ff").await), "bad_request");
}

#[tokio::test]
async fn a_server_that_loads_or_drains_is_not_ready() {
    let expected = Expected { models: vec!["fake".to_owned()], gallery: false, store: false };
    let loading = app(AppState::new(Limits::default(), expected));
    let ready = get(&loading, "/v2/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["status"]), (503, &json!("loading model")));
    assert_eq!(get(&loading, "/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(code(&get(&loading, "/v2/models/fake/ready").await), "loading");
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    state.start_draining();
    let app = app(state);
    assert_eq!(get(&app, "/v2/health/ready").await.status.as_u16(), 503);
    assert_eq!(code(&get(&app, "/v2/models/fake/ready").await), "draining");
    assert_eq!(code(&post(&app, INFER, &[], "{}").await), "draining");
}

#[tokio::test]
async fn files_and_pixels_in_json_give_what_the_other_routes_give() {
    let app = fake_app();
    let picture = png(60, 40, [200, 10, 10]);
    let want = post(&app, "/v1/analyze", &[], picture.clone()).await.json()["results"][0].clone();
    let base64 = STANDARD.encode(&picture);
    let files = json!({"id": "a7", "inputs": [{
        "name": "files", "datatype": "BYTES", "shape": [2], "parameters": {"content_type": "base64"},
        "data": [base64, format!("data:image/png;base64,{base64}")],
    }]});
    let answer = post(&app, INFER, &[], files.to_string()).await;
    assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, "application/json"));
    assert_eq!(answer.header("x-occlude-fingerprint"), FINGERPRINT);
    let json = answer.json();
    assert_eq!(
        (&json["id"], &json["model_name"], &json["model_version"]),
        (&json!("a7"), &json!("fake"), &json!("1"))
    );
    let (embedding, saliency) = (output(&json, "embedding"), output(&json, "saliency"));
    assert_eq!((&embedding["shape"], &saliency["shape"]), (&json!([2, 3]), &json!([2, 2, 2])));
    assert_eq!(floats(&embedding["data"])[..3], floats(&want["embedding"]));
    assert_eq!(floats(&saliency["data"])[4..], floats(&want["saliency"]["grid"]["values"]));

    let (red, blue) = (crop([250, 0, 0]), crop([0, 0, 250]));
    let images = json!({"inputs": [{
        "name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": [red.data, blue.data],
    }], "outputs": [{"name": "embedding"}]});
    let json = post(&app, "/v2/models/fake/versions/1/infer", &[], images.to_string()).await.json();
    assert_eq!(json["outputs"].as_array().unwrap().len(), 1, "only what was asked for");
    let both = [Fake::answer(&red).embedding, Fake::answer(&blue).embedding].concat();
    assert_eq!(floats(&output(&json, "embedding")["data"]), both);

    let tensors = [&red, &blue].map(|c| Preprocess::imagenet(32).tensor(c)).concat();
    let floats_in = json!({"inputs": [{
        "name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 32, 32], "data": tensors,
    }]});
    let json = post(&app, INFER, &[], floats_in.to_string()).await.json();
    assert_eq!(floats(&output(&json, "embedding")["data"]), both);
    let endless = floats_in.to_string().replacen("\"data\":[", "\"data\":[1e300,", 1);
    let refused = post(&app, INFER, &[], endless).await;
    assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (422, "invalid_request"));
}

#[tokio::test]
async fn binary_tensors_go_both_ways() {
    let crop = crop([3, 200, 90]);
    let head = json!({"inputs": [{
        "name": "images", "datatype": "UINT8", "shape": [1, 32, 32, 3], "parameters": {"binary_data_size": 3072},
    }], "outputs": [
        {"name": "saliency", "parameters": {"binary_data": true}},
        {"name": "embedding", "parameters": {"binary_data": false}},
    ]})
    .to_string();
    let length = head.len().to_string();
    let body = [head.as_bytes(), &crop.data].concat();
    let answer =
        post(&fake_app(), INFER, &[("inference-header-content-length", &length)], body.clone()).await;
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    let (json, tensors) =
        answer.bytes.split_at(answer.header("inference-header-content-length").parse().unwrap());
    let json: Value = serde_json::from_slice(json).unwrap();
    let want = Fake::answer(&crop);
    assert_eq!(floats(&output(&json, "embedding")["data"]), want.embedding);
    assert_eq!(output(&json, "saliency")["parameters"], json!({"binary_data_size": 16}));
    let saliency: Vec<f32> =
        tensors.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(saliency, want.saliency);
    let none = post(&fake_app(), INFER, &[], body.clone()).await;
    assert_eq!(code(&none), "bad_request", "without the header the bytes are no JSON");
    let odd = post(&fake_app(), INFER, &[("inference-header-content-length", "many")], body.clone()).await;
    assert_eq!(code(&odd), "bad_request");
    let brotli = post(&fake_app(), INFER, &[("content-encoding", "br")], body).await;
    assert_eq!(code(&brotli), "unsupported_media_type");
}

#[tokio::test]
async fn the_limits_of_the_other_routes_hold() {
    let limits = Limits { max_queue: 2, max_images: 3, max_body: 20_000, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::default()]));
    let images = |n: usize| {
        let data = vec![0u8; n * 3072];
        json!({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [n, 32, 32, 3], "data": data}]})
            .to_string()
    };
    assert_eq!(post(&app, INFER, &[], images(2)).await.status, StatusCode::OK);
    let full = post(&app, INFER, &[], images(3)).await;
    assert_eq!((full.status.as_u16(), code(&full).as_str()), (429, "overloaded"));
    assert!(!full.header("retry-after").is_empty());
    assert_eq!(code(&post(&app, INFER, &[], images(5)).await), "body_too_large");
    let many = r#"{"inputs": [{"name": "files", "datatype": "BYTES", "shape": [4], "data": ["","","",""]}]}"#;
    assert_eq!(code(&post(&app, INFER, &[], many).await), "too_many_images");
    let broken = json!({"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1],
        "data": [STANDARD.encode(&png(40, 40, [1, 2, 3])[..60])]}]});
    let broken = post(&app, INFER, &[], broken.to_string()).await;
    assert_eq!((broken.status.as_u16(), code(&broken).as_str()), (422, "broken_image"));
    for body in ["", "{", "{}"] {
        assert!(post(&app, INFER, &[], body).await.status.is_client_error());
    }
}

#[test]
fn the_official_client_understands_the_answers_and_the_errors() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.png"), png_of(60, 40, &ramp(60, 40))).unwrap();
    std::fs::write(dir.path().join("crop.png"), png_of(36, 36, &ramp(36, 36))).unwrap();
    let float = fixture("tiny.onnx");
    let uint8 = format!("uint8={}", fixture("tiny-uint8.onnx").display());
    let server = Running::bare(&["--model", float.to_str().unwrap(), "--model", &uint8]);
    server.wait_for("ready");
    python(include_str!("kserve_client.py"), &server, dir.path());
}
