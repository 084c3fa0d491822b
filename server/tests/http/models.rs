//! Several models at once, and models that are replaced while requests run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::{StreamExt, stream};
use occlude_retrieval::{Options, Store};
use occlude_serve::{AppState, Expected, Gallery, Limits, Model, app};

use crate::binary::{Running, pictures};
use crate::common::*;
use crate::fake::{Fake, Gate};

#[tokio::test]
async fn requests_choose_a_model_by_name() {
    let expected = Expected { models: vec!["one".to_owned(), "two".to_owned()], ..Expected::default() };
    let (limits, state) = (Limits::default(), AppState::new(Limits::default(), expected));
    let app = app(state.clone());
    let picture = png(40, 40, [9, 9, 9]);
    state.set_model(named_model("two", "2", &state, &limits, vec![Fake::default()]));
    let early = post(&app, "/v1/embed", &[], picture.clone()).await;
    assert_eq!((early.status, early.code().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "loading"));
    assert_eq!(get(&app, "/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    state.set_model(named_model("one", "1", &state, &limits, vec![Fake::default()]));
    assert_eq!(get(&app, "/readyz").await.json()["models"][1]["name"], "two");
    for (uri, fingerprint) in
        [("/v1/embed", "1"), ("/v1/embed?model=one", "1"), ("/v1/analyze?model=two", "2")]
    {
        let answer = post(&app, uri, &[], picture.clone()).await;
        assert_eq!(answer.json()["model"]["fingerprint"], fingerprint, "{uri}");
        assert_eq!(answer.header("x-occlude-fingerprint"), fingerprint);
    }
    let unknown = post(&app, "/v1/embed?model=three", &[], picture).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
    assert!(unknown.json()["error"]["hint"].as_str().unwrap().contains("`two`"));
}

#[tokio::test]
async fn a_request_keeps_the_model_that_it_began_with() {
    let (limits, gate) = (Limits::default(), Gate::default());
    let state = fake_state(&limits, vec![Fake::gated(&gate)]);
    let app = app(state.clone());
    let waiting = tokio::spawn({
        let app = app.clone();
        async move { post(&app, "/v1/embed", &[], png(40, 40, [9, 9, 9])).await }
    });
    while state.models()[0].waiting() == 0 && Arc::strong_count(&state.models()[0]) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    state.set_model(named_model("fake", "new", &state, &limits, vec![Fake::default()]));
    let after = post(&app, "/v1/embed", &[], png(40, 40, [9, 9, 9])).await.json();
    assert_eq!(after["model"]["fingerprint"], "new");
    gate.open();
    assert_eq!(waiting.await.unwrap().json()["model"]["fingerprint"], FINGERPRINT);
}

/// Else a model could not be unloaded while somebody sends slowly.
#[tokio::test]
async fn a_body_that_comes_in_holds_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let state = AppState::new(limits.clone(), Expected { store: true, ..Expected::default() });
    state.set_model(fake_model(&state, &limits, vec![Fake::default()]));
    state.set_store(Arc::new(Store::open(dir.path(), &Options::default()).unwrap()));
    let app = app(state.clone());
    assert_eq!(send(&app, request("PUT", "/v1/collections/c", &[], "")).await.status, StatusCode::CREATED);
    let old = Arc::downgrade(&state.models()[0]);
    let routes = ["/v1/embed", "/v2/models/fake/infer", "/v1/collections/c/points"];
    let slow = routes.map(|route| {
        let app = app.clone();
        tokio::spawn(async move {
            let first = stream::iter([Ok::<_, std::io::Error>(vec![b'{'])]);
            let body = Body::from_stream(StreamExt::chain(first, stream::pending()));
            post(&app, route, &[("content-type", "application/json")], body).await
        })
    });
    while !get(&app, "/metrics").await.bytes.windows(27).any(|w| w == b"occlude_in_flight_images 3\n") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    state.set_model(named_model("fake", "new", &state, &limits, vec![Fake::default()]));
    let ended = async {
        while old.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), ended).await.is_ok(), "somebody holds it");
    for request in slow {
        assert!(!request.is_finished(), "the body is still coming in");
        request.abort();
    }
}

fn install(from: &str, to: &Path) {
    // As deployments do: a new file under another name, then a rename.
    let new = to.with_extension("new");
    std::fs::copy(fixture(from), &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

/// Requests go on all the time; each is answered, by the old model or by the new one.
#[test]
fn a_replaced_file_is_served_without_dropping_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m.onnx");
    install("tiny.onnx", &model);
    let flag = format!("live={}", model.display());
    let server = Running::bare(&["--model", &flag, "--watch", "0.05"]);
    server.wait_for("ready");
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = server.post(&png(60, 40, [240, 20, 20]), "/v1/embed");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        install("tiny-uint8.onnx", &model);
        server.wait_for("model `live` was replaced");
        std::fs::write(&model, "no model at all").unwrap();
        server.wait_for("stays in use as it was");
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 10 {
            std::thread::sleep(Duration::from_millis(5));
        }
        install("tiny.onnx", &model);
        server.wait_for("model `live` was replaced");
        server.signal("HUP");
        server.wait_for("model `live` is unchanged");
        // Copied over itself, it answers as before.
        install("tiny.onnx", &model);
        server.wait_for("model `live` is unchanged");
        stop.store(true, Ordering::Relaxed);
    });
    let metrics = server.get("/metrics");
    for line in ["{model=\"live\",result=\"ok\"} 2", "{model=\"live\",result=\"failed\"} 1"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}

/// The new model has to index the gallery first. Meanwhile every search is answered, by the old model with its own
/// pictures; then by the new one.
#[test]
fn a_gallery_is_searched_while_its_model_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (model, photos) = (dir.path().join("m.onnx"), dir.path().join("photos"));
    install("tiny.onnx", &model);
    pictures(&photos);
    for i in 0..60u8 {
        let pixels = ramp(900, 700 + u32::from(i));
        std::fs::write(photos.join(format!("red/{i}.png")), png_of(900, 700 + u32::from(i), &pixels))
            .unwrap();
    }
    let flags =
        ["--model", model.to_str().unwrap(), "--gallery", photos.to_str().unwrap(), "--watch", "0.05"];
    let server = Running::bare(&flags);
    server.wait_for("ready");
    let identity = |answer: &str| {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap()["model"]["identity"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let search = || {
        let answer = server.post(&png(60, 40, [240, 20, 20]), "/v1/search?k=1");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"neighbours\":[{"), "{answer}");
        assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
        identity(&answer)
    };
    let old = search();
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let searches = scope.spawn(|| {
            let mut seen = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                seen.push(search());
            }
            seen
        });
        install("tiny-uint8.onnx", &model);
        server.wait_for("gallery");
        server.wait_for("model `m` was replaced");
        std::thread::sleep(Duration::from_millis(100));
        stop.store(true, Ordering::Relaxed);
        searches.join().unwrap()
    });
    let new = search();
    assert_ne!(old, new);
    let switch = seen.iter().position(|i| *i == new).unwrap();
    assert!(switch > 1, "the old one answered while the new one indexed");
    assert!(seen[..switch].iter().all(|i| *i == old) && seen[switch..].iter().all(|i| *i == new), "{seen:?}");
    // Where the pictures cannot be indexed any more, everything stays.
    std::fs::remove_dir_all(&photos).unwrap();
    install("tiny.onnx", &model);
    assert!(server.wait_for("stays in use as it was").contains("`--gallery`"));
    assert_eq!(search(), new);
}

/// One checkpoint, exported twice: its fingerprint is the same, its numbers are not.
#[tokio::test]
async fn precisions_of_one_checkpoint_are_models_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    pictures(dir.path());
    let (limits, state) = (Limits::default(), AppState::new(Limits::default(), Expected::default()));
    state.set_model(precise_model("r18", "fp32", &state, &limits));
    state.set_model(precise_model("i8", "int8", &state, &limits));
    state.set_model(precise_model("again", "fp32", &state, &limits));
    let app = app(state.clone());
    let gallery = indexed(dir.path(), &state.models()[0]);
    assert_eq!(gallery.identity(), "fp32");
    state.set_gallery(gallery);
    let search = async |model: &str| {
        post(&app, &format!("/v1/search?model={model}"), &[], png(40, 40, [9, 9, 9])).await
    };
    assert_eq!(search("r18").await.status, StatusCode::OK);
    assert_eq!(search("again").await.status, StatusCode::OK, "the same numbers under another name");
    let wrong = search("i8").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (StatusCode::CONFLICT, "wrong_model"));
    let told = post(&app, "/v1/embed?model=i8", &[], png(40, 40, [9, 9, 9])).await;
    assert_eq!(
        (told.header("x-occlude-identity"), told.header("x-occlude-fingerprint")),
        ("int8", FINGERPRINT)
    );
    assert_eq!(get(&app, "/readyz").await.json()["models"][1]["identity"], "int8");
    assert_eq!(get(&app, "/v1/models").await.json()["data"][1]["identity"], "int8");
    assert_eq!(get(&app, "/v2/models/i8").await.json()["parameters"]["identity"], "int8");
    let metrics = String::from_utf8(get(&app, "/metrics").await.bytes).unwrap();
    assert!(metrics.contains("fingerprint=\"f00dfeed\",identity=\"int8\",model=\"i8\""), "{metrics}");
    // In place of the first model, with what it indexed, from one request to the next.
    let next = precise_model("r18", "fp16", &state, &limits);
    let gallery = indexed(dir.path(), &next);
    state.set_model_with_gallery(next, gallery);
    assert_eq!(search("r18").await.json()["model"]["identity"], "fp16");
    assert_eq!(
        search("again").await.status,
        StatusCode::OK,
        "it has the pictures that its own numbers are of"
    );
}

/// On a thread of its own, as the loader does it.
fn indexed(dir: &Path, model: &Model) -> Gallery {
    let index = || Gallery::index(dir, model, &Limits::default(), &Silent).unwrap();
    std::thread::scope(|scope| scope.spawn(index).join().unwrap())
}

struct Silent;

impl occlude_serve::Progress for Silent {
    fn at(&self, _: usize, _: usize) {}
    fn skipped(&self, _: &dyn std::fmt::Display) {}
}
