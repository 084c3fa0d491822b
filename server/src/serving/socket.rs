//! The socket: connections with time limits, and a graceful end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::client::Peer;
use super::pace::{Limits, Pace, Paced, Telling};
use super::state::AppState;
use crate::observe::supervisor::supervisor;

/// Largest request head in bytes; hyper answers 431 above it.
const MAX_HEAD: usize = 32 * 1024;

/// After the last answer is made, the time for the network to take it.
const FLUSH: Duration = Duration::from_secs(5);

/// Bounds on connections.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a request's head, from its first byte; also for the first byte of a connection.
    pub head: Duration,
    /// Between an answer and the next request.
    pub keep_alive: Duration,
    /// For answering what was accepted, once the end has begun.
    pub drain: Duration,
    /// Connections at once.
    pub max_connections: usize,
}

/// Serves until `end` completes. Then new work is refused with 503 while accepted requests are finished, and the
/// connections are closed; whatever is left after `drain` is cut.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    state: AppState,
    timeouts: Timeouts,
    end: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let waits = Limits { head: timeouts.head, idle: timeouts.keep_alive };
    let room = Arc::new(Semaphore::new(timeouts.max_connections.min(Semaphore::MAX_PERMITS)));
    tokio::select! {
        () = accept(&listener, &router, &graceful, &room, waits) => {}
        () = end => {}
    }
    state.start_draining();
    supervisor(&[NotifyState::Stopping]);
    // Still accepting: who comes now is told 503 instead of finding a closed door.
    tokio::select! {
        () = accept(&listener, &router, &graceful, &room, waits) => {}
        () = state.idle() => {}
        () = tokio::time::sleep(timeouts.drain) => {
            tracing::warn!("requests were cut off after {} s of draining", timeouts.drain.as_secs_f64());
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(FLUSH, graceful.shutdown()).await;
}

async fn accept(
    listener: &TcpListener,
    router: &Router,
    graceful: &GracefulShutdown,
    room: &Arc<Semaphore>,
    waits: Limits,
) {
    loop {
        let permit = Arc::clone(room).acquire_owned().await;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: closing connections helps, spinning does not.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Small answers leave at once.
        let _ = stream.set_nodelay(true);
        let mut builder = http1::Builder::new();
        // hyper knows one time for both, so it gets the longer one; the shorter one is the stream's.
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(waits.idle.max(waits.head))
            .max_buf_size(MAX_HEAD);
        let pace = Pace::new(waits);
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            router.clone().oneshot(request)
        });
        let service = Telling { service, pace: pace.clone() };
        let stream = TokioIo::new(Paced::new(stream, pace));
        let connection = graceful.watch(builder.serve_connection(stream, service));
        tokio::spawn(async move {
            // Errors here are the client's: it left, or it spoke no HTTP.
            let _ = connection.await;
            drop(permit);
        });
    }
}
