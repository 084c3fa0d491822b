//! Several models at once, and models that are replaced while requests run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use occlude_serve::encoder::fake::{Fake, Gate};
use occlude_serve::{AppState, Expected, Limits, app};

use crate::binary::Running;
use crate::common::*;

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
        server.wait_for("goes on as it was");
        let before = answered.load(Ordering::Relaxed);
        while answered.load(Ordering::Relaxed) < before + 10 {
            std::thread::sleep(Duration::from_millis(5));
        }
        install("tiny.onnx", &model);
        server.wait_for("model `live` was replaced");
        server.signal("HUP");
        server.wait_for("model `live` was replaced");
        stop.store(true, Ordering::Relaxed);
    });
    let metrics = server.get("/metrics");
    for line in ["{model=\"live\",result=\"ok\"} 3", "{model=\"live\",result=\"failed\"} 1"] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
}
