//! Keys, web pages of other origins, and the ways to configure the program.

use std::process::Command;

use axum::body::Body;
use axum::http::StatusCode;
use occlude_serve::encoder::fake::Fake;
use occlude_serve::{Cors, Keys, Limits, app, create_key, cross_origin};

use crate::binary::{Running, fails};
use crate::common::*;

#[tokio::test]
async fn only_those_with_a_key_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let key = create_key("alice", &file).unwrap();
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    state.set_keys(Keys::read(&file).unwrap());
    let app = app(state);
    let picture = png(40, 40, [1, 2, 3]);
    for headers in [vec![], vec![("authorization", "Bearer ock_wrong")], vec![("x-api-key", "")]] {
        let refused = post(&app, "/v1/embed", &headers, picture.clone()).await;
        assert_eq!((refused.status, refused.code().as_str()), (StatusCode::UNAUTHORIZED, "unauthorized"));
        assert_eq!(refused.header("www-authenticate"), "Bearer");
    }
    assert_eq!(get(&app, "/metrics").await.status, StatusCode::UNAUTHORIZED);
    let bearer = format!("Bearer {key}");
    for header in [("authorization", bearer.as_str()), ("x-api-key", key.as_str())] {
        assert_eq!(post(&app, "/v1/embed", &[header], picture.clone()).await.status, StatusCode::OK);
    }
    for open in ["/", "/healthz", "/readyz"] {
        assert_eq!(get(&app, open).await.status, StatusCode::OK, "{open}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_answered_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    create_key("alice", &dir.path().join("keys")).unwrap();
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    state.set_keys(Keys::read(&dir.path().join("keys")).unwrap());
    let origin = "https://a.example";
    let ask = [("origin", origin), ("access-control-request-method", "POST")];
    let allowed = Cors::Origins(vec![origin.parse().unwrap()]);
    for (cors, expected) in [(Cors::None, ""), (Cors::Any, "*"), (allowed, origin)] {
        let app = cross_origin(app(state.clone()), &cors);
        let preflight = send(&app, request("OPTIONS", "/v1/embed", &ask, Body::empty())).await;
        assert_eq!(preflight.header("access-control-allow-origin"), expected, "{cors:?}");
        let refused = post(&app, "/v1/embed", &[("origin", origin)], png(9, 9, [1, 2, 3])).await;
        assert_eq!(refused.header("access-control-allow-origin"), expected, "errors are readable too");
        assert_eq!(refused.code(), "unauthorized");
        let other = get_with(&app, "/healthz", &[("origin", "https://b.example")]).await;
        assert_ne!(other.header("access-control-allow-origin"), origin);
    }
}

#[test]
fn keys_are_made_and_read_again_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    let key = |name: &str| {
        let made = Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
            .args(["key", name, "--file", file.to_str().unwrap()])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let alice = key("alice");
    let server = Running::start(&["--api-keys", file.to_str().unwrap(), "--log-format", "json"]);
    server.wait_for("ready");
    let with = |key: &str| {
        server.ask(
            &format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n")
                .into_bytes(),
        )
    };
    let refused = |answer: String| answer.contains("\"unauthorized\"");
    assert!(!refused(with(&alice)) && refused(with("ock_x")));
    let line = server.wait_for("\"key\":\"alice\"");
    assert!(line.starts_with('{') && line.contains("\"request_id\""), "{line}");
    let bob = key("bob");
    assert!(refused(with(&bob)), "not read yet");
    server.signal("HUP");
    server.wait_for("was replaced");
    assert!(!refused(with(&bob)));
}

#[test]
fn file_environment_and_flags_in_this_order() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    let model = fixture("tiny.onnx");
    let text = format!(
        "model = [\"a={}\"]\nmax-batch = 3\nmax-images = 5\nlog_format = \"json\"\n",
        model.display()
    );
    std::fs::write(&file, text).unwrap();
    let flags = ["--config", file.to_str().unwrap(), "--max-images=2"];
    let server = Running::with_environment(&flags, &[("OCCLUDE_SERVE_LOG_FORMAT", "text")]);
    assert!(!server.wait_for("model `a`").starts_with('{'), "the environment comes before the file");
    server.wait_for("ready");
    let three = r#"{"images": ["aGk=", "aGk=", "aGk="]}"#;
    let answer = server.send("POST", "/v1/embed", "application/json", three.as_bytes());
    assert!(answer.contains("more than 2 pictures"), "{answer}");

    std::fs::write(&file, "max-batsch = 3\n").unwrap();
    let (code, error) = fails(&flags);
    assert!(code == 2 && error.contains("serve.toml") && error.contains("`max-batch`"), "{error}");
    let (code, error) = fails(&["--model", "x.onnx", "--api-keys", "gone"]);
    assert!(code == 1 && error.contains("`gone`") && error.contains("occlude-serve key"), "{error}");
}
