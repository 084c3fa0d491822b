//! HTTP/2 on the port of HTTP, by clients that begin with it, and TLS.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Request};
use bytes::Bytes;
use h2::client::SendRequest;
use occlude_serve::{AppState, Door, Limits, Timeouts, Tls, app, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::binary::{Running, fails, python};
use crate::common::*;
use crate::fake::{Fake, Gate};

/// Serves until the test ends.
async fn start(state: AppState, tls: Option<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let timeouts = Timeouts {
        head: Duration::from_millis(400),
        keep_alive: Duration::from_millis(1500),
        drain: Duration::from_secs(5),
        max_connections: 64,
    };
    let door = Door::http(listener, app(state.clone())).behind(tls);
    tokio::spawn(serve(vec![door], state, timeouts, std::future::pending()));
    address
}

async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send
}

async fn ask(send: &SendRequest<Bytes>, path: &str, kind: &str, body: Vec<u8>) -> (u16, HeaderMap, String) {
    let request = Request::post(format!("http://x{path}")).header("content-type", kind).body(()).unwrap();
    let mut ready = send.clone().ready().await.unwrap();
    let (answer, mut sending) = ready.send_request(request, false).unwrap();
    // What has no room in the window yet is kept until it has.
    sending.send_data(body.into(), true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    (head.status.as_u16(), head.headers, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn requests_side_by_side_are_answered_one_by_one() {
    let address = start(fake_state(&Limits::default(), vec![Fake::default()]), None).await;
    let send = connect(address).await;
    let asked = (0..40u8).map(|i| {
        let send = send.clone();
        tokio::spawn(async move { (i, ask(&send, "/v1/embed", "image/png", png(40, 40, [i, 9, 200])).await) })
    });
    for answer in asked.collect::<Vec<_>>() {
        let (i, (status, headers, text)) = answer.await.unwrap();
        assert_eq!(status, 200, "{text}");
        assert!(headers.contains_key("x-request-id") && !headers.contains_key("connection"));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let want = Fake::answer(&occlude_preprocess::Rgb::filled(32, 32, [i, 9, 200])).embedding;
        assert_eq!(floats(&json["results"][0]["embedding"]), want);
    }
    // A body that nobody reads is thrown away, and the connection goes on.
    let (status, _, text) = ask(&send, "/v1/embed", "text/plain", vec![b'x'; 3_000_000]).await;
    assert!(status == 415 && text.contains("unsupported_media_type"), "{status} {text}");
    let (status, _, _) = ask(&send, "/v1/embed", "image/png", png(40, 40, [1, 2, 3])).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_request_that_is_withdrawn_stops_costing() {
    let gate = Gate::default();
    let limits = Limits { max_batch: 1, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::gated(&gate)]);
    let address = start(state.clone(), None).await;
    let send = connect(address).await;
    let stays = tokio::spawn({
        let send = send.clone();
        async move { ask(&send, "/v1/embed", "image/png", png(40, 40, [1, 2, 3])).await }
    });
    while state.models()[0].waiting() > 0 || state.metrics().batches().is_empty() && !busy(&state).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut leaving = Vec::new();
    for _ in 0..5 {
        let request =
            Request::post("http://x/v1/embed").header("content-type", "image/png").body(()).unwrap();
        let mut ready = send.clone().ready().await.unwrap();
        let (answer, mut sending) = ready.send_request(request, false).unwrap();
        sending.send_data(png(40, 40, [1, 2, 3]).into(), true).unwrap();
        leaving.push((answer, sending));
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    for (_, sending) in &mut leaving {
        sending.send_reset(h2::Reason::CANCEL);
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    gate.open();
    assert_eq!(stays.await.unwrap().0, 200);
    state.idle().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(state.metrics().batches(), [(1, 1)], "the others were withdrawn from the queue");
}

/// Whether requests are in progress.
async fn busy(state: &AppState) -> bool {
    tokio::time::timeout(Duration::from_millis(1), state.idle()).await.is_err()
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

/// Everything until the server closes, and how long that took.
async fn until_closed(mut stream: TcpStream) -> (Vec<u8>, Duration) {
    let (mut bytes, start) = (Vec::new(), Instant::now());
    let read = stream.read_to_end(&mut bytes);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the server never closed");
    (bytes, start.elapsed())
}

#[tokio::test]
async fn what_is_no_tls_costs_its_connection_only() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let tls = Tls::read(&file("one.pem"), &file("one.key")).unwrap();
    let address = start(state, Some(tls)).await;
    // Nothing; the beginning of a greeting; one that ends in nonsense; HTTP without TLS.
    let odd: [&[u8]; 4] = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    ];
    for bytes in odd {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let (answer, took) = until_closed(stream).await;
        assert!(took < Duration::from_secs(3), "{took:?}: {bytes:?}");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let (status, text) = curl(&address.to_string(), "one.pem", &["--http1.1"]).await;
    assert_eq!((status.as_str(), text.as_str()), ("1.1", "ok\n"));
}

/// Asks `/healthz` behind TLS: which HTTP was spoken, and the answer.
async fn curl(address: &str, trusted: &str, flags: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "-w", "%{http_version}", "--cacert"]).arg(file(trusted));
    curl.args(flags).arg(format!("https://{address}/healthz"));
    let output = tokio::task::spawn_blocking(move || curl.output()).await.unwrap().expect("curl is needed");
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match text.rsplit_once('\n') {
        Some((body, version)) => (version.to_owned(), format!("{body}\n")),
        None => (String::new(), error),
    }
}

#[tokio::test]
async fn the_program_speaks_every_version_and_takes_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let install = |name: &str| {
        std::fs::copy(file(&format!("{name}.pem")), &cert).unwrap();
        std::fs::copy(file(&format!("{name}.key")), &key).unwrap();
    };
    install("one");
    let (cert_path, key_path) = (cert.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned());
    let server = Running::start(&["--tls-cert", &cert_path, "--tls-key", &key_path]);
    server.wait_for("ready");
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let got = curl(&server.address, "one.pem", &[flag]).await;
        assert_eq!(got, (version.to_owned(), "ok\n".to_owned()));
    }
    let health = |more: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-serve"));
        let port = server.address.rsplit(':').next().unwrap();
        command.arg("health").env("OCCLUDE_SERVE_PORT", port).envs(more.iter().copied());
        command.output().unwrap().status.success()
    };
    assert!(health(&[("OCCLUDE_SERVE_TLS_CERT", &cert_path)]), "the server of this configuration");
    assert!(!health(&[]), "it speaks nothing but TLS");

    std::fs::copy(file("two.pem"), &cert).unwrap();
    server.signal("HUP");
    server.wait_for("the previous certificate stays in use");
    assert_eq!(curl(&server.address, "one.pem", &[]).await.1, "ok\n");
    install("two");
    server.signal("HUP");
    server.wait_for("the certificate was reloaded");
    assert_eq!(curl(&server.address, "two.pem", &[]).await.1, "ok\n");
    let (version, error) = curl(&server.address, "one.pem", &[]).await;
    assert!(version.is_empty() && error.contains("certificate"), "{version} {error}");
}

#[test]
fn http_2_without_tls_and_certificates_that_cannot_be_used() {
    let server = Running::start(&[]);
    server.wait_for("ready");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "-w", "%{http_version}"]);
    let output = curl.arg(format!("http://{}/healthz", server.address)).output().expect("curl is needed");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n2");
    let model = fixture("tiny.onnx");
    let (one, two) = (file("one.pem"), file("two.key"));
    let flags = ["--model", model.to_str().unwrap(), "--port", "0", "--tls-cert", one.to_str().unwrap()];
    let (code, error) = fails(&[&flags[..], &["--tls-key", two.to_str().unwrap()]].concat());
    assert!(
        code == 1 && error.contains("`--tls-cert`: the certificate") && error.contains("two.key"),
        "{error}"
    );
    let (code, error) = fails(&flags);
    assert!(code == 2 && error.contains("`--tls-cert` has no effect without `--tls-key`"), "{error}");
}

#[cfg(feature = "grpc")]
#[test]
fn tritons_client_speaks_grpc_behind_tls() {
    let (cert, key) = (file("one.pem"), file("one.key"));
    let flags =
        ["--grpc-port", "0", "--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = Running::start(&flags);
    let grpc = server.grpc_address();
    server.wait_for("ready");
    let script = format!(
        r#"
import numpy
from tritonclient import grpc
client = grpc.InferenceServerClient("{grpc}", ssl=True, root_certificates="{}")
assert client.is_server_ready() and client.is_model_ready("tiny")
tensor = grpc.InferInput("images", [1, 32, 32, 3], "UINT8")
tensor.set_data_from_numpy(numpy.zeros((1, 32, 32, 3), numpy.uint8))
assert client.infer("tiny", [tensor]).as_numpy("embedding").shape == (1, 8)
"#,
        cert.display()
    );
    python(&script, &server, Path::new("."));
}
