//! A server that is full, and pictures that wait too long.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::stream;
use occlude_serve::{Limits, app};

use crate::api::{RED, fails, is, multipart};
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
