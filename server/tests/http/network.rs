//! Keys, web pages of other origins, and the ways to configure the program.

use std::process::Command;

use axum::body::Body;
use axum::http::StatusCode;
use occlude_serve::{Cors, Keys, Limits, app, create_key, cross_origin};

use crate::binary::{Running, fails, pictures};
use crate::common::*;
use crate::fake::Fake;

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
    server.wait_for("keys were reloaded");
    assert!(!refused(with(&bob)));
    server.wait_for("is unchanged and stays in use");
}

/// The loader is busy with the gallery for a long time; nobody waits for it.
#[test]
fn a_revoked_key_is_refused_while_a_gallery_is_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, photos) = (dir.path().join("keys"), dir.path().join("photos"));
    pictures(&photos);
    for i in 0..400u32 {
        std::fs::write(
            photos.join(format!("red/{i}.png")),
            png_of(900, 700 + i % 9, &ramp(900, 700 + i % 9)),
        )
        .unwrap();
    }
    let (alice, _bob) = (create_key("alice", &keys).unwrap(), create_key("bob", &keys).unwrap());
    let flags = [
        "--api-keys",
        keys.to_str().unwrap(),
        "--gallery",
        photos.to_str().unwrap(),
        "--decode-threads",
        "1",
    ];
    let server = Running::start(&flags);
    server.wait_for("golden picture");
    let with = |key: &str| {
        let ask =
            format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\nconnection: close\r\n\r\n");
        server.ask(ask.as_bytes())
    };
    assert!(with(&alice).starts_with("HTTP/1.1 200"));
    let text = std::fs::read_to_string(&keys).unwrap();
    let left: String = text.lines().filter(|l| !l.starts_with("alice ")).map(|l| format!("{l}\n")).collect();
    std::fs::write(&keys, left).unwrap();
    server.signal("HUP");
    server.wait_for("keys were reloaded");
    assert!(with(&alice).contains("\"unauthorized\""));
    assert!(server.get("/readyz").contains("\"indexing gallery\""), "it is not through yet");
}

/// What Kubernetes adds for a Service called `occlude-serve`, and what a chart leaves empty.
#[test]
fn links_to_services_and_empty_variables_do_no_harm() {
    let model = fixture("tiny.onnx").display().to_string();
    let models = format!("one={model},two={model}");
    let environment = [
        ("OCCLUDE_SERVE_PORT", "tcp://10.0.0.7:8080"),
        ("OCCLUDE_SERVE_SERVICE_HOST", "10.0.0.7"),
        ("OCCLUDE_SERVE_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("OCCLUDE_SERVE_GALLERY", ""),
        ("OCCLUDE_SERVE_MAX_BATSCH", "3"),
        ("OCCLUDE_SERVE_MODEL", models.as_str()),
        ("OCCLUDE_SERVE_HOST", "localhost"),
        ("OCCLUDE_SERVE_MAX_BODY", "1MiB"),
        ("OCCLUDE_SERVE_TIMEOUT", "30s"),
    ];
    let server = Running::with_environment(&[], &environment);
    let note = server.wait_for("OCCLUDE_SERVE_MAX_BATSCH");
    assert!(note.contains("WARN") && note.contains("OCCLUDE_SERVE_MAX_BATCH"), "{note}");
    assert!(server.wait_for("Kubernetes").contains("OCCLUDE_SERVE_PORT_8080_TCP_ADDR"));
    server.wait_for("ready");
    assert!(server.address.starts_with("127.0.0.1:"), "{}", server.address);
    let answer = server.post(&png(60, 40, [240, 20, 20]), "/v1/embed?model=two");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (_, port) = server.address.split_once(':').unwrap();
    let health = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-serve"));
        let run = command.arg("health").args(arguments).envs(environment.iter().copied()).output().unwrap();
        (run.status.code().unwrap(), String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned())
    };
    let ready = (0, "ready\n".to_owned());
    assert_eq!(health(&[], &[("OCCLUDE_SERVE_PORT", port), ("OCCLUDE_SERVE_HOST", "0.0.0.0")]), ready);
    assert_eq!(health(&[port], &[("OCCLUDE_SERVE_PORT", "tcp://10.0.0.7:8080")]), ready);
    assert_eq!(health(&[&server.address], &[("OCCLUDE_SERVE_MAX_BATCH", "x")]), ready);
    assert_eq!(health(&[&format!("localhost:{port}")], &[("OCCLUDE_SERVE_PORT", "")]), ready);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    std::fs::write(&file, format!("model = \"x.onnx\"\nport = {port}\n")).unwrap();
    assert_eq!(health(&[], &[("OCCLUDE_SERVE_CONFIG", file.to_str().unwrap())]), ready);
    let (code, told) = health(&[], &[("OCCLUDE_SERVE_PORT", "tcp:/8080")]);
    assert!(code == 2 && told.contains("`OCCLUDE_SERVE_PORT`"), "{told}");
}

/// A model takes its time to load: what can be known to be wrong is said before.
#[test]
fn what_is_wrong_is_said_before_models_load() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("file"), "x").unwrap();
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::write(path("m.pth"), b"PK\x03\x04rest").unwrap();
    let model = fixture("tiny.onnx").to_str().unwrap().to_owned();
    let fine = format!("fine={model}");
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--gallery", &path("gone")], 1, "`--gallery`"),
        (&["--gallery", &path("empty")], 1, "`--gallery`"),
        (&["--data", &path("file")], 1, "`--data`"),
        (&["--api-keys", &path("file")], 1, "`--api-keys`"),
        (&["--otlp-endpoint", "collector:4318"], 2, "`--otlp-endpoint`"),
        (&["--url-host", "example.org"], 2, "`--allow-url-fetch`"),
        (&["--host", "no-such-host.invalid"], 1, "`--host`"),
        (&["--model", &path("m.pth")], 1, "occlude-export onnx"),
        (&["--model", dir.path().to_str().unwrap()], 1, "is a folder"),
    ];
    for (flags, code, told) in cases {
        let (got, error) = fails(&[&["--model", &fine, "--port", "0"][..], flags].concat());
        assert!(got == code && error.contains(told), "{flags:?}: {got} {error}");
        assert!(!error.contains("loaded in"), "{flags:?}: {error}");
    }
    let (code, error) = fails(&["--port", "0"]);
    assert!(
        code == 2 && error.contains("no model; hint: ") && error.contains("`OCCLUDE_SERVE_MODEL`"),
        "{error}"
    );
    // An equals sign in a file's name, as trainers write it.
    let odd = path("epoch=99-step=5.onnx");
    std::fs::copy(&model, &odd).unwrap();
    let server = Running::bare(&["--model", &odd]);
    server.wait_for("ready");
    assert!(server.get("/v1/models").contains("\"id\":\"epoch=99-step=5\""));
    drop(server);
    let out = path("e.npy");
    std::fs::create_dir(path("photos")).unwrap();
    std::fs::write(path("photos/a.png"), png(40, 40, [1, 2, 3])).unwrap();
    let embed = ["embed", &path("photos"), "--model", &odd, "--out", &out, "--provider", "cpu"];
    let run = Command::new(env!("CARGO_BIN_EXE_occlude-serve")).args(embed).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn health_is_asked_and_a_supervisor_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let model = fixture("tiny.onnx");
    let flags = ["--model", model.to_str().unwrap()];
    let server = Running::with_environment(&flags, &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut said = [0u8; 100];
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1\n");
    let health = |url: &str| {
        let run = Command::new(env!("CARGO_BIN_EXE_occlude-serve")).args(["health", url]).output().unwrap();
        (
            run.status.code().unwrap(),
            String::from_utf8(run.stdout).unwrap(),
            String::from_utf8(run.stderr).unwrap(),
        )
    };
    let url = format!("http://{}", server.address);
    assert_eq!(health(&url), (0, "ready\n".to_owned(), String::new()));
    server.signal("TERM");
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"STOPPING=1\n");
    drop(server);
    let (code, out, error) = health(&url);
    assert!(code == 1 && out.is_empty() && error.contains("is not ready"), "{error}");
}

#[test]
fn a_collector_gets_a_trace_of_each_request() {
    use std::io::{Read, Write};

    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let server = Running::start(&["--otlp-endpoint", &endpoint]);
    server.wait_for("ready");
    let picture = png(40, 40, [1, 2, 3]);
    let head = format!(
        "POST /v1/embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n",
        picture.len()
    );
    assert!(server.ask(&[head.as_bytes(), &picture].concat()).starts_with("HTTP/1.1 200"));
    let (mut stream, _) = collector.accept().unwrap();
    let mut text = String::new();
    let mut buffer = [0u8; 4096];
    let body = loop {
        let n = stream.read(&mut buffer).unwrap();
        text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            assert!(head.starts_with("POST /v1/traces "), "{head}");
            break serde_json::from_str::<serde_json::Value>(body).unwrap();
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let root = spans.iter().find(|s| s["kind"] == 2).unwrap();
    assert_eq!(
        (&root["name"], &root["parentSpanId"]),
        (&"POST /v1/embed".into(), &"00f067aa0ba902b7".into())
    );
    let names: Vec<&str> =
        spans.iter().filter(|s| s["kind"] == 1).map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["read", "decode", "queue and encode", "render"]);
    let nanos = |v: &serde_json::Value| v.as_str().unwrap().parse::<u64>().unwrap();
    for span in spans {
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(span["kind"] == 2 || span["parentSpanId"] == root["spanId"]);
        let (start, end) = (nanos(&span["startTimeUnixNano"]), nanos(&span["endTimeUnixNano"]));
        assert!(start <= end && end <= nanos(&root["endTimeUnixNano"]), "{span}");
    }
}

/// The example configuration and the unit name flags that exist.
#[test]
fn the_packaged_configuration_is_one() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let words = ["occlude-serve".into(), "--config".into(), folder.join("serve.toml").into_os_string()];
    let config = occlude_serve::Args::read(words).unwrap().resolve().unwrap();
    assert_eq!((config.served.models[0].name.as_str(), config.network.port), ("default", 8080));
    let container = std::fs::read_to_string(folder.join("Containerfile")).unwrap();
    let command = occlude_serve::Args::described();
    let variables = container.split_whitespace().filter_map(|w| w.strip_prefix(occlude_serve::ENVIRONMENT));
    for name in variables.map(|v| v.split('=').next().unwrap().to_lowercase()) {
        assert!(command.get_arguments().any(|a| a.get_id().as_str() == name), "{name}");
    }
    let pinned = std::fs::read_to_string(folder.join("../xtask/src/setup/requirements.txt")).unwrap();
    let version = pinned.lines().find(|l| l.starts_with("onnxruntime==")).unwrap();
    assert!(container.contains(version), "{version}");
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
