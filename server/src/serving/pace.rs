//! How long a connection may wait for its client: shorter within a request's head than between two requests.
//!
//! hyper has one time-out for both, which ends idle connections as early as slow heads: a load balancer that keeps its
//! connections longer than that sends requests into closed ones.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::service::Service;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the client of a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing, since then; it may be idle that long.
    Idle { since: Instant, limit: Duration },
    /// Sending a head since then.
    Head { since: Instant },
    /// It sends a body or waits for an answer: that has bounds of its own.
    Busy,
}

/// Bounds of waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For a head, and for the first byte of a connection.
    pub(crate) head: Duration,
    /// Between an answer and the next head.
    pub(crate) idle: Duration,
}

/// What stream and service of a connection know of each other.
#[derive(Clone)]
pub(crate) struct Pace {
    phase: Arc<Mutex<Phase>>,
    /// Who reads without a bound, and has to look again when there is one.
    reader: Arc<Mutex<Option<Waker>>>,
    limits: Limits,
}

impl Pace {
    /// Of a connection that has just been made.
    pub(crate) fn new(limits: Limits) -> Self {
        let phase = Phase::Idle { since: Instant::now(), limit: limits.head };
        Self { phase: Arc::new(Mutex::new(phase)), reader: Arc::default(), limits }
    }

    /// Never held across a wait.
    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock()
    }

    fn due(&self) -> Option<Instant> {
        match *self.phase() {
            Phase::Idle { since, limit } => Some(since + limit),
            Phase::Head { since } => Some(since + self.limits.head),
            Phase::Busy => None,
        }
    }

    fn received(&self) {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Idle { .. }) {
            *phase = Phase::Head { since: Instant::now() };
        }
    }

    fn answered(&self) {
        *self.phase() = Phase::Idle { since: Instant::now(), limit: self.limits.idle };
        // hyper does not read again of itself where a read that began during the answer is still waiting.
        if let Some(reader) = self.reader.lock().take() {
            reader.wake();
        }
    }

    fn unbounded(&self, reader: &Waker) {
        *self.reader.lock() = Some(reader.clone());
    }
}

/// A stream whose reads end when the client takes too long.
pub(crate) struct Paced<S> {
    stream: S,
    pace: Pace,
    sleep: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, sleep: Box::pin(sleep_until(Instant::now())) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                self.pace.received();
            }
            return Poll::Ready(done);
        }
        let Some(due) = self.pace.due() else {
            self.pace.unbounded(context.waker());
            return Poll::Pending;
        };
        if self.sleep.deadline() != due {
            self.sleep.as_mut().reset(due);
        }
        ready!(self.sleep.as_mut().poll(context));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }
}

/// A service that tells the stream when a request is there and when it is answered.
#[derive(Clone)]
pub(crate) struct Telling<S> {
    pub(crate) service: S,
    pub(crate) pace: Pace,
}

impl<S, B> Service<Request<B>> for Telling<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        *self.pace.phase() = Phase::Busy;
        let (answer, pace) = (self.service.call(request), self.pace.clone());
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Told { body, pace }))) })
    }
}

/// The body of an answer; when it is dropped, it has been handed to the connection as a whole.
struct Told {
    body: Body,
    pace: Pace,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.pace.answered();
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// How long a read waits.
    async fn waits(paced: &mut Paced<tokio::io::DuplexStream>) -> Duration {
        let start = Instant::now();
        let mut buffer = [0u8; 10];
        let error = paced.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        start.elapsed()
    }

    #[tokio::test]
    async fn a_head_has_less_time_than_an_idle_connection() {
        let (mut client, server) = duplex(100);
        let pace = Pace::new(Limits { head: ms(100), idle: ms(900) });
        let mut paced = Paced::new(server, pace.clone());
        let first = waits(&mut paced).await;
        assert!(first >= ms(80) && first < ms(800), "the first byte: {first:?}");
        pace.answered();
        assert!(waits(&mut paced).await >= ms(850), "between requests");
        pace.answered();
        let mut buffer = [0u8; 10];
        let start = Instant::now();
        for byte in [b"G", b"E"] {
            client.write_all(byte).await.unwrap();
            assert_eq!(paced.read(&mut buffer).await.unwrap(), 1);
        }
        waits(&mut paced).await;
        let head = start.elapsed();
        assert!(head >= ms(80) && head < ms(800), "from its first byte to its end: {head:?}");
        *pace.phase() = Phase::Busy;
        let long = tokio::time::timeout(ms(300), paced.read(&mut buffer)).await;
        assert!(long.is_err(), "bodies and answers have bounds of their own");
    }
}
