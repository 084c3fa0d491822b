//! The Open Inference Protocol over gRPC, on a socket: by a client of HTTP/2 alone, and by Triton's own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, Method, Request};
use bytes::Bytes;
use h2::client::SendRequest;
use occlude_preprocess::Rgb;
use occlude_serve::{AppState, Door, Expected, Keys, Limits, Timeouts, app, create_key, grpc_app, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::binary::{Running, python};
use crate::common::*;
use crate::fake::{Fake, Gate};

const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const METADATA: &str = "/inference.GRPCInferenceService/ModelMetadata";
const LIVE: &str = "/inference.GRPCInferenceService/ServerLive";
const READY: &str = "/inference.GRPCInferenceService/ServerReady";
const CHECK: &str = "/grpc.health.v1.Health/Check";

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<()>,
}

impl Server {
    async fn start(state: AppState) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let timeouts = Timeouts {
            head: Duration::from_millis(400),
            keep_alive: Duration::from_millis(1500),
            drain: Duration::from_secs(20),
            max_connections: 64,
        };
        let done = tokio::spawn(async move {
            let doors = vec![Door::grpc(listener, grpc_app(state.clone()))];
            serve(doors, state, timeouts, async { drop(stopped.await) }).await;
        });
        Self { address, stop: Some(stop), done }
    }

    async fn connect(&self) -> SendRequest<Bytes> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        send
    }
}

/// How a call ended.
#[derive(Debug)]
struct Ended {
    /// Of HTTP.
    http: u16,
    status: String,
    message: String,
    code: String,
    headers: HeaderMap,
    /// The message of the answer.
    bytes: Vec<u8>,
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|v| v.to_str().unwrap().to_owned())
}

fn head(method: Method, path: &str, more: &[(&'static str, &str)]) -> Request<()> {
    let uri = format!("http://x{path}");
    let request = Request::builder().method(method).uri(uri).header("te", "trailers");
    let request = request.header("content-type", "application/grpc");
    more.iter().fold(request, |request, (name, value)| request.header(*name, *value)).body(()).unwrap()
}

async fn call(
    send: &mut SendRequest<Bytes>,
    path: &str,
    more: &[(&'static str, &str)],
    body: Vec<u8>,
) -> Ended {
    let mut ready = send.clone().ready().await.unwrap();
    let (answer, mut sending) = ready.send_request(head(Method::POST, path, more), false).unwrap();
    sending.send_data(body.into(), true).unwrap();
    ended(answer).await
}

async fn ended(answer: h2::client::ResponseFuture) -> Ended {
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    let of = |name| text(&trailers, name).or(text(&head.headers, name)).unwrap_or_default();
    if !bytes.is_empty() && of("grpc-status") == "0" {
        assert_eq!(bytes[0], 0);
        assert_eq!(bytes[1..5], u32::try_from(bytes.len() - 5).unwrap().to_be_bytes());
        bytes.drain(..5);
    }
    Ended {
        http: head.status.as_u16(),
        status: of("grpc-status"),
        message: of("grpc-message"),
        code: of("x-occlude-code"),
        headers: head.headers,
        bytes,
    }
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A field with a length of its own.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A request for the model `fake`, whose input's data lie beside it.
fn request(name: &str, datatype: &str, shape: &[usize], raw: &[u8]) -> Vec<u8> {
    let shape = shape.iter().flat_map(|&n| varint(n)).collect::<Vec<u8>>();
    let input = [field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, &shape)].concat();
    framed(&[field(1, b"fake"), field(3, b"a7"), field(5, &input), field(7, raw)].concat())
}

fn images(count: usize) -> Vec<u8> {
    request("images", "UINT8", &[count, 32, 32, 3], &vec![9; count * 3072])
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[tokio::test]
async fn calls_answer_what_the_routes_answer() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let server = Server::start(state.clone()).await;
    let mut send = server.connect().await;
    for path in [LIVE, READY, CHECK] {
        let answer = call(&mut send, path, &[], framed(&[])).await;
        assert_eq!((answer.status.as_str(), answer.bytes.as_slice()), ("0", [8, 1].as_slice()), "{path}");
    }
    let named = call(&mut send, CHECK, &[], framed(&field(1, b"inference.GRPCInferenceService"))).await;
    assert_eq!(named.bytes, [8, 1]);
    assert_eq!(call(&mut send, CHECK, &[], framed(&field(1, b"x"))).await.status, "5");
    let about = call(&mut send, METADATA, &[], framed(&field(1, b"fake"))).await;
    assert_eq!(text(&about.headers, "x-occlude-fingerprint").as_deref(), Some(FINGERPRINT));
    assert!(about.bytes.windows(12).any(|w| w == b"pixel_values"), "{about:?}");
    let ready = "/inference.GRPCInferenceService/ModelReady";
    assert_eq!(call(&mut send, ready, &[], framed(&field(1, b"fake"))).await.bytes, [8, 1]);
    assert!(call(&mut send, ready, &[], framed(&field(1, b"none"))).await.bytes.is_empty(), "false");

    let crop = Rgb::filled(32, 32, [3, 200, 90]);
    let body = request("images", "UINT8", &[1, 32, 32, 3], &crop.data);
    let answer = call(&mut send, INFER, &[("x-request-id", "mine")], body).await;
    assert_eq!((answer.http, answer.status.as_str()), (200, "0"), "{answer:?}");
    assert_eq!(text(&answer.headers, "x-request-id").as_deref(), Some("mine"));
    let want = Fake::answer(&crop);
    let raw = [field(6, &floats(&want.embedding)), field(6, &floats(&want.saliency))].concat();
    assert!(answer.bytes.starts_with(&[field(1, b"fake"), field(2, b"1"), field(3, b"a7")].concat()));
    assert!(answer.bytes.ends_with(&raw), "{:?}", answer.bytes);
    let metrics = get(&app(state), "/metrics").await;
    let metrics = String::from_utf8(metrics.bytes).unwrap();
    let line = format!("occlude_requests_total{{route=\"{INFER}\",status=\"200\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
}

#[tokio::test]
async fn failures_are_statuses_with_the_routes_messages() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { max_queue: 2, max_images: 3, max_body: 20_000, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::default()]);
    let key = create_key("alice", &dir.path().join("keys")).unwrap();
    state.set_keys(Keys::read(&dir.path().join("keys")).unwrap());
    let server = Server::start(state.clone()).await;
    let mut send = server.connect().await;
    let refused = call(&mut send, INFER, &[], images(1)).await;
    assert_eq!((refused.http, refused.status.as_str(), refused.code.as_str()), (200, "16", "unauthorized"));
    assert_eq!(call(&mut send, LIVE, &[], framed(&[])).await.status, "0", "as `/v2/health/live`");
    let bearer = format!("Bearer {key}");
    let with = [("authorization", bearer.as_str())];
    assert_eq!(call(&mut send, INFER, &with, images(2)).await.status, "0");
    let odd = [0, 0, 0, 0, 9, 1];
    let other = framed(&field(1, b"x"));
    let two = framed(&[field(1, b"fake"), field(5, &[]), field(5, &[])].concat());
    for (path, body, status, code, told) in [
        (INFER, images(3), "14", "overloaded", "the server is full; hint: "),
        (INFER, images(7), "8", "body_too_large", "larger than 20000 bytes"),
        (INFER, request("files", "BYTES", &[4], &[]), "8", "too_many_images", "more than 3 pictures"),
        (
            INFER,
            request("files", "BYTES", &[1], b"\x02\0\0\0hi"),
            "3",
            "unsupported_image",
            "hint: send the bytes",
        ),
        (
            INFER,
            request("images", "UINT8", &[1, 3, 32, 32], &[]),
            "3",
            "invalid_request",
            "expected [n, 32, 32, 3]",
        ),
        (
            INFER,
            request("images", "UINT8", &[1, 32, 32, 3], &[1]),
            "3",
            "invalid_request",
            "1 bytes: expected 3072",
        ),
        (INFER, two, "3", "invalid_request", "2 inputs: expected one"),
        (INFER, other.clone(), "5", "model_not_found", "there is no model `x`"),
        (METADATA, other, "5", "model_not_found", "there is no model `x`"),
        (INFER, odd.to_vec(), "3", "bad_request", "9 bytes announced, 1 sent"),
        (INFER, framed(&[0x0a, 9]), "3", "bad_request", "the message cannot be read"),
        (INFER, framed(&b"\x2a\x00".repeat(5000)), "3", "bad_request", "more than 4099 fields"),
        (METADATA, Vec::new(), "3", "bad_request", "0 bytes"),
        (METADATA, vec![0; 70_000], "8", "body_too_large", "65536 bytes"),
        (
            "/inference.GRPCInferenceService/ModelStreamInfer",
            framed(&[]),
            "12",
            "not_found",
            "no call `/inference",
        ),
    ] {
        let answer = call(&mut send, path, &with, body).await;
        let got = (answer.http, answer.status.as_str(), answer.code.as_str());
        assert_eq!(got, (200, status, code), "{answer:?}");
        assert!(answer.message.contains(told), "{answer:?}");
        assert!(!answer.message.contains("`--"), "visitors cannot set flags: {answer:?}");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    let mut ready = send.clone().ready().await.unwrap();
    let (answer, _) = ready.send_request(head(Method::GET, LIVE, &with), true).unwrap();
    assert_eq!(ended(answer).await.status, "12");
    let full = call(&mut send, INFER, &with, images(3)).await;
    assert!(full.headers.contains_key("retry-after"));
    let metrics = get_with(&app(state), "/metrics", &with).await;
    let metrics = String::from_utf8(metrics.bytes).unwrap();
    let line = format!("occlude_requests_total{{route=\"{INFER}\",status=\"429\"}} 2");
    assert!(metrics.contains(&line), "statuses are counted as those of HTTP: {metrics}");
}

#[tokio::test]
async fn a_server_without_its_model_is_not_ready() {
    let expected = Expected { models: vec!["fake".to_owned()], gallery: false, store: false };
    let server = Server::start(AppState::new(Limits::default(), expected)).await;
    let mut send = server.connect().await;
    assert_eq!(call(&mut send, LIVE, &[], framed(&[])).await.bytes, [8, 1]);
    assert!(call(&mut send, READY, &[], framed(&[])).await.bytes.is_empty());
    assert_eq!(call(&mut send, CHECK, &[], framed(&[])).await.bytes, [8, 2], "not serving");
    let early = call(&mut send, INFER, &[], images(1)).await;
    assert_eq!((early.status.as_str(), early.code.as_str()), ("14", "loading"));
}

#[tokio::test]
async fn accepted_calls_are_answered_and_new_ones_told_that_the_server_ends() {
    let gate = Gate::default();
    let state = fake_state(&Limits::default(), vec![Fake::gated(&gate)]);
    let mut server = Server::start(state.clone()).await;
    let mut send = server.connect().await;
    let accepted: Vec<_> = (0..5)
        .map(|_| {
            let mut send = send.clone();
            tokio::spawn(async move { call(&mut send, INFER, &[], images(1)).await })
        })
        .collect();
    while tokio::time::timeout(Duration::from_millis(1), state.idle()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.stop.take().unwrap().send(()).unwrap();
    let late = loop {
        let late = call(&mut send, INFER, &[], images(1)).await;
        if late.status != "0" {
            break late;
        }
    };
    assert_eq!((late.status.as_str(), late.code.as_str()), ("14", "draining"));
    assert_eq!(call(&mut send, LIVE, &[], framed(&[])).await.bytes, [8, 1], "what watches is answered");
    assert!(!server.done.is_finished(), "five are still waiting");
    gate.open();
    for answer in accepted {
        assert_eq!(answer.await.unwrap().status, "0");
    }
    drop(send);
    tokio::time::timeout(Duration::from_secs(9), server.done).await.expect("it ended").unwrap();
}

/// Everything until the server closes, and how long that took.
async fn until_closed(mut stream: TcpStream) -> (Vec<u8>, Duration) {
    let (mut bytes, start) = (Vec::new(), Instant::now());
    let read = stream.read_to_end(&mut bytes);
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the server never closed");
    (bytes, start.elapsed())
}

#[tokio::test]
async fn slow_and_hostile_clients_cost_their_connection_only() {
    let limits = Limits { read_timeout: Duration::from_millis(300).into(), ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::default()]);
    let server = Server::start(state.clone()).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let huge = [&preface[..], &settings, &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat();
    let odd: [&[u8]; 6] = [
        b"",
        b"PRI * HT",
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        preface,
        &[&preface[..], &settings].concat(),
        &huge,
    ];
    for bytes in odd {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let (_, took) = until_closed(stream).await;
        assert!(took < Duration::from_secs(3), "{took:?}: {bytes:?}");
    }
    // A body that stops coming.
    let mut send = server.connect().await;
    let mut ready = send.clone().ready().await.unwrap();
    let (answer, mut sending) = ready.send_request(head(Method::POST, INFER, &[]), false).unwrap();
    sending.send_data(Bytes::from_static(&[0, 0, 0, 9, 0, 1]), false).unwrap();
    let slow = ended(answer).await;
    assert_eq!((slow.status.as_str(), slow.code.as_str()), ("4", "read_timeout"), "{slow:?}");
    // The others on its connection are none the worse.
    assert_eq!(call(&mut send, INFER, &[], images(1)).await.status, "0");
    // A call that is withdrawn leaves nothing behind.
    let (answer, mut sending) = ready.send_request(head(Method::POST, INFER, &[]), false).unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    assert!(answer.await.is_err());
    tokio::time::timeout(Duration::from_secs(5), state.idle()).await.expect("nothing is in progress");
}

#[tokio::test]
async fn idle_connections_and_answers_that_nobody_takes_end() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let server = Server::start(state.clone()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    assert_eq!(call(&mut send, INFER, &[], images(1)).await.status, "0");
    // Longer than a head may take.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(call(&mut send, INFER, &[], images(1)).await.status, "0");
    let start = Instant::now();
    let _ = tokio::time::timeout(Duration::from_secs(8), ended).await.expect("it is closed");
    assert!(start.elapsed() > Duration::from_millis(1000), "{:?}", start.elapsed());

    // A client that lets nothing in: the window of its streams is closed.
    let stream = TcpStream::connect(server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (mut send, connection) = builder.initial_window_size(0).handshake::<_, Bytes>(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut answers = Vec::new();
    for _ in 0..3 {
        let mut ready = send.clone().ready().await.unwrap();
        let (answer, mut sending) = ready.send_request(head(Method::POST, INFER, &[]), false).unwrap();
        sending.send_data(images(1).into(), true).unwrap();
        answers.push(answer.await.unwrap());
    }
    let start = Instant::now();
    let _ = tokio::time::timeout(Duration::from_secs(8), ended).await.expect("it is cut");
    assert!(start.elapsed() > Duration::from_millis(1000), "{:?}", start.elapsed());
    assert!(send.send_request(head(Method::POST, INFER, &[]), false).is_err());
}

#[test]
fn tritons_client_understands_the_answers_and_the_errors() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("photo.png"), png_of(60, 40, &ramp(60, 40))).unwrap();
    std::fs::write(dir.path().join("crop.png"), png_of(36, 36, &ramp(36, 36))).unwrap();
    let key = create_key("alice", &dir.path().join("keys")).unwrap();
    let float = fixture("tiny.onnx");
    let uint8 = format!("uint8={}", fixture("tiny-uint8.onnx").display());
    let keys = dir.path().join("keys");
    let server = Running::bare(&[
        "--model",
        float.to_str().unwrap(),
        "--model",
        &uint8,
        "--grpc-port",
        "0",
        "--max-body",
        "1MiB",
        // Which pictures share a batch is chance, and may show in the last bit.
        "--max-batch",
        "1",
        "--api-keys",
        keys.to_str().unwrap(),
    ]);
    let port = server.grpc_address();
    server.wait_for("ready");
    let script = include_str!("grpc_client.py").replace("GRPC_ADDRESS", &port).replace("API_KEY", &key);
    python(&script, &server, dir.path());
}
