//! The server on a real socket: draining, clients that leave, slow and hostile ones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::*;
use crate::fake::{Fake, Gate};
use occlude_serve::{AppState, Door, Limits, Timeouts, app, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Server {
    address: SocketAddr,
    state: AppState,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<()>,
}

impl Server {
    async fn start(limits: Limits, fake: Fake, drain: Duration) -> Self {
        let state = fake_state(&limits, vec![fake]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let keep_alive = Duration::from_millis(1500);
        let timeouts = Timeouts { head: Duration::from_millis(400), keep_alive, drain, max_connections: 64 };
        let shared = state.clone();
        let done = tokio::spawn(async move {
            let end = async { drop(stopped.await) };
            serve(vec![Door::http(listener, app(shared.clone()))], shared, timeouts, end).await;
        });
        Self { address, state, stop: Some(stop), done }
    }

    fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    fn metric(&self, name: &str) -> u64 {
        match name {
            "images" => self.state.metrics().batches().iter().map(|(size, n)| *size as u64 * n).sum(),
            other => panic!("{other}"),
        }
    }
}

fn embed(close: bool) -> Vec<u8> {
    let body = png(40, 40, [90, 60, 30]);
    let connection = if close { "close" } else { "keep-alive" };
    let mut request = format!(
        "POST /v1/embed HTTP/1.1\r\nhost: x\r\nconnection: {connection}\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}

/// Everything until the server closes.
async fn all(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // A reset is an end too.
    let _ = tokio::time::timeout(Duration::from_secs(10), read).await.expect("the server never closed");
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether the state has requests in progress.
async fn busy(state: &AppState) -> bool {
    tokio::time::timeout(Duration::from_millis(1), state.idle()).await.is_err()
}

async fn until_busy(state: &AppState) {
    while !busy(state).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn accepted_requests_are_answered_and_new_ones_told_503() {
    let gate = Gate::default();
    let mut server = Server::start(Limits::default(), Fake::gated(&gate), Duration::from_secs(20)).await;
    let mut accepted = Vec::new();
    for _ in 0..5 {
        accepted.push(server.send(&embed(false)).await);
    }
    until_busy(&server.state).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    server.stop();
    let late = loop {
        let answer = all(server.send(&embed(true)).await).await;
        if !answer.is_empty() {
            break answer;
        }
    };
    assert!(late.starts_with("HTTP/1.1 503") && late.contains("\"draining\""), "{late}");
    assert!(!server.done.is_finished(), "five are still waiting");
    gate.open();
    for stream in accepted {
        let answer = all(stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"embedding\""), "{answer}");
    }
    server.done.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err(), "the door is closed");
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let mut server = Server::start(Limits::default(), Fake::default(), Duration::from_secs(20)).await;
    let idle = server.send(b"").await;
    let mut used = server.send(&embed(false)).await;
    let mut some = [0u8; 12];
    used.read_exact(&mut some).await.unwrap();
    assert_eq!(&some, b"HTTP/1.1 200");
    let start = Instant::now();
    server.stop();
    server.done.await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    drop((idle, used));
}

#[tokio::test]
async fn draining_ends_even_when_the_model_hangs() {
    let gate = Gate::default();
    let mut server = Server::start(Limits::default(), Fake::gated(&gate), Duration::from_millis(100)).await;
    let stuck = server.send(&embed(false)).await;
    until_busy(&server.state).await;
    server.stop();
    tokio::time::timeout(Duration::from_secs(9), server.done).await.expect("it ended").unwrap();
    gate.open();
    drop(stuck);
}

#[tokio::test]
async fn a_client_that_leaves_stops_costing() {
    let gate = Gate::default();
    let limits = Limits { max_batch: 1, ..Limits::default() };
    let server = Server::start(limits, Fake::gated(&gate), Duration::from_secs(5)).await;
    let stays = server.send(&embed(true)).await;
    until_busy(&server.state).await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    let mut leaving = Vec::new();
    for _ in 0..6 {
        leaving.push(server.send(&embed(true)).await);
    }
    tokio::time::sleep(Duration::from_millis(80)).await;
    drop(leaving);
    tokio::time::sleep(Duration::from_millis(80)).await;
    gate.open();
    assert!(all(stays).await.starts_with("HTTP/1.1 200"));
    server.state.idle().await;
    until("one picture was encoded", || server.metric("images") == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.metric("images"), 1, "the others were withdrawn from the queue");
}

#[tokio::test]
async fn slow_heads_and_slow_bodies_are_cut() {
    let limits = Limits { read_timeout: Duration::from_millis(150).into(), ..Limits::default() };
    let server = Server::start(limits, Fake::default(), Duration::from_secs(5)).await;
    let start = Instant::now();
    let head = all(server.send(b"POST /v1/embed HTTP/1.1\r\nhost: x\r\n").await).await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    let body = all(server.send(&embed(true)[..160]).await).await;
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("\"read_timeout\""), "{body}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(!busy(&server.state).await);
}

#[tokio::test]
async fn hostile_heads_cost_their_connection_only() {
    let server = Server::start(Limits::default(), Fake::default(), Duration::from_secs(5)).await;
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx-big: {}\r\n\r\n", "a".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(500));
    let odd: [&[u8]; 5] = [
        huge.as_bytes(),
        many.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ];
    for bytes in odd {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may close before everything is written.
        let _ = stream.write_all(bytes).await;
        let answer = all(stream).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(all(server.send(&embed(true)).await).await.starts_with("HTTP/1.1 200"));
}

/// A request that is refused before its body is read.
fn refused(size: usize, more: &str) -> Vec<u8> {
    let head = format!(
        "POST /v1/embed HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n{more}\r\n"
    );
    head.into_bytes()
}

#[tokio::test]
async fn a_refused_body_leaves_the_connection_usable() {
    let server = Server::start(Limits::default(), Fake::default(), Duration::from_secs(5)).await;
    let size = 3_000_000;
    let mut bytes = refused(size, "");
    bytes.resize(bytes.len() + size, b'x');
    bytes.extend_from_slice(&embed(true));
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // Like any client: it reads once it has sent everything.
    stream.write_all(&bytes).await.unwrap();
    let answers = all(stream).await;
    assert!(answers.starts_with("HTTP/1.1 415"), "{answers}");
    assert!(answers.contains("HTTP/1.1 200") && answers.contains("\"embedding\""), "{answers}");
}

#[tokio::test]
async fn a_body_that_is_not_thrown_away_ends_the_connection_and_says_so() {
    let limits = Limits { max_body: 1000, ..Limits::default() };
    let server = Server::start(limits, Fake::default(), Duration::from_secs(5)).await;
    let waits = all(server.send(&refused(500, "expect: 100-continue\r\n")).await).await;
    assert!(waits.starts_with("HTTP/1.1 415") && waits.contains("connection: close"), "{waits}");
    let mut long = refused(100_000, "");
    long.resize(long.len() + 2000, b'x');
    let long = all(server.send(&long).await).await;
    assert!(long.starts_with("HTTP/1.1 415") && long.contains("connection: close"), "{long}");
}

/// A phone far from everything: slower than any total would allow, but it goes on.
#[tokio::test]
async fn a_slow_body_gets_through_and_one_that_only_drips_does_not() {
    let limits = Limits {
        read_timeout: Duration::from_millis(300).into(),
        min_rate: 500,
        timeout: Duration::from_millis(600).into(),
        ..Limits::default()
    };
    let server = Server::start(limits, Fake::default(), Duration::from_secs(5)).await;
    // What does not compress.
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let pixels: Vec<u8> = (0..60 * 60 * 3).map(|_| noise()).collect();
    let picture = png_of(60, 60, &pixels);
    let head = format!(
        "POST /v1/embed HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        picture.len()
    );
    let start = Instant::now();
    let mut stream = server.send(head.as_bytes()).await;
    for piece in picture.chunks(picture.len().div_ceil(16)) {
        stream.write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let answer = all(stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(start.elapsed() > Duration::from_millis(1500), "five times `--read-timeout`, twice `--timeout`");

    // Half of it at once buys no time for the rest.
    let start = Instant::now();
    let mut stream = server.send(head.as_bytes()).await;
    stream.write_all(&picture[..picture.len() / 2]).await.unwrap();
    for byte in &picture[picture.len() / 2..] {
        if stream.write_all(&[*byte]).await.is_err() || start.elapsed() > Duration::from_secs(3) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut some = [0u8; 1];
        if tokio::time::timeout(Duration::from_millis(1), stream.peek(&mut some)).await.is_ok() {
            break;
        }
    }
    let told = all(stream).await;
    assert!(
        told.starts_with("HTTP/1.1 408") && told.contains("too slowly") && !told.contains("`--"),
        "{told}"
    );
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn idle_connections_are_kept_longer_than_a_head_may_take() {
    let server = Server::start(Limits::default(), Fake::default(), Duration::from_secs(5)).await;
    let mut stream = server.send(&embed(false)).await;
    let mut answer = vec![0u8; 16_384];
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    // Longer than a head may take, and the connection still answers.
    tokio::time::sleep(Duration::from_millis(900)).await;
    stream.write_all(&embed(false)).await.unwrap();
    let read = stream.read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
    let start = Instant::now();
    assert!(all(stream).await.is_empty());
    let idle = start.elapsed();
    assert!(idle > Duration::from_millis(1000) && idle < Duration::from_secs(8), "{idle:?}");
    // Within a head the shorter time counts, whatever trickles in.
    let start = Instant::now();
    let mut slow = server.send(b"POST /v1/embed HTTP/1.1\r\n").await;
    while slow.write_all(b"x: y\r\n").await.is_ok() && start.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

/// What watches or describes the server is answered to the end; everything else is turned away.
#[tokio::test]
async fn at_shutdown_all_work_is_refused() {
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let app = app(state.clone());
    state.start_draining();
    for path in ["/", "/healthz", "/metrics", "/openapi.json", "/docs/", "/v2", "/v2/health/live"] {
        assert_eq!(get(&app, path).await.status.as_u16(), 200, "{path}");
    }
    assert_eq!(get(&app, "/readyz").await.json()["status"], "draining");
    assert_eq!(get(&app, "/readyz").await.status.as_u16(), 503);
    for path in
        ["/v1/models", "/v1/models/fake", "/v1/collections", "/v1/collections/c", "/v1/gallery/0/thumbnail"]
    {
        let answer = get(&app, path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "draining"), "{path}");
    }
    for path in [
        "/v1/embed",
        "/v1/saliency",
        "/v1/analyze",
        "/v1/search",
        "/v1/embeddings",
        "/v1/collections/c/points",
    ] {
        let answer = post(&app, path, &[], png(9, 9, [1, 2, 3])).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "draining"), "{path}");
    }
}
