//! What is spoken on a connection: HTTP/1.1 or HTTP/2, as the client begins, or HTTP/2 alone for gRPC.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};

use super::pace::Limits;

/// Largest request head in bytes; hyper answers 431 above it.
const MAX_HEAD: usize = 32 * 1024;

/// Requests side by side on one connection; a client that has more waits with them.
#[cfg(feature = "http2")]
const MAX_STREAMS: u32 = 128;

/// Bytes that a client of HTTP/2 may send on one connection before somebody reads them. With answers 50 ms away that
/// is 20 MB a second.
#[cfg(feature = "http2")]
const WINDOW: u32 = 1 << 20;

/// What a port speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP in any version that is built in.
    Http,
    /// HTTP/2 alone.
    #[cfg(feature = "grpc")]
    Grpc,
}

/// Serves a connection to its end, which is near once `watcher` is told so.
#[cfg(feature = "http2")]
pub(super) async fn connection<I, S>(stream: I, service: S, speaks: Speaks, waits: Limits, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    use hyper_util::rt::TokioExecutor;
    use hyper_util::server::conn::auto;

    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper knows one time for both, so it gets the longer one; the shorter one is the stream's.
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(waits.idle.max(waits.head))
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW);
    let builder = match speaks {
        Speaks::Http => builder,
        #[cfg(feature = "grpc")]
        Speaks::Grpc => builder.http2_only(),
    };
    // Errors here are the client's: it left, or it spoke no HTTP.
    let _ = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await;
}

/// Likewise, without HTTP/2.
#[cfg(not(feature = "http2"))]
pub(super) async fn connection<I, S>(stream: I, service: S, _: Speaks, waits: Limits, watcher: Watcher)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send + 'static,
{
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(waits.idle.max(waits.head)).max_buf_size(MAX_HEAD);
    let _ = watcher.watch(builder.serve_connection(TokioIo::new(stream), service)).await;
}
