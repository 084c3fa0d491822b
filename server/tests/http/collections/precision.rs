//! Whose vectors a collection takes.

use axum::http::StatusCode;
use occlude_retrieval::{Engine, Options, Point, Spec, Store};
use occlude_serve::Limits;
use serde_json::{Value, json};

use super::{ask, colour, ids, ok, with_store};
use crate::common::*;
use crate::fake::Fake;

/// Two exports of one checkpoint: their vectors do not compare, and only the identity tells.
#[tokio::test]
async fn a_collection_takes_vectors_of_its_own_precision_only() {
    let dir = tempfile::tempdir().unwrap();
    let (state, app) = with_store(dir.path());
    let limits = Limits::default();
    state.set_model(precise_model("r18", "fp32", &state, &limits));
    state.set_model(precise_model("i8", "int8", &state, &limits));
    let (points, search) = ("/v1/collections/c/points", "/v1/collections/c/search");
    let made = ok(&app, "PUT", "/v1/collections/c", json!({"model": "i8"})).await;
    assert_eq!((&made["identity"], &made["fingerprint"]), (&json!("int8"), &json!(FINGERPRINT)));
    assert_eq!(ask(&app, "PUT", "/v1/collections/c", json!({"model": "r18"})).await.code(), "wrong_model");
    let picture =
        ask(&app, "POST", points, json!({"points": [{"id": "p", "image": colour([9, 9, 9])}]})).await;
    assert_eq!(
        (picture.status, picture.header("x-occlude-model")),
        (StatusCode::OK, "i8"),
        "not the first of them"
    );
    let vector = |more: Value| {
        let mut body = json!({"points": [{"id": "v", "vector": [1, 0, 0]}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (whose, status, code) in [
        (json!({"identity": "fp32"}), 409, "wrong_model"),
        (json!({"identity": "fp32", "fingerprint": FINGERPRINT}), 409, "wrong_model"),
        (json!({"identity": "int8", "fingerprint": "other"}), 409, "wrong_model"),
        (json!({"fingerprint": "other"}), 409, "wrong_model"),
        (json!({"fingerprint": FINGERPRINT}), 422, "invalid_request"),
        (json!({}), 422, "invalid_request"),
    ] {
        let answer = ask(&app, "POST", points, vector(whose.clone())).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{whose}");
        let mut query = json!({"vector": [1, 0, 0]});
        query.as_object_mut().unwrap().extend(whose.as_object().unwrap().clone());
        let answer = ask(&app, "POST", search, query).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (status, code), "{whose}");
    }
    for whose in [json!({"identity": "int8"}), json!({"identity": "int8", "fingerprint": FINGERPRINT})] {
        ok(&app, "POST", points, vector(whose)).await;
    }
    let found = ok(&app, "POST", search, json!({"vector": [1, 0, 0], "identity": "int8", "limit": 1})).await;
    assert_eq!(ids(&found), ["v"]);
    // Its model is gone, the other precision stays.
    drop((state, app));
    let (state, app) = with_store(dir.path());
    state.set_model(precise_model("r18", "fp32", &state, &limits));
    for (uri, body) in [
        (search, json!({"image": colour([9, 9, 9])})),
        (points, json!({"points": [{"id": "q", "image": colour([9, 9, 9])}]})),
    ] {
        assert_eq!(ask(&app, "POST", uri, body).await.code(), "wrong_model");
    }
}

/// A collection of a release that knew no identities: nothing goes in by guess, and one request says whose it is.
#[tokio::test]
async fn an_older_collection_is_adopted_once() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = Store::open(dir.path(), &Options::default()).unwrap();
        let spec = Spec {
            dim: Fake::DIM,
            fingerprint: FINGERPRINT.to_owned(),
            identity: None,
            model: "fake".to_owned(),
            metric: Default::default(),
        };
        store.create_collection("c", &spec).unwrap();
        let point = |id: &str, vector: [f32; 3]| Point {
            id: id.to_owned(),
            vector: vector.into(),
            payload: Default::default(),
        };
        store.upsert("c", FINGERPRINT, &[point("a", [1.0, 0.0, 0.0]), point("b", [1.0, 0.1, 0.0])]).unwrap();
    }
    let (state, app) = with_store(dir.path());
    state.set_model(precise_model("fake", "fp32", &state, &Limits::default()));
    let (points, search) = ("/v1/collections/c/points", "/v1/collections/c/search");
    assert_eq!(ok(&app, "GET", "/v1/collections/c", json!({})).await["identity"], Value::Null);
    let vector = json!({"points": [{"id": "v", "vector": [1, 0, 0]}], "fingerprint": FINGERPRINT});
    for (method, uri, body) in [
        ("PUT", "/v1/collections/c", json!({})),
        ("POST", points, json!({"points": [{"id": "p", "image": colour([9, 9, 9])}]})),
        ("POST", points, vector),
        ("POST", search, json!({"image": colour([9, 9, 9])})),
        ("POST", search, json!({"vector": [1, 0, 0], "identity": "fp32"})),
    ] {
        let answer = ask(&app, method, uri, body.clone()).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "wrong_model"), "{uri} {body}");
        assert!(answer.json()["error"]["hint"].as_str().unwrap().contains("adopt"), "{uri} {body}");
    }
    // What needs no model goes on.
    assert_eq!(ids(&ok(&app, "POST", search, json!({"id": "a"})).await), ["b"]);
    assert_eq!(ok(&app, "POST", "/v1/collections/c/points/delete", json!({"ids": ["b"]})).await["count"], 1);
    let adopted = ok(&app, "PUT", "/v1/collections/c", json!({"model": "fake", "adopt": true})).await;
    assert_eq!((&adopted["identity"], &adopted["count"]), (&json!("fp32"), &json!(1)));
    ok(&app, "POST", points, json!({"points": [{"id": "p", "image": colour([9, 9, 9])}]})).await;
    state.set_model(precise_model("fake", "int8", &state, &Limits::default()));
    let other = ask(&app, "PUT", "/v1/collections/c", json!({"adopt": true})).await;
    assert_eq!(other.code(), "wrong_model", "only once");
}
