//! The socket: connections with time limits, and a graceful end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::join_all;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::client::Peer;
use super::pace::{Limits, Pace, Paced, Telling};
use super::protocols::{Speaks, connection};
use super::state::AppState;
#[cfg(feature = "tls")]
use super::tls::Tls;
use crate::observe::supervisor::supervisor;

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
    /// Connections at once, at each door.
    pub max_connections: usize,
}

/// A port, and what answers there.
pub struct Door {
    listener: TcpListener,
    inside: Inside,
}

/// What answers at a door.
#[derive(Clone)]
struct Inside {
    router: Router,
    speaks: Speaks,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
}

impl Door {
    /// One for HTTP.
    pub fn http(listener: TcpListener, router: Router) -> Self {
        Self::new(listener, router, Speaks::Http)
    }

    /// One for gRPC.
    #[cfg(feature = "grpc")]
    pub fn grpc(listener: TcpListener, router: Router) -> Self {
        Self::new(listener, router, Speaks::Grpc)
    }

    fn new(listener: TcpListener, router: Router, speaks: Speaks) -> Self {
        let inside = Inside {
            router,
            speaks,
            #[cfg(feature = "tls")]
            tls: None,
        };
        Self { listener, inside }
    }

    /// The same behind TLS, where there is a certificate.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn behind(mut self, tls: Option<Tls>) -> Self {
        self.inside.tls = tls;
        self
    }
}

/// Serves until `end` completes. Then new work is refused with 503 while accepted requests are finished, and the
/// connections are closed; whatever is left after `drain` is cut.
pub async fn serve(doors: Vec<Door>, state: AppState, timeouts: Timeouts, end: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let waits = Limits { head: timeouts.head, idle: timeouts.keep_alive };
    let room = || Arc::new(Semaphore::new(timeouts.max_connections.min(Semaphore::MAX_PERMITS)));
    let rooms: Vec<_> = doors.iter().map(|_| room()).collect();
    let accepting =
        || join_all(doors.iter().zip(&rooms).map(|(door, room)| accept(door, &graceful, room, waits)));
    tokio::select! {
        _ = accepting() => {}
        () = end => {}
    }
    state.start_draining();
    supervisor(&[NotifyState::Stopping]);
    // Still accepting: who comes now is told 503 instead of finding a closed door.
    tokio::select! {
        _ = accepting() => {}
        () = state.idle() => {}
        () = tokio::time::sleep(timeouts.drain) => {
            tracing::warn!("requests were cut off after {} s of draining", timeouts.drain.as_secs_f64());
        }
    }
    drop(doors);
    let _ = tokio::time::timeout(FLUSH, graceful.shutdown()).await;
}

async fn accept(door: &Door, graceful: &GracefulShutdown, room: &Arc<Semaphore>, waits: Limits) {
    loop {
        let permit = Arc::clone(room).acquire_owned().await;
        let (stream, peer) = match door.listener.accept().await {
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
        let served = answer(stream, Peer(peer), door.inside.clone(), waits, graceful.watcher());
        tokio::spawn(async move {
            served.await;
            drop(permit);
        });
    }
}

/// Answers what comes by one connection.
async fn answer(stream: TcpStream, peer: Peer, inside: Inside, waits: Limits, watcher: Watcher) {
    let (pace, router, speaks) = (Pace::new(waits), inside.router, inside.speaks);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.clone().oneshot(request)
    });
    let service = Telling { service, pace: pace.clone() };
    let stream = Paced::new(stream, pace);
    #[cfg(feature = "tls")]
    if let Some(tls) = inside.tls {
        // Errors here are the client's. It has as long for this and a request's head as for a head alone.
        if let Ok(stream) = tls.acceptor().accept(stream).await {
            connection(stream, service, speaks, waits, watcher).await;
        }
        return;
    }
    connection(stream, service, speaks, waits, watcher).await;
}
