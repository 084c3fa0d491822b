//! Who gets in: a bounded number of pictures, and a bounded number of bytes.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::room::Active;
use super::state::AppState;
use crate::error::{ApiError, Kind};

/// Longest `Retry-After`, in seconds: an estimate beyond it says nothing.
const MAX_RETRY: f64 = 60.0;

/// A request that is in; it counts until this is dropped, by its answer or because its client left.
///
/// Handlers that let every request in take it as an extractor, after the one of the path; the others call [`Self::new`]
/// once they have checked what costs nothing. It is dropped when the handler returns, before what it returned becomes a
/// response: a handler whose answer may be long makes the response itself.
pub(crate) struct Admitted {
    state: AppState,
    pictures: OwnedSemaphorePermit,
    buffered: Buffered,
    pixels: Option<OwnedSemaphorePermit>,
    _active: Active,
}

/// The bytes that a request holds; clones take room for the same request, on other threads and side by side. What they
/// took is given back when the last of them is dropped.
#[derive(Clone)]
pub(crate) struct Buffered {
    state: AppState,
    held: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
}

impl Buffered {
    /// Makes room for bytes: 429 where others have taken it, 413 where no server of these limits has as much.
    pub(crate) fn take(&self, count: usize) -> Result<(), ApiError> {
        let mut held = self.held.lock();
        let before = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        // permits are counted in 32 bits
        let most = self.state.limits().max_buffered.min(u32::MAX as usize);
        if before.saturating_add(count) > most {
            let message = format!("the request takes more than {most} bytes of memory");
            return Err(ApiError::new(Kind::BodyTooLarge, message).hint("split the request"));
        }
        add(&mut held, self.state.room().bytes(count).ok_or_else(|| overloaded(&self.state))?);
        Ok(())
    }
}

impl Admitted {
    /// Lets a request in with room for one picture; 503 while draining, 429 when full.
    pub(crate) fn new(state: &AppState) -> Result<Self, ApiError> {
        // Counted before the check, so that draining either sees the request or turns it away.
        let active = state.room().enter();
        if state.draining() {
            return Err(draining());
        }
        let pictures = state.room().pictures(1).ok_or_else(|| overloaded(state))?;
        let buffered = Buffered { state: state.clone(), held: Arc::default() };
        Ok(Self { state: state.clone(), pictures, buffered, pixels: None, _active: active })
    }

    /// Makes room for the other pictures of a request.
    pub(crate) fn pictures(&mut self, total: usize) -> Result<(), ApiError> {
        let more = total.saturating_sub(self.pictures.num_permits());
        let got = self.state.room().pictures(more);
        self.pictures.merge(got.ok_or_else(|| overloaded(&self.state))?);
        Ok(())
    }

    /// Makes room for bytes of a body, or of what is made of it.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<(), ApiError> {
        self.buffered.take(count)
    }

    /// Makes room for bytes where this cannot be lent.
    pub(crate) fn buffered(&self) -> Buffered {
        self.buffered.clone()
    }

    /// Makes room for pixels of pictures.
    pub(crate) fn pixels(&mut self, count: u64) -> Result<(), ApiError> {
        let got = self.state.room().pixels(count).ok_or_else(|| overloaded(&self.state))?;
        add(&mut self.pixels, got);
        Ok(())
    }
}

impl FromRequestParts<AppState> for Admitted {
    type Rejection = ApiError;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        Self::new(state)
    }
}

/// For what comes after the signal.
pub(crate) fn draining() -> ApiError {
    let error = ApiError::new(Kind::Draining, "the server is shutting down");
    error.hint("send the request to another instance, or try again soon").retry_after(1)
}

fn add(held: &mut Option<OwnedSemaphorePermit>, more: OwnedSemaphorePermit) {
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
}

/// 429 with the time that what is in the server takes at the rate measured last.
pub(crate) fn overloaded(state: &AppState) -> ApiError {
    let waiting = state.room().pictures_taken() as f64;
    let seconds = state.metrics().rate().map_or(1.0, |rate| (waiting / rate.max(0.1)).ceil());
    ApiError::new(Kind::Overloaded, "the server is full")
        .hint("try again after the number of seconds in `Retry-After`")
        .retry_after(seconds.clamp(1.0, MAX_RETRY) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use crate::fake::Fake;
    use crate::serving::state::Expected;
    use crate::tests_support::fake_model;

    fn state(max_queue: usize, max_buffered: usize) -> AppState {
        let limits = Limits { max_queue, max_buffered, max_queue_pixels: 1000, ..Limits::default() };
        let state = AppState::new(limits, Expected::default());
        state.set_model(fake_model(vec![Fake::default()], &state));
        state
    }

    fn kind<T>(result: Result<T, ApiError>) -> Kind {
        result.err().map_or_else(|| panic!("it was let in"), |e| e.kind)
    }

    #[tokio::test]
    async fn pictures_and_bytes_are_given_back() {
        let state = state(4, 100);
        let mut first = Admitted::new(&state).unwrap();
        first.pictures(3).unwrap();
        first.bytes(60).unwrap();
        first.bytes(40).unwrap();
        assert_eq!(state.room().pictures_taken(), 3);
        assert_eq!(kind(first.bytes(1)), Kind::BodyTooLarge, "nobody ever has as much");
        let mut second = Admitted::new(&state).unwrap();
        assert_eq!(kind(second.bytes(1)), Kind::Overloaded);
        assert_eq!(kind(second.pictures(2)), Kind::Overloaded);
        assert_eq!(kind(Admitted::new(&state)), Kind::Overloaded);
        first.pixels(900).unwrap();
        first.pixels(100).unwrap();
        assert_eq!(kind(second.pixels(1)), Kind::Overloaded);
        drop(first);
        second.pixels(1000).unwrap();
        second.pictures(4).unwrap();
        second.bytes(100).unwrap();
        drop(second);
        assert_eq!(state.room().pictures_taken(), 0);
        state.idle().await;
    }

    #[tokio::test]
    async fn bytes_on_other_threads_count_until_the_last_is_done() {
        let state = state(4, 100);
        let request = Admitted::new(&state).unwrap();
        let (one, other) = (request.buffered(), request.buffered());
        one.take(60).unwrap();
        assert_eq!(kind(other.take(41)), Kind::BodyTooLarge);
        drop((request, one));
        let mut second = Admitted::new(&state).unwrap();
        assert_eq!(kind(second.bytes(41)), Kind::Overloaded, "another thread may still be reading");
        drop(other);
        second.bytes(100).unwrap();
    }

    #[tokio::test]
    async fn nobody_gets_in_after_the_signal() {
        let state = state(4, 100);
        let inside = Admitted::new(&state).unwrap();
        state.start_draining();
        assert_eq!(kind(Admitted::new(&state)), Kind::Draining);
        let wait = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, state.idle()).await.is_err(), "one is still inside");
        drop(inside);
        state.idle().await;
    }

    #[test]
    fn retry_after_is_what_the_rate_says() {
        let state = state(1000, 1);
        assert_eq!(overloaded(&state).retry_after, Some(1), "nothing measured yet");
        let mut inside = Admitted::new(&state).unwrap();
        inside.pictures(1000).unwrap();
        state.metrics().observe_batch("fake", 1);
        // 1000 pictures at no more than 10 a second.
        assert_eq!(overloaded(&state).retry_after, Some(60));
    }
}
