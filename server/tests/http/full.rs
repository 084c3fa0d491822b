//! A server that is full, and pictures that wait too long.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use flate2::Compression;
use flate2::read::ZlibEncoder;
use futures_util::stream;
use occlude_serve::{Fetcher, Hosts, Limits, app};
use serde_json::json;

use crate::api::{RED, fails, is, multipart};
use crate::binary::Running;
use crate::common::*;
use crate::fake::{Fake, Gate};

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let gate = Gate::default();
    let limits = Limits { max_queue: 3, max_batch: 1, max_images: 3, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::gated(&gate)]);
    let app = app(state.clone());
    let inside: Vec<_> = (0..3)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { post(&app, "/v1/embed", &[], png(40, 40, RED)).await.status })
        })
        .collect();
    while !get(&app, "/metrics").await.bytes.windows(27).any(|w| w == b"occlude_in_flight_images 3\n") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let refused = post(&app, "/v1/embed", &[], png(40, 40, RED)).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "overloaded"));
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    gate.open();
    for request in inside {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(
        post(&app, "/v1/embed", &[], png(40, 40, RED)).await.status,
        StatusCode::OK,
        "there is room again"
    );
    // A request of more pictures than there is room for is refused as a whole.
    let (kind, three) = multipart(&[("a", &png(9, 9, RED)), ("b", &png(9, 9, RED)), ("c", &png(9, 9, RED))]);
    let whole = post(&app, "/v1/embed", &[("content-type", &kind)], three).await;
    assert_eq!(whole.status, StatusCode::OK, "three fit exactly");
}

#[tokio::test]
async fn bodies_are_bounded_together() {
    let limits = Limits { max_body: 2000, max_buffered: 2500, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::default()]));
    let slow = |size: usize| {
        let first = stream::iter([Ok::<_, std::io::Error>(vec![0u8; size])]);
        Body::from_stream(futures_util::StreamExt::chain(first, stream::pending()))
    };
    let app2 = app.clone();
    let holder = tokio::spawn(async move { post(&app2, "/v1/embed", &[], slow(1900)).await.status });
    while !get(&app, "/metrics").await.bytes.windows(27).any(|w| w == b"occlude_in_flight_images 1\n") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(fails(&app, "/v1/embed", &[], vec![0u8; 1000]).await, is(429, "overloaded"));
    holder.abort();
    let _ = holder.await;
    let after = fails(&app, "/v1/embed", &[], vec![0u8; 1000]).await;
    assert_eq!(after, is(415, "unsupported_image"), "the room is given back when the client leaves");
}

#[tokio::test]
async fn what_has_waited_too_long_is_refused_with_a_time_to_come_back() {
    let gate = Gate::default();
    let max_wait = Some(Duration::from_millis(300).into());
    let limits = Limits { max_batch: 1, max_wait, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::gated(&gate)]));
    let ask = || {
        let app = app.clone();
        tokio::spawn(async move { post(&app, "/v1/embed", &[], png(40, 40, RED)).await })
    };
    let (running, waiting) = (ask(), ask());
    while !get(&app, "/metrics").await.bytes.windows(27).any(|w| w == b"occlude_in_flight_images 2\n") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    gate.open();
    let (running, waiting) = (running.await.unwrap(), waiting.await.unwrap());
    let mut statuses = [running.status.as_u16(), waiting.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429], "one was being encoded already");
    let late = if running.status == StatusCode::OK { waiting } else { running };
    assert_eq!(late.code(), "overloaded");
    assert!(late.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(post(&app, "/v1/embed", &[], png(40, 40, RED)).await.status, StatusCode::OK);
}

/// What is fetched for a request is held as its body is.
#[tokio::test]
async fn pictures_that_are_fetched_count_as_bodies_do() {
    // A file that no filter and no compression makes small.
    let noise = |i: u32| {
        let mixed = i.wrapping_mul(2_654_435_761);
        ((mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519) >> 24) as u8
    };
    let picture = png_of(60, 60, &(0..60 * 60 * 3).map(noise).collect::<Vec<u8>>());
    let size = picture.len();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/a.png", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
            // Who has enough hangs up.
            let _ = stream.write_all(&[head.as_bytes(), &picture].concat());
        }
    });
    let limits = Limits { max_body: size, max_buffered: 2 * size + 1000, ..Limits::default() };
    let state = fake_state(&limits, vec![Fake::default()]);
    let hosts = Hosts { named: vec!["127.0.0.1".to_owned()] };
    state.set_fetcher(Fetcher::new(hosts, Duration::from_secs(20), limits.max_body));
    let app = app(state);
    let ask = |count: usize| {
        let body = json!({"images": vec![url.as_str(); count]}).to_string();
        let app = app.clone();
        async move { post(&app, "/v1/embed", &[("content-type", "application/json")], body).await }
    };
    for _ in 0..3 {
        let fitting = async {
            // What was being read for a request that was refused is held until that ends.
            while ask(2).await.status != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(20), fitting).await.is_ok(),
            "the room is given back"
        );
        let more = ask(3).await;
        // 429 would say that trying again helps.
        assert_eq!((more.status.as_u16(), more.code().as_str()), (413, "body_too_large"));
    }
}

/// As trees of JSON, these bodies would take one to three gigabytes.
#[test]
fn what_unpacks_to_costly_json_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(&["--data", dir.path().to_str().unwrap()]);
    server.wait_for("ready");
    assert!(server.send("PUT", "/v1/collections/c", "application/json", b"").starts_with("HTTP/1.1 201"));
    let most = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() / 1024
    };
    let one = format!("{}0{}", "[".repeat(100), "]".repeat(100));
    let list = format!("[{}]", vec![one; 100_000].join(","));
    let before = most();
    for (path, body, status) in [
        ("/v2/repository/index", format!(r#"{{"a":{list}}}"#), "200"),
        ("/v2/repository/models/x/load", format!(r#"{{"parameters":{{"a":{list}}}}}"#), "403"),
        ("/v1/embed", format!(r#"{{"image":{{"a":{list}}}}}"#), "422"),
        ("/v1/embeddings", format!(r#"{{"model":"tiny","input":{{"a":{list}}}}}"#), "422"),
        ("/v1/collections/c/count", format!(r#"{{"filter":{list}}}"#), "422"),
        (
            "/v1/collections/c/points",
            format!(r#"{{"points":[{{"id":"a","payload":{{"a":{list}}}}}]}}"#),
            "413",
        ),
    ] {
        let mut packed = Vec::new();
        ZlibEncoder::new(body.as_bytes(), Compression::best()).read_to_end(&mut packed).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-encoding: deflate\r\ncontent-length: {}\r\n\r\n",
            packed.len()
        );
        let answer = server.ask(&[head.as_bytes(), &packed].concat());
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(packed.len() < 200_000 && most() - before < 800, "{path}: {} MiB", most() - before);
    }
}
