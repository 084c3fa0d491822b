//! The server on a real socket: draining, clients that leave, slow and hostile ones.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::*;
use occlude_serve::encoder::fake::{Fake, Gate};
use occlude_serve::{AppState, Limits, Timeouts, app, serve};
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
        let timeouts = Timeouts { head: Duration::from_millis(400), drain, max_connections: 64 };
        let shared = state.clone();
        let done = tokio::spawn(async move {
            let end = async { drop(stopped.await) };
            serve(listener, app(shared.clone()), shared, timeouts, end).await;
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
    let limits = Limits { read_timeout: Duration::from_millis(150), ..Limits::default() };
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
