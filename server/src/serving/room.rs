//! How much the server holds at once: pictures, their pixels, bytes of bodies. Also how many requests it works on.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Limits;

/// What is left of the bounds. What is taken is given back when the permit is dropped.
pub(crate) struct Room {
    pictures: Bounded,
    pixels: Bounded,
    bytes: Bounded,
    requests: watch::Sender<usize>,
}

/// Something of which there is a bounded amount.
struct Bounded {
    left: Arc<Semaphore>,
    all: usize,
}

impl Bounded {
    fn new(all: usize) -> Self {
        let all = all.min(Semaphore::MAX_PERMITS);
        Self { left: Arc::new(Semaphore::new(all)), all }
    }

    /// At once or not at all: whoever does not fit is told so, and does not wait.
    fn take(&self, count: u64) -> Option<OwnedSemaphorePermit> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Arc::clone(&self.left).try_acquire_many_owned(count).ok()
    }

    fn taken(&self) -> usize {
        self.all.saturating_sub(self.left.available_permits())
    }
}

/// Keeps the count of requests in progress that draining waits for.
pub(super) struct Active(watch::Sender<usize>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n -= 1);
    }
}

impl Room {
    /// All that the limits allow.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            pictures: Bounded::new(limits.max_queue),
            pixels: Bounded::new(usize::try_from(limits.max_queue_pixels).unwrap_or(usize::MAX)),
            bytes: Bounded::new(limits.max_buffered),
            requests: watch::Sender::new(0),
        }
    }

    /// Counts a request until this is dropped.
    pub(super) fn enter(&self) -> Active {
        self.requests.send_modify(|n| *n += 1);
        Active(self.requests.clone())
    }

    /// Waits until no request is in progress.
    pub(super) async fn empty(&self) {
        // The sender is part of this very value, so waiting cannot fail.
        let _ = self.requests.subscribe().wait_for(|n| *n == 0).await;
    }

    /// Room for pictures.
    pub(super) fn pictures(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        self.pictures.take(count as u64)
    }

    /// Room for pixels of pictures.
    pub(super) fn pixels(&self, count: u64) -> Option<OwnedSemaphorePermit> {
        self.pixels.take(count)
    }

    /// Room for bytes of bodies.
    pub(super) fn bytes(&self, count: usize) -> Option<OwnedSemaphorePermit> {
        self.bytes.take(count as u64)
    }

    /// Pictures admitted and not yet answered.
    pub(super) fn pictures_taken(&self) -> usize {
        self.pictures.taken()
    }

    /// Their pixels.
    pub(super) fn pixels_taken(&self) -> usize {
        self.pixels.taken()
    }
}
