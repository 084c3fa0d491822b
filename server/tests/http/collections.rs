//! Collections over HTTP.

#[cfg(any(feature = "milvus", feature = "postgres"))]
mod databases;
mod durable;
mod precision;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occlude_retrieval::{Options, Store};
use occlude_serve::{AppState, Expected, Limits, app};
use serde_json::{Value, json};

use crate::common::*;
use crate::fake::Fake;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn with_store(dir: &Path) -> (AppState, Router) {
    let state = AppState::new(Limits::default(), Expected { store: true, ..Expected::default() });
    state.set_model(fake_model(&state, &Limits::default(), vec![Fake::default()]));
    state.set_store(Arc::new(Store::open(dir, &Options::default()).unwrap()));
    (state.clone(), app(state))
}

async fn ask(app: &Router, method: &str, uri: &str, body: Value) -> Answer {
    send(app, request(method, uri, &JSON, body.to_string())).await
}

async fn ok(app: &Router, method: &str, uri: &str, body: Value) -> Value {
    let answer = ask(app, method, uri, body).await;
    assert!(answer.status.is_success(), "{uri}: {}", String::from_utf8_lossy(&answer.bytes));
    answer.json()
}

fn colour(rgb: [u8; 3]) -> String {
    STANDARD.encode(png(40, 40, rgb))
}

fn ids(found: &Value) -> Vec<&str> {
    found["hits"].as_array().unwrap().iter().map(|h| h["id"].as_str().unwrap()).collect()
}

fn app_without_store() -> Router {
    app(AppState::new(Limits::default(), Expected { store: true, ..Expected::default() }))
}

#[tokio::test]
async fn filled_searched_and_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let (_, app) = with_store(dir.path());
    assert_eq!(ok(&app, "GET", "/v1/collections", json!({})).await, json!({"collections": []}));
    let made = ask(&app, "PUT", "/v1/collections/c", json!({})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.json()["fingerprint"], FINGERPRINT);
    let again = send(&app, request("PUT", "/v1/collections/c", &[], Body::empty())).await;
    assert_eq!(again.status, StatusCode::OK, "the same again, without a body");

    let points = json!({"points": [
        {"id": "red", "image": colour([250, 10, 10]), "payload": {"class": "warm", "price": 3}},
        {"id": "orange", "image": format!("data:image/png;base64,{}", colour([250, 120, 10])), "payload": {"class": "warm"}},
        {"id": "blue", "image": colour([10, 10, 250]), "payload": {"class": "cold"}},
    ]});
    assert_eq!(
        ok(&app, "POST", "/v1/collections/c/points", points.clone()).await,
        json!({"added": 3, "replaced": 0})
    );
    assert_eq!(
        ok(&app, "POST", "/v1/collections/c/points", points).await,
        json!({"added": 0, "replaced": 3})
    );
    let vector = json!({"fingerprint": FINGERPRINT, "points": [{"id": "v", "vector": [0.0, 2.0, 0.0]}]});
    ok(&app, "POST", "/v1/collections/c/points", vector).await;

    let search = "/v1/collections/c/search";
    let near = ok(&app, "POST", search, json!({"image": colour([255, 0, 0]), "limit": 2})).await;
    assert_eq!(ids(&near), ["red", "orange"]);
    assert_eq!(near["hits"][0]["payload"]["price"], 3);
    let raw = post(&app, "/v1/collections/c/search?limit=1", &[], png(30, 30, [0, 0, 255])).await;
    assert_eq!(ids(&raw.json()), ["blue"]);
    assert_eq!(raw.header("x-occlude-fingerprint"), FINGERPRINT);
    assert_eq!(
        ids(&ok(&app, "POST", search, json!({"id": "red", "limit": 1})).await),
        ["orange"],
        "not itself"
    );
    let filter = json!({"must": [{"key": "class", "match": "cold"}]});
    assert_eq!(ids(&ok(&app, "POST", search, json!({"id": "red", "filter": filter})).await), ["blue"]);
    let by_vector = json!({"vector": [0, 1, 0], "fingerprint": FINGERPRINT, "limit": 1, "with_vector": true});
    let found = ok(&app, "POST", search, by_vector).await;
    assert_eq!((ids(&found)[0], &found["hits"][0]["vector"]), ("v", &json!([0.0, 1.0, 0.0])), "of length 1");

    let page = ok(&app, "POST", "/v1/collections/c/points/scroll", json!({"limit": 3})).await;
    assert_eq!((page["points"][0]["id"].as_str(), page["next"].as_str()), (Some("blue"), Some("red")));
    let page = ok(&app, "POST", "/v1/collections/c/points/scroll", json!({"limit": 3, "after": "red"})).await;
    assert_eq!((page["points"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    let some =
        ok(&app, "POST", "/v1/collections/c/points/scroll", json!({"ids": ["v", "none", "red"]})).await;
    assert_eq!(some["points"].as_array().unwrap().len(), 2);
    for (format, bytes) in [
        ("int8", vec![0, 127, 0]),
        ("float16", [0.0f32, 1.0, 0.0].iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()),
        ("base64", [0.0f32, 1.0, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect()),
    ] {
        let asked = json!({"ids": ["v"], "with_vector": true, "encoding_format": format});
        let found = ok(&app, "POST", "/v1/collections/c/points/scroll", asked).await;
        let text = found["points"][0]["vector"].as_str().unwrap();
        assert_eq!(STANDARD.decode(text).unwrap(), bytes, "{format}");
    }

    let count = |body: Value| ok(&app, "POST", "/v1/collections/c/count", body);
    assert_eq!(count(json!({})).await, json!({"count": 4}));
    assert_eq!(count(json!({"filter": filter})).await, json!({"count": 1}));
    let delete = "/v1/collections/c/points/delete";
    assert_eq!(ok(&app, "POST", delete, json!({"ids": ["v", "none"]})).await, json!({"count": 1}));
    assert_eq!(ok(&app, "POST", delete, json!({"filter": filter})).await, json!({"count": 1}));
    assert_eq!(ok(&app, "GET", "/v1/collections/c", json!({})).await["count"], 2);
    assert_eq!(ask(&app, "DELETE", "/v1/collections/c", json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ask(&app, "GET", "/v1/collections/c", json!({})).await.code(), "collection_not_found");
}

#[tokio::test]
async fn files_of_a_form_are_points_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let (_, app) = with_store(dir.path());
    ok(&app, "PUT", "/v1/collections/c", json!({})).await;
    let mut body = Vec::new();
    for (name, rgb) in [("a.png", [200, 0, 0]), ("b.png", [0, 200, 0])] {
        body.extend(
            format!("--X\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n")
                .into_bytes(),
        );
        body.extend(png(20, 20, rgb));
        body.extend(b"\r\n");
    }
    body.extend(b"--X--\r\n");
    let form = [("content-type", "multipart/form-data; boundary=X")];
    let answer = post(&app, "/v1/collections/c/points", &form, body).await;
    assert_eq!(answer.json(), json!({"added": 2, "replaced": 0}));
    let near = post(&app, "/v1/collections/c/search?limit=1", &[], png(20, 20, [0, 90, 0])).await;
    assert_eq!(ids(&near.json()), ["b.png"]);
    let nameless = post(&app, "/v1/collections/c/points", &[], png(20, 20, [0, 90, 0])).await;
    assert_eq!(nameless.code(), "invalid_request");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (state, app) = with_store(dir.path());
    ok(&app, "PUT", "/v1/collections/c", json!({})).await;
    let points = "/v1/collections/c/points";
    let good = json!({"id": "a", "vector": [1, 0, 0]});
    let other = "0ther";
    let cases = [
        ("PUT", "/v1/collections/C!", json!({}), 422, "invalid_request"),
        ("PUT", "/v1/collections/d", json!({"model": "none"}), 404, "model_not_found"),
        ("PUT", "/v1/collections/d", json!({"modle": "none"}), 422, "invalid_request"),
        ("DELETE", "/v1/collections/d", json!({}), 404, "collection_not_found"),
        ("POST", points, json!({"points": [good]}), 422, "invalid_request"),
        ("POST", points, json!({"points": [good], "fingerprint": other}), 409, "wrong_model"),
        (
            "POST",
            points,
            json!({"points": [good, {"id": "b", "vector": [1, 0]}], "fingerprint": FINGERPRINT}),
            422,
            "invalid_request",
        ),
        (
            "POST",
            points,
            json!({"points": [good, {"id": "", "vector": [1, 0, 0]}], "fingerprint": FINGERPRINT}),
            422,
            "invalid_request",
        ),
        (
            "POST",
            points,
            json!({"points": [good, {"id": "b", "vector": [0, 0, 0]}], "fingerprint": FINGERPRINT}),
            422,
            "invalid_request",
        ),
        ("POST", points, json!({"points": [{"id": "b"}]}), 422, "invalid_request"),
        ("POST", points, json!({"points": [{"id": "b", "image": "aGk="}]}), 415, "unsupported_image"),
        ("POST", "/v1/collections/c/search", json!({}), 422, "invalid_request"),
        ("POST", "/v1/collections/c/search", json!({"id": "a", "vector": [1, 0, 0]}), 422, "invalid_request"),
        ("POST", "/v1/collections/c/search", json!({"vector": [1, 0, 0]}), 422, "invalid_request"),
        (
            "POST",
            "/v1/collections/c/search",
            json!({"vector": [1, 0, 0], "fingerprint": other}),
            409,
            "wrong_model",
        ),
        ("POST", "/v1/collections/c/search", json!({"id": "none"}), 404, "point_not_found"),
        ("POST", "/v1/collections/c/search", json!({"id": "a", "limit": 0}), 400, "bad_request"),
        (
            "POST",
            "/v1/collections/c/search",
            json!({"id": "a", "filter": {"must": [{"key": "x"}]}}),
            422,
            "invalid_request",
        ),
        ("POST", "/v1/collections/c/points/delete", json!({}), 422, "invalid_request"),
        ("POST", "/v1/collections/c/points/delete", json!({"ids": [], "filter": {}}), 422, "invalid_request"),
    ];
    for (method, uri, body, status, code) in cases {
        let answer = ask(&app, method, uri, body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{method} {uri} {body}");
    }
    assert_eq!(ok(&app, "POST", "/v1/collections/c/count", json!({})).await, json!({"count": 0}));
    let text = post(&app, "/v1/collections/c/points/delete", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(text.code(), "unsupported_media_type");

    // The model is replaced: its vectors no longer fit, and nobody is told nonsense.
    ok(&app, "POST", points, json!({"points": [good], "fingerprint": FINGERPRINT})).await;
    state.set_model(named_model("fake", other, &state, &Limits::default(), vec![Fake::default()]));
    let wrong = post(&app, "/v1/collections/c/search", &[], png(20, 20, [0, 90, 0])).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (StatusCode::CONFLICT, "wrong_model"));
    assert_eq!(ask(&app, "PUT", "/v1/collections/c", json!({})).await.code(), "wrong_model");
    assert_eq!(
        ids(&ok(
            &app,
            "POST",
            "/v1/collections/c/search",
            json!({"vector": [1, 0, 0], "fingerprint": FINGERPRINT})
        )
        .await),
        ["a"]
    );

    let none = get(&fake_app(), "/v1/collections").await;
    assert_eq!((none.status, none.code().as_str()), (StatusCode::NOT_FOUND, "not_found"));
    let opening = app_without_store();
    assert_eq!(get(&opening, "/v1/collections").await.code(), "loading");
}

/// Bodies of every bound together: points, payloads of the most bytes, vectors, and a filter of the most conditions.
#[tokio::test]
async fn what_keeps_to_the_bounds_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (_, app) = with_store(dir.path());
    ok(&app, "PUT", "/v1/collections/c", json!({})).await;
    let tags: Vec<u32> = (0..200).collect();
    let mut points: Vec<Value> = (0..1000)
        .map(|i| {
            let payload = json!({"n": i, "tags": tags, "more": {"a": [1.5, "x"]}});
            json!({"id": i.to_string(), "vector": [0.25, 1, i], "payload": payload})
        })
        .collect();
    // As many bytes as a payload may have.
    points[0]["payload"] = json!({"x": "y".repeat(65_536 - 8)});
    points[1]["payload"] = json!({"x": vec![0; 32_764]});
    let body = json!({"fingerprint": FINGERPRINT, "points": points});
    let done = ok(&app, "POST", "/v1/collections/c/points", body).await;
    assert_eq!(done, json!({"added": 1000, "replaced": 0}));
    let range = |i: usize| json!({"key": "n", "range": {"gt": i, "gte": i, "lt": i + 2, "lte": i + 1}});
    let filter = json!({"should": (0..256).map(range).collect::<Vec<_>>()});
    let count = ok(&app, "POST", "/v1/collections/c/count", json!({"filter": filter})).await;
    // Of 1 to 256; the payload of 1 has no `n`.
    assert_eq!(count, json!({"count": 255}));
    for payload in [json!(null), json!(3), json!([])] {
        let point = json!({"id": "a", "vector": [1, 0, 0], "payload": payload});
        let body = json!({"fingerprint": FINGERPRINT, "points": [point]});
        let refused = ask(&app, "POST", "/v1/collections/c/points", body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "invalid_request"), "{payload}");
        let told = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(told.starts_with("points[0].payload: invalid type"), "{told}");
    }
}
