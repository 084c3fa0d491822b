//! OpenAI's API, in process and with OpenAI's own client.

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use occlude_serve::{AppState, Expected, Limits, app};
use serde_json::{Value, json};

use crate::binary::{Running, python};
use crate::common::*;
use crate::fake::Fake;

const JSON: (&str, &str) = ("content-type", "application/json");

fn picture(colour: [u8; 3]) -> String {
    STANDARD.encode(png(40, 30, colour))
}

async fn ask(body: Value) -> Answer {
    post(&fake_app(), "/v1/embeddings", &[JSON], body.to_string()).await
}

async fn refused(body: Value) -> (u16, String) {
    let answer = ask(body).await;
    (answer.status.as_u16(), answer.code())
}

#[tokio::test]
async fn floats_and_base64_are_the_same_numbers() {
    let inputs = json!([picture([200, 10, 10]), format!("data:image/png;base64,{}", picture([1, 2, 250]))]);
    let float = ask(json!({"model": "fake", "input": inputs, "user": "u", "dimensions": Fake::DIM})).await;
    assert_eq!(float.status, StatusCode::OK);
    assert_eq!(
        (float.header("x-occlude-model"), float.header("x-occlude-fingerprint")),
        ("fake", FINGERPRINT)
    );
    let float = float.json();
    assert_eq!((&float["object"], &float["model"]), (&json!("list"), &json!("fake")));
    assert_eq!(float["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}), "a picture is a token");
    let coded = ask(json!({"model": "fake", "input": inputs, "encoding_format": "base64"})).await.json();
    for index in 0..2 {
        let (float, coded) = (&float["data"][index], &coded["data"][index]);
        assert_eq!((&float["object"], &float["index"]), (&json!("embedding"), &json!(index)));
        let bytes = STANDARD.decode(coded["embedding"].as_str().unwrap()).unwrap();
        let numbers: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(numbers, floats(&float["embedding"]));
        assert!(numbers[2 * index] > 0.9, "its own colour");
    }
    for (format, width, error) in [("float16", 2, 1e-3f32), ("int8", 1, 1.0 / 127.0)] {
        let coded = ask(json!({"model": "fake", "input": inputs, "encoding_format": format})).await.json();
        let bytes = STANDARD.decode(coded["data"][1]["embedding"].as_str().unwrap()).unwrap();
        let numbers: Vec<f32> = bytes
            .chunks_exact(width)
            .map(|b| match b {
                [low, high] => half::f16::from_le_bytes([*low, *high]).to_f32(),
                _ => f32::from(b[0].cast_signed()) / 127.0,
            })
            .collect();
        let float = floats(&float["data"][1]["embedding"]);
        let largest = float.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = if format == "int8" { largest } else { 1.0 };
        assert_eq!(numbers.len(), float.len());
        assert!(numbers.iter().zip(&float).all(|(got, v)| (got * scale - v).abs() <= error), "{format}");
    }
    let one = ask(json!({"model": "fake", "input": picture([1, 2, 250])})).await.json();
    assert_eq!(one["data"][0]["embedding"], float["data"][1]["embedding"]);
}

#[tokio::test]
async fn what_is_not_taken_says_why() {
    let p = picture([9, 9, 9]);
    assert_eq!(refused(json!({"model": "other", "input": p})).await, (404, "model_not_found".to_owned()));
    let invalid = || (422, "invalid_request".to_owned());
    for body in [
        json!({"input": p}),
        json!({"model": "fake"}),
        json!({"model": "fake", "input": []}),
        json!({"model": "fake", "input": [1, 2]}),
        json!({"model": "fake", "input": p, "dimensions": 2}),
        json!({"model": "fake", "input": p, "encoding_format": "int4"}),
        json!({"model": "fake", "input": p, "what": 1}),
    ] {
        assert_eq!(refused(body).await, invalid());
    }
    assert_eq!(refused(json!({"model": "fake", "input": "!"})).await, (400, "bad_request".to_owned()));
    let text = json!({"model": "fake", "input": [p, STANDARD.encode("a text, as OpenAI takes it")]});
    let text = ask(text).await;
    assert_eq!((text.status.as_u16(), text.code().as_str()), (415, "unsupported_image"));
    assert!(text.json()["error"]["message"].as_str().unwrap().starts_with("picture 1 (`input[1]`): "));
    let many = json!({"model": "fake", "input": vec![p; Limits::default().max_images + 1]});
    assert_eq!(refused(many).await, (413, "too_many_images".to_owned()));
    let form = post(&fake_app(), "/v1/embeddings", &[("content-type", "image/png")], png(9, 9, [0; 3])).await;
    assert_eq!(form.code(), "unsupported_media_type");
    let broken = post(&fake_app(), "/v1/embeddings", &[JSON], "{").await;
    assert_eq!(broken.code(), "bad_request");
}

#[tokio::test]
async fn models_are_listed_with_our_fields() {
    let app = fake_app();
    let list = get(&app, "/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let one = get(&app, "/v1/models/fake").await.json();
    assert_eq!(list["data"], json!([one]));
    for (key, value) in [
        ("id", json!("fake")),
        ("object", json!("model")),
        ("owned_by", json!("occlude")),
        ("fingerprint", json!(FINGERPRINT)),
        ("dim", json!(Fake::DIM)),
        ("provider", json!("none")),
        ("input", json!("float")),
        ("input_size", json!(32)),
    ] {
        assert_eq!(one[key], value, "{key}");
    }
    assert!(one["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(get(&app, "/v1/models/other").await.code(), "model_not_found");
    assert_eq!(get(&app, "/v1/models/%ff").await.code(), "bad_request");
    let expected = Expected { models: vec!["late".to_owned()], gallery: false, store: false };
    let loading = occlude_serve::app(AppState::new(Limits::default(), expected));
    assert_eq!(get(&loading, "/v1/models/late").await.code(), "loading");
    assert_eq!(get(&loading, "/v1/models").await.json()["data"], json!([]));
}

#[test]
fn the_official_client_understands_the_answers_and_the_errors() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.png"), png_of(60, 40, &ramp(60, 40))).unwrap();
    let server = Running::start(&["--max-images", "3"]);
    server.wait_for("ready");
    python(include_str!("openai_client.py"), &server, dir.path());
}

#[tokio::test]
async fn a_full_server_turns_embeddings_away_too() {
    let limits = Limits { max_queue: 1, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::default()]));
    let two = json!({"model": "fake", "input": [picture([1, 2, 3]), picture([1, 2, 3])]});
    let full = post(&app, "/v1/embeddings", &[JSON], two.to_string()).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (429, "overloaded"));
    assert!(!full.header("retry-after").is_empty());
}
