//! What a client still sends after its request was refused.
//!
//! Closing a connection with unread bytes resets it: the client would see a broken connection in place of its 429 or
//! 413, or find the next request on it lost. So a body that no handler read to its end is received and thrown away,
//! within bounds, before the answer goes out; where the bounds do not suffice, the answer announces that the connection ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};

/// Longest time for throwing a body away.
const PATIENCE: Duration = Duration::from_secs(2);

/// A body, and how much of it was read.
struct Source {
    body: Body,
    begun: bool,
    ended: bool,
    /// Bytes read so far.
    received: u64,
}

/// A body that its handler reads, and that is still there when the handler has let go of it.
#[derive(Clone)]
struct Lent(Arc<Mutex<Source>>);

impl Lent {
    /// Never held across a wait.
    fn source(&self) -> MutexGuard<'_, Source> {
        self.0.lock()
    }
}

/// What the handler left of a body.
pub(super) struct Leftover {
    body: Lent,
    /// The client waits for leave to send the body (RFC 9110, 10.1.1): the first read gives it.
    expects: bool,
}

/// The request for a handler, and what will be left of its body.
pub(super) fn lend(request: Request) -> (Request, Leftover) {
    let (head, body) = request.into_parts();
    let body = Lent(Arc::new(Mutex::new(Source { body, begun: false, ended: false, received: 0 })));
    let expects = head.headers.contains_key(header::EXPECT);
    (Request::from_parts(head, Body::new(body.clone())), Leftover { body, expects })
}

impl Leftover {
    /// Bytes of the body that came, read by the handler or thrown away.
    pub(super) fn received(&self) -> u64 {
        self.body.source().received
    }

    /// Throws away what is left, at most `most` bytes; whether that was all, so that the connection can be used again.
    pub(super) async fn drained(&mut self, most: usize) -> bool {
        if self.body.is_end_stream() {
            return true;
        }
        if self.expects && !self.body.source().begun {
            return false;
        }
        let mut left = most;
        let throw_away = async {
            while let Some(frame) = self.body.frame().await {
                let size = frame.ok().map(|f| f.data_ref().map_or(0, Bytes::len));
                let Some(rest) = size.and_then(|size| left.checked_sub(size)) else { return false };
                left = rest;
            }
            true
        };
        tokio::time::timeout(PATIENCE, throw_away).await.unwrap_or(false)
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut source = self.source();
        source.begun = true;
        let polled = Pin::new(&mut source.body).poll_frame(context);
        source.ended |= matches!(polled, Poll::Ready(None));
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            source.received += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source();
        source.ended || source.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.source().body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn body(pieces: &'static [&'static str]) -> Body {
        Body::from_stream(stream::iter(pieces.iter().map(|p| Ok::<_, std::convert::Infallible>(*p))))
    }

    fn request(body: Body, expect: bool) -> Request {
        let builder = Request::builder().uri("/");
        let builder = if expect { builder.header(header::EXPECT, "100-continue") } else { builder };
        builder.body(body).unwrap()
    }

    #[tokio::test]
    async fn what_a_handler_leaves_is_thrown_away_within_bounds() {
        let (lent, mut left) = lend(request(Body::from("abcdef"), false));
        drop(lent);
        assert!(left.drained(6).await);
        assert_eq!(left.received(), 6);
        let (lent, mut left) = lend(request(Body::from("abcdef"), false));
        drop(lent);
        assert!(!left.drained(5).await, "too much");
        let (lent, mut left) = lend(request(Body::from("abcdef"), true));
        drop(lent);
        assert!(!left.drained(6).await, "nobody told the client to send it");
        for (most, enough) in [(3, true), (2, false)] {
            // Once it has read, the client was told to send it all.
            let (lent, mut left) = lend(request(body(&["abc", "def"]), true));
            let read = lent.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(read, "abc");
            assert_eq!(left.drained(most).await, enough);
        }
    }

    #[tokio::test]
    async fn a_body_that_was_read_costs_nothing() {
        let (lent, mut left) = lend(request(Body::from("abcdef"), true));
        assert_eq!(lent.into_body().collect().await.unwrap().to_bytes(), "abcdef");
        assert!(left.drained(0).await);
        let (lent, mut left) = lend(request(body(&["abc", "def"]), true));
        assert_eq!(lent.into_body().collect().await.unwrap().to_bytes(), "abcdef");
        assert!(left.drained(0).await, "nor one of unknown length");
        let (lent, mut left) = lend(request(Body::empty(), true));
        drop(lent);
        assert!(left.drained(0).await);
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let (lent, mut left) =
            lend(request(Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()), false));
        drop(lent);
        assert!(!left.drained(10).await);
    }
}
