//! The pool that pixels are worked on in: decoding, drawing, unpacking.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{ApiError, Kind};

/// Bounds how much work on pixels goes on at once.
pub(crate) struct Decoders(Arc<Semaphore>);

impl Decoders {
    /// As many at once as there are threads for it.
    pub(crate) fn new(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads.min(Semaphore::MAX_PERMITS))))
    }

    /// Runs work off the async threads as soon as a decoder is free. The permit goes with the work: when the client
    /// leaves, work that has begun still counts until it is done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let crashed = |_| ApiError::new(Kind::Internal, "work on a picture was aborted");
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let run = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(run).await.map_err(crashed)
    }
}
