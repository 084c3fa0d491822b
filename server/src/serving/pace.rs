//! How long a connection may wait for its client: shorter within a request's head than between two requests.
//!
//! hyper has one time-out for both, which ends idle connections as early as slow heads: a load balancer that keeps its
//! connections longer than that sends requests into closed ones. On connections of HTTP/2, whose requests come side by
//! side, hyper has no time-out at all.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Request, Response, Version};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::service::Service;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What the client of a connection is doing while no request is in progress.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing, since then; it may be idle that long.
    Idle { since: Instant, limit: Duration },
    /// Sending a head since then.
    Head { since: Instant },
}

/// Bounds of waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For a head, and for the first byte of a connection.
    pub(crate) head: Duration,
    /// Between an answer and the next head; also for taking an answer.
    pub(crate) idle: Duration,
}

/// A connection as its stream and its service see it.
struct State {
    phase: Phase,
    /// Requests whose heads are there and whose answers have not been handed over. Receiving a body and working on it
    /// have bounds of their own.
    open: usize,
    /// Whether requests come side by side. Then bytes may be of any of them, or of none, and tell nothing about a head;
    /// a head that is not complete ends with the time of an idle connection.
    multiplexed: bool,
    /// Answers that their client has not taken to the end, by when they began and a number.
    answers: BTreeSet<(Instant, u64)>,
    requests: u64,
    /// Who reads, and has to look again when less time is left than there was.
    reader: Option<Waker>,
}

/// What stream and service of a connection know of each other.
#[derive(Clone)]
pub(crate) struct Pace {
    state: Arc<Mutex<State>>,
    limits: Limits,
}

impl Pace {
    /// Of a connection that has just been made.
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            phase: Phase::Idle { since: Instant::now(), limit: limits.head },
            open: 0,
            multiplexed: false,
            answers: BTreeSet::new(),
            requests: 0,
            reader: None,
        };
        Self { state: Arc::new(Mutex::new(state)), limits }
    }

    /// Never held across a wait.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn due(&self) -> Option<Instant> {
        let state = self.state();
        match state.phase {
            _ if state.open > 0 => state.answers.first().map(|(since, _)| *since + self.limits.idle),
            Phase::Idle { since, limit } => Some(since + limit),
            Phase::Head { since } => Some(since + self.limits.head),
        }
    }

    fn received(&self) {
        let mut state = self.state();
        if state.open == 0 && !state.multiplexed && matches!(state.phase, Phase::Idle { .. }) {
            state.phase = Phase::Head { since: Instant::now() };
        }
    }

    /// A request's head is there.
    fn asked(&self, version: Version) -> Open {
        let mut state = self.state();
        state.open += 1;
        state.multiplexed |= version == Version::HTTP_2;
        state.requests += 1;
        Open { pace: self.clone(), number: state.requests, answer: None }
    }

    fn waits(&self, reader: &Waker) {
        self.state().reader = Some(reader.clone());
    }
}

/// A request in progress: until its answer has been handed to the connection as a whole, or nobody waits for it.
struct Open {
    pace: Pace,
    number: u64,
    /// When its answer began to be sent.
    answer: Option<Instant>,
}

impl Open {
    fn answering(&mut self) {
        let now = Instant::now();
        let mut state = self.pace.state();
        state.answers.insert((now, self.number));
        // hyper does not read again of itself where a read that began before is still waiting.
        if let Some(reader) = state.reader.take() {
            reader.wake();
        }
        drop(state);
        self.answer = Some(now);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.pace.state();
        if let Some(since) = self.answer {
            state.answers.remove(&(since, self.number));
        }
        state.open -= 1;
        if state.open == 0 {
            state.phase = Phase::Idle { since: Instant::now(), limit: self.pace.limits.idle };
            if let Some(reader) = state.reader.take() {
                reader.wake();
            }
        }
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
        // First, so that nothing that changes the time is missed.
        self.pace.waits(context.waker());
        let Some(due) = self.pace.due() else { return Poll::Pending };
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
        let mut open = self.pace.asked(request.version());
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            open.answering();
            Ok(answer.map(|body| Body::new(Told { body, _open: open })))
        })
    }
}

/// The body of an answer; when it is dropped, it has been handed to the connection as a whole.
struct Told {
    body: Body,
    _open: Open,
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

    fn ask(pace: &Pace, version: Version) -> Open {
        pace.asked(version)
    }

    #[tokio::test]
    async fn a_head_has_less_time_than_an_idle_connection() {
        let (mut client, server) = duplex(100);
        let pace = Pace::new(Limits { head: ms(100), idle: ms(900) });
        let mut paced = Paced::new(server, pace.clone());
        let first = waits(&mut paced).await;
        assert!(first >= ms(80) && first < ms(800), "the first byte: {first:?}");
        drop(ask(&pace, Version::HTTP_11));
        assert!(waits(&mut paced).await >= ms(850), "between requests");
        drop(ask(&pace, Version::HTTP_11));
        let mut buffer = [0u8; 10];
        let start = Instant::now();
        for byte in [b"G", b"E"] {
            client.write_all(byte).await.unwrap();
            assert_eq!(paced.read(&mut buffer).await.unwrap(), 1);
        }
        waits(&mut paced).await;
        let head = start.elapsed();
        assert!(head >= ms(80) && head < ms(800), "from its first byte to its end: {head:?}");
        let _open = ask(&pace, Version::HTTP_11);
        let long = tokio::time::timeout(ms(300), paced.read(&mut buffer)).await;
        assert!(long.is_err(), "bodies and answers have bounds of their own");
    }

    #[tokio::test]
    async fn requests_side_by_side_are_idle_together_and_answers_have_to_be_taken() {
        let (mut client, server) = duplex(100);
        let pace = Pace::new(Limits { head: ms(100), idle: ms(500) });
        let mut paced = Paced::new(server, pace.clone());
        let (one, mut two) = (ask(&pace, Version::HTTP_2), ask(&pace, Version::HTTP_2));
        drop(one);
        let mut buffer = [0u8; 10];
        let long = tokio::time::timeout(ms(700), paced.read(&mut buffer)).await;
        assert!(long.is_err(), "the other is in progress");
        // The read that waits learns of the answer.
        let start = Instant::now();
        let (waited, ()) = tokio::join!(waits(&mut paced), async {
            tokio::time::sleep(ms(50)).await;
            two.answering();
        });
        assert!(waited >= ms(500) && waited < ms(5000), "nobody takes the answer: {waited:?}");
        drop(two);
        client.write_all(b"a ping").await.unwrap();
        assert_eq!(paced.read(&mut buffer).await.unwrap(), 6);
        let idle = waits(&mut paced).await;
        assert!(idle >= ms(400), "what is no head does not begin one: {idle:?}");
        assert!(start.elapsed() < ms(9000));
    }
}
