//! Collections over HTTP, the program that fills them from a folder, and what a crash leaves.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use occlude_retrieval::{Engine, Options, Point, Spec, Store};
use occlude_serve::encoder::fake::Fake;
use occlude_serve::{AppState, Expected, Limits, app};
use serde_json::{Value, json};

use crate::binary::{Running, pictures};
use crate::common::*;

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

/// A disk that is full says so, to who adds and to who watches; deleting works.
#[test]
fn a_full_disk_is_told_and_can_be_cleaned() {
    let disk = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(disk.path()).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        occlude_skip::test("mount", "run it where file systems can be mounted, e.g. as root");
        return;
    }
    let unmount = Unmount(disk.path());
    let server = Running::start(&["--data", disk.path().join("data").to_str().unwrap()]);
    server.wait_for("ready");
    let send = |method: &str, path: &str, body: Value| {
        server.send(method, path, "application/json", body.to_string().as_bytes())
    };
    let text = |i: usize| json!({"id": i.to_string(), "image": colour([9, 9, i as u8]), "payload": {"t": "x".repeat(60_000)}});
    assert!(send("PUT", "/v1/collections/c", json!({})).contains("201"));
    assert!(server.get("/readyz").contains("\"collections\":{\"writable\":true,\"problem\":null}"));
    let full = (0..200).map(|i| send("POST", "/v1/collections/c/points", json!({"points": [text(i)]})));
    let full = full.into_iter().find(|a| !a.starts_with("HTTP/1.1 200")).unwrap();
    assert!(full.starts_with("HTTP/1.1 507") && full.contains("\"storage_full\""), "{full}");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"writable\":false"), "{ready}");
    assert!(ready.contains("no room on the disk"), "{ready}");
    assert!(server.get("/metrics").contains("occlude_collections_writable 0"));
    let told =
        Command::new(env!("CARGO_BIN_EXE_occlude-serve")).args(["health", &server.address]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("no room on the disk"));
    // Nothing is left, not for the log either.
    let mut others = std::fs::File::create(disk.path().join("others")).unwrap();
    while std::io::Write::write_all(&mut others, &[7; 512]).is_ok() {}
    let gone = send("POST", "/v1/collections/c/points/delete", json!({"ids": ["0", "1", "2"]}));
    assert!(gone.contains("\"count\":3"), "{gone}");
    assert!(send("DELETE", "/v1/collections/c", json!({})).starts_with("HTTP/1.1 204"));
    std::fs::remove_file(disk.path().join("others")).unwrap();
    server.wait_for("can be written again");
    assert!(server.get("/readyz").contains("\"writable\":true"));
    drop((server, unmount));
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn app_without_store() -> Router {
    app(AppState::new(Limits::default(), Expected { store: true, ..Expected::default() }))
}

fn tool(arguments: &[&str], flags: &[&str]) -> Output {
    let model = format!("small={}", fixture("tiny.onnx").display());
    Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
        .args(arguments)
        .args(["--model", &model, "--provider", "cpu"])
        .args(flags)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "stdout carries data only");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_folder_is_indexed_and_later_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, data) = (dir.path().join("photos"), dir.path().join("data"));
    pictures(&photos);
    let folder = photos.to_str().unwrap();
    let flags = ["--data", data.to_str().unwrap(), "--collection", "c", "--thumbnails", "--prune"];
    let index = || said(&tool(&["index", folder], &flags));
    let first = index();
    assert!(
        first.contains("2 encoded, 0 were there, 1 skipped, 0 deleted") && first.contains("broken.png"),
        "{first}"
    );
    std::fs::write(photos.join("blue/c.png"), png(30, 30, [0, 0, 9])).unwrap();
    std::fs::write(photos.join("blue/b.png"), png(31, 30, [0, 0, 99])).unwrap();
    std::fs::remove_file(photos.join("red/a.png")).unwrap();
    let second = index();
    assert!(second.contains("2 encoded, 0 were there, 1 skipped, 1 deleted"), "{second}");
    let third = index();
    assert!(third.contains("0 encoded, 2 were there, 1 skipped, 0 deleted"), "{third}");

    let server = Running::start(&["--data", data.to_str().unwrap()]);
    server.wait_for("collection `c`: 2 points");
    server.wait_for("ready");
    let collection = server.send("GET", "/v1/collections/c", "application/json", b"");
    assert!(collection.contains(r#""model":"small""#), "{collection}");
    let body =
        json!({"id": "blue/b.png", "filter": {"must": [{"key": "class", "match": "blue"}]}}).to_string();
    let found = server.send("POST", "/v1/collections/c/search", "application/json", body.as_bytes());
    assert!(found.contains("blue/c.png") && found.contains("data:image/jpeg;base64,"), "{found}");
    let locked = said(&tool(&["index", folder], &flags));
    assert!(locked.contains("open in another process"), "{locked}");
}

#[test]
fn a_folder_is_embedded_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    pictures(&photos);
    let folder = photos.to_str().unwrap();
    let out = |name: &str| dir.path().join(name);
    let embed = |name: &str, flags: &[&str]| {
        let path = out(name);
        let all: Vec<&str> =
            ["--out", path.to_str().unwrap()].into_iter().chain(flags.iter().copied()).collect();
        tool(&["embed", folder], &all)
    };
    for name in ["e.npy", "e.parquet", "e.jsonl"] {
        let run = embed(name, &[]);
        assert!(run.status.success(), "{}", said(&run));
        assert!(said(&run).contains("wrote 2 embeddings"), "{}", said(&run));
        assert!(!out(&format!("{name}.partial")).exists());
    }
    let lines = std::fs::read_to_string(out("e.jsonl")).unwrap();
    let rows: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((rows[0]["path"].as_str(), rows[0]["class"].as_str()), (Some("blue/b.png"), Some("blue")));
    let npy = std::fs::read(out("e.npy")).unwrap();
    let numbers: Vec<f32> =
        npy[npy.len() - 64..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let told: Vec<f32> = rows.iter().flat_map(|r| floats(&r["embedding"])).collect();
    assert_eq!(numbers, told);
    assert_eq!(std::fs::read_to_string(out("e.paths.txt")).unwrap(), "blue/b.png\nred/a.png\n");
    assert!(std::fs::read(out("e.parquet")).unwrap().starts_with(b"PAR1"));
    // The server says the same.
    let server = Running::start(&[]);
    server.wait_for("ready");
    let answer = server.post(&std::fs::read(photos.join("blue/b.png")).unwrap(), "/v1/embed");
    let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert!(cosine(&floats(&json["results"][0]["embedding"]), &told[..8]) > 0.999_999);

    assert!(said(&embed("e.npy", &[])).contains("there already"));
    assert!(embed("e.npy", &["--force"]).status.success());
    assert!(said(&embed("e.csv", &[])).contains(".parquet"));
    std::fs::write(out("f.jsonl.partial"), "occlude-embed 1 another 8\n").unwrap();
    let other = embed("f.jsonl", &[]);
    assert!(!other.status.success() && said(&other).contains("model another"), "{}", said(&other));
}

/// `kill -9` while points are added: what was acknowledged is there, bit for bit, and each request wholly or not at all.
/// `OCCLUDE_KILLS` says how often (3 by default).
#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let kills: u64 = std::env::var("OCCLUDE_KILLS").map_or(3, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--data", dir.path().to_str().unwrap()];
    let vector = |request: u64, i: u64| -> Vec<f32> {
        (0..8).map(|j| ((request * 31 + i * 7 + j) % 97) as f32 - 40.5).collect()
    };
    let identity: Value = {
        let server = Running::start(&flags);
        server.wait_for("ready");
        let made = server.send("PUT", "/v1/collections/c", "application/json", b"");
        let json: Value = serde_json::from_str(made.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        json["identity"].clone()
    };
    let (mut sent, mut acknowledged) = (0u64, Vec::new());
    for kill in 0..kills {
        let server = Running::start(&flags);
        server.wait_for("ready");
        let id = server.id();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20 + (kill * 7919) % 180));
            Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap();
        });
        loop {
            let points: Vec<Value> =
                (0..20).map(|i| json!({"id": format!("{sent}-{i}"), "vector": vector(sent, i)})).collect();
            let body = json!({"points": points, "identity": identity}).to_string();
            let answer =
                server.try_send("POST", "/v1/collections/c/points", "application/json", body.as_bytes());
            sent += 1;
            match answer {
                Some(answer) if answer.contains("\"added\":20") => acknowledged.push(sent - 1),
                Some(answer) if !answer.is_empty() => panic!("{answer}"),
                _ => break,
            }
        }
        killer.join().unwrap();
    }
    assert!(!acknowledged.is_empty(), "killed before anything was acknowledged");
    let store = Store::open(dir.path(), &Options::default()).unwrap();
    store.check().unwrap();
    let with = occlude_retrieval::With { vector: true, payload: false };
    let get = |request: u64| {
        let ids: Vec<String> = (0..20).map(|i| format!("{request}-{i}")).collect();
        occlude_retrieval::Engine::get(&store, "c", &ids, with).unwrap()
    };
    for request in 0..sent {
        let found = get(request);
        assert!(
            found.len() == 20 || found.is_empty() && !acknowledged.contains(&request),
            "{request}: {}",
            found.len()
        );
        for (i, record) in found.iter().enumerate() {
            let raw = vector(request, i as u64);
            let norm = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
            let close = |(a, b): (&f32, &f32)| (a - b / norm).abs() < 1e-6;
            assert!(record.vector.as_ref().unwrap().iter().zip(&raw).all(close), "{request}-{i}");
        }
    }
    eprintln!("{kills} kills: {} of {sent} requests acknowledged, all there", acknowledged.len());
}
