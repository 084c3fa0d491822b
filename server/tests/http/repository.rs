//! Models that clients load and unload, and what models have done.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::http::StatusCode;
use occlude_serve::{Limits, app};
use serde_json::{Value, json};

use crate::binary::{Running, python};
use crate::common::*;
use crate::fake::Fake;

const INDEX: &str = "/v2/repository/index";

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(text).unwrap_or_default()
}

fn load(server: &Running, name: &str) -> String {
    server.post(b"", &format!("/v2/repository/models/{name}/load"))
}

fn unload(server: &Running, name: &str) -> String {
    server.post(b"", &format!("/v2/repository/models/{name}/unload"))
}

fn install(from: &str, to: &Path) {
    let new = to.with_extension("new");
    std::fs::copy(fixture(from), &new).unwrap();
    std::fs::rename(new, to).unwrap();
}

#[tokio::test]
async fn nothing_is_loaded_where_no_folder_is_named() {
    let app = app(fake_state(&Limits::default(), vec![Fake::default()]));
    let listed = post(&app, INDEX, &[], "").await;
    let fake = json!([{"name": "fake", "version": "1", "state": "READY", "reason": ""}]);
    assert_eq!((listed.status, listed.json()), (StatusCode::OK, fake.clone()));
    for sent in ["{}", r#"{"ready": true}"#, "null"] {
        assert_eq!(post(&app, INDEX, &[], sent).await.json(), fake, "{sent}");
    }
    for path in ["/v2/repository/models/fake/load", "/v2/repository/models/fake/unload"] {
        let refused = post(&app, path, &[], "").await;
        assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::FORBIDDEN, &json!("forbidden")));
        assert!(refused.json()["error"].as_str().unwrap().contains("loads no models on demand"));
    }
    for (path, sent, status) in [
        (INDEX, r#"{"ready": 3}"#, 422),
        (INDEX, "[]", 422),
        (INDEX, "{", 400),
        ("/v2/repository/models/x/load", r#"{"parameters": 1}"#, 422),
        ("/v2/repository/models/x/load", r#"{"parameters": {"config": "{}"}}"#, 422),
        ("/v2/repository/models/x/load", r#"{"parameters": {"file:1/model.onnx": ""}}"#, 422),
        ("/v2/repository/models/%ff/load", "", 400),
    ] {
        assert_eq!(post(&app, path, &[], sent).await.status.as_u16(), status, "{path} {sent}");
    }
}

#[tokio::test]
async fn statistics_count_what_the_model_did() {
    let app = app(fake_state(&Limits::default(), vec![Fake::default()]));
    let data = vec![9u8; 2 * 3072];
    let two =
        json!({"inputs": [{"name": "images", "datatype": "UINT8", "shape": [2, 32, 32, 3], "data": data}]});
    let before = get(&app, "/v2/models/fake/stats").await.json();
    assert_eq!(before["model_stats"][0]["last_inference"], 0, "{before}");
    assert_eq!(post(&app, "/v2/models/fake/infer", &[], two.to_string()).await.status, StatusCode::OK);
    assert!(post(&app, "/v2/models/fake/infer", &[], "{").await.status.is_client_error());
    assert_eq!(post(&app, "/v1/embed", &[], png(40, 40, [1, 2, 3])).await.status, StatusCode::OK);
    let all = get(&app, "/v2/models/stats").await.json();
    for path in ["/v2/models/fake/stats", "/v2/models/fake/versions/1/stats"] {
        assert_eq!(get(&app, path).await.json(), all, "{path}");
    }
    let done = &all["model_stats"][0];
    assert_eq!((&done["name"], &done["version"]), (&json!("fake"), &json!("1")));
    assert_eq!(done["inference_count"], 3, "{done}");
    let runs = done["execution_count"].as_u64().unwrap();
    assert!(
        (2..=3).contains(&runs) && done["last_inference"].as_u64().unwrap() > 1_600_000_000_000,
        "{done}"
    );
    let sums = &done["inference_stats"];
    let count = |name: &str| sums[name]["count"].as_u64().unwrap();
    assert_eq!((count("success"), count("fail"), count("queue"), count("compute_input")), (1, 1, 3, 1));
    assert_eq!((count("compute_infer"), count("cache_hit")), (runs, 0));
    assert!(sums["success"]["ns"].as_u64().unwrap() > 0);
    let batches = done["batch_stats"].as_array().unwrap();
    let pictures =
        |b: &Value| b["batch_size"].as_u64().unwrap() * b["compute_infer"]["count"].as_u64().unwrap();
    assert_eq!(batches.iter().map(pictures).sum::<u64>(), 3, "{done}");
    assert_eq!(get(&app, "/v2/models/none/stats").await.status, StatusCode::NOT_FOUND);
}

/// What is in a folder is loaded by name, and nothing else.
#[test]
fn models_of_a_folder_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("models");
    std::fs::create_dir_all(folder.join("deep/1")).unwrap();
    install("tiny.onnx", &folder.join("live.onnx"));
    install("tiny.onnx", &folder.join("deep/1/model.onnx"));
    install("no-contract.onnx", &folder.join("broken.onnx"));
    install("tiny.onnx", &dir.path().join("secret.onnx"));
    let server = Running::start(&["--model-folder", folder.to_str().unwrap(), "--watch", "0.05"]);
    server.wait_for("ready");
    let states = || -> BTreeMap<String, String> {
        let listed = body(&server.post(b"", INDEX));
        let row =
            |m: &Value| (m["name"].as_str().unwrap().to_owned(), m["state"].as_str().unwrap().to_owned());
        listed.as_array().unwrap().iter().map(row).collect()
    };
    let expected = |live: &str| -> BTreeMap<String, String> {
        let rows = [("broken", "UNAVAILABLE"), ("deep", "UNAVAILABLE"), ("live", live), ("tiny", "READY")];
        rows.map(|(name, state)| (name.to_owned(), state.to_owned())).into()
    };
    assert_eq!(states(), expected("UNAVAILABLE"));
    let ask = || server.post(&png(60, 40, [240, 20, 20]), "/v1/embed?model=live");
    assert!(ask().starts_with("HTTP/1.1 404"));
    assert!(load(&server, "live").starts_with("HTTP/1.1 200"));
    assert!(ask().starts_with("HTTP/1.1 200"));
    assert_eq!(states(), expected("READY"));
    assert_eq!(body(&server.post(b"{\"ready\":true}", INDEX)).as_array().unwrap().len(), 2);
    assert!(load(&server, "live").starts_with("HTTP/1.1 200"), "once more");
    server.wait_for("`live` is unchanged");
    // A model that was loaded is watched as the others are.
    install("tiny-uint8.onnx", &folder.join("live.onnx"));
    server.wait_for("`live` was replaced");
    assert!(unload(&server, "live").starts_with("HTTP/1.1 200"));
    assert!(ask().starts_with("HTTP/1.1 404"));
    assert_eq!(states(), expected("UNAVAILABLE"));
    assert!(load(&server, "deep").starts_with("HTTP/1.1 200"), "Triton's layout");

    let broken = load(&server, "broken");
    assert!(broken.starts_with("HTTP/1.1 422") && broken.contains("no metadata `preprocess`"), "{broken}");
    assert!(!broken.contains(folder.to_str().unwrap()) && !broken.contains("hint: export"), "{broken}");
    let listed = body(&server.post(b"", INDEX));
    let reason = listed.as_array().unwrap().iter().find(|m| m["name"] == "broken").unwrap()["reason"].clone();
    assert!(reason.as_str().unwrap().contains("no metadata `preprocess`"), "{reason}");
    for name in ["secret", "none", "..%2Fsecret", "..", "live.onnx"] {
        let answer = load(&server, name);
        assert!(answer.starts_with("HTTP/1.1 404"), "{name}: {answer}");
    }
    assert!(unload(&server, "none").starts_with("HTTP/1.1 404"));
    let kept = unload(&server, "tiny");
    assert!(kept.starts_with("HTTP/1.1 403") && kept.contains("was started with the model `tiny`"), "{kept}");
    assert!(load(&server, "tiny").starts_with("HTTP/1.1 200"), "it may be looked at again");
}

/// Whoever is answered is answered by a whole model, whatever is loaded and unloaded meanwhile.
#[test]
fn loading_and_unloading_under_fire_gives_no_wrong_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.onnx");
    install("tiny.onnx", &path);
    let server = Running::start(&["--model-folder", dir.path().to_str().unwrap(), "--max-batch", "1"]);
    server.wait_for("ready");
    let (stop, answered, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let seen: Mutex<BTreeMap<String, Value>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let answer = server.post(&png_of(60, 40, &ramp(60, 40)), "/v1/embed?model=live");
                    if answer.starts_with("HTTP/1.1 404") {
                        assert!(answer.contains("\"model_not_found\""), "{answer}");
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    let json = body(&answer);
                    let identity = json["model"]["identity"].as_str().unwrap().to_owned();
                    let embedding = json["results"][0]["embedding"].clone();
                    let mut seen = seen.lock().unwrap();
                    let known = seen.entry(identity).or_insert_with(|| embedding.clone());
                    assert_eq!(*known, embedding, "one model, one answer");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 0..24 {
            install(["tiny.onnx", "tiny-uint8.onnx"][round % 2], &path);
            for change in [load, load, unload] {
                let answer = change(&server, "live");
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                let goal = answered.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed) + 8;
                while answered.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed) < goal {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 20 && refused.load(Ordering::Relaxed) > 20);
    assert_eq!(seen.lock().unwrap().len(), 2, "both were served");
}

#[test]
fn tritons_clients_load_and_unload() {
    let dir = tempfile::tempdir().unwrap();
    install("tiny.onnx", &dir.path().join("live.onnx"));
    let mut flags = vec!["--model-folder", dir.path().to_str().unwrap()];
    if cfg!(feature = "grpc") {
        flags.extend(["--grpc-port", "0"]);
    }
    let server = Running::start(&flags);
    let grpc = if cfg!(feature = "grpc") { server.grpc_address() } else { String::new() };
    server.wait_for("ready");
    python(&include_str!("repository_client.py").replace("GRPC_ADDRESS", &grpc), &server, dir.path());
}
