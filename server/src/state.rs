//! What handlers share: limits, counters, the model once it is loaded, the gallery once it is indexed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{Semaphore, watch};

use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::gallery::Gallery;
use crate::metrics::{Gauges, Metrics, Stage};
use crate::model::Model;

/// The server's state; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

struct Inner {
    limits: Limits,
    metrics: Arc<Metrics>,
    model: OnceLock<Model>,
    gallery: OnceLock<Gallery>,
    wants_gallery: bool,
    draining: AtomicBool,
    admission: Arc<Semaphore>,
    buffered: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    active: watch::Sender<usize>,
}

/// What the server can do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    LoadingModel,
    IndexingGallery,
    Ready,
    Draining,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::LoadingModel => "loading model",
            Phase::IndexingGallery => "indexing gallery",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        }
    }
}

impl AppState {
    /// A state without a model yet. With `wants_gallery` it is not ready before [`Self::set_gallery`].
    pub fn new(limits: Limits, wants_gallery: bool) -> Self {
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner {
            admission: permits(limits.max_queue),
            buffered: permits(limits.max_buffered),
            decoders: permits(limits.decode_threads),
            limits,
            metrics: Arc::default(),
            model: OnceLock::new(),
            gallery: OnceLock::new(),
            wants_gallery,
            draining: AtomicBool::new(false),
            active: watch::Sender::new(0),
        }))
    }

    /// Starts serving a model; only the first one counts.
    pub fn set_model(&self, model: Model) {
        let _ = self.0.model.set(model);
    }

    /// Starts answering searches; only the first gallery counts.
    pub fn set_gallery(&self, gallery: Gallery) {
        let _ = self.0.gallery.set(gallery);
    }

    /// Answers new requests with 503 from now on.
    pub fn start_draining(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Waits until no admitted request is left.
    pub async fn idle(&self) {
        // The sender is part of this very state, so waiting cannot fail.
        let _ = self.0.active.subscribe().wait_for(|n| *n == 0).await;
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    pub(crate) fn phase(&self) -> Phase {
        if self.draining() {
            Phase::Draining
        } else if self.0.model.get().is_none() {
            Phase::LoadingModel
        } else if self.0.wants_gallery && self.0.gallery.get().is_none() {
            Phase::IndexingGallery
        } else {
            Phase::Ready
        }
    }

    pub(crate) fn loaded(&self) -> Option<&Model> {
        self.0.model.get()
    }

    /// The model, or 503.
    pub(crate) fn model(&self) -> Result<&Model, ApiError> {
        self.loaded().ok_or_else(|| loading("the model is being loaded"))
    }

    pub(crate) fn indexed(&self) -> Option<&Gallery> {
        self.0.gallery.get()
    }

    /// The gallery, or 503 while it is indexed, or 404 when there is none.
    pub(crate) fn gallery(&self) -> Result<&Gallery, ApiError> {
        match self.indexed() {
            Some(gallery) => Ok(gallery),
            None if self.0.wants_gallery => Err(loading("the gallery is being indexed")),
            None => Err(ApiError::new(Kind::NotFound, "this server has no gallery")
                .hint("start it with `--gallery DIR` to search among the pictures of a folder")),
        }
    }

    pub(crate) fn admission(&self) -> &Arc<Semaphore> {
        &self.0.admission
    }

    pub(crate) fn buffered(&self) -> &Arc<Semaphore> {
        &self.0.buffered
    }

    pub(crate) fn active(&self) -> &watch::Sender<usize> {
        &self.0.active
    }

    /// Pictures admitted and not yet answered.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.limits.max_queue.saturating_sub(self.0.admission.available_permits())
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let info = |m: &Model| (m.info.name.clone(), m.info.fingerprint.clone(), m.info.provider.clone());
        Gauges {
            ready: self.phase() == Phase::Ready,
            queue_depth: self.loaded().map_or(0, |m| m.batcher.depth()),
            in_flight: self.in_flight(),
            gallery: self.indexed().map_or(0, Gallery::len),
            model: self.loaded().map(info),
        }
    }

    /// Runs work on pixels off the async threads, at most as much at once as there are decoders. The permit goes
    /// with the work: when the client leaves, work that has begun still counts until it is done.
    pub(crate) async fn on_pool<T: Send + 'static>(
        &self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let start = Instant::now();
        let crashed = |_| ApiError::new(Kind::Internal, "the work on a picture was aborted");
        let permit = Arc::clone(&self.0.decoders).acquire_owned().await;
        let run = move || {
            let _permit = permit;
            work()
        };
        let done = tokio::task::spawn_blocking(run).await.map_err(crashed)?;
        self.metrics().observe(stage, start.elapsed());
        Ok(done)
    }
}

fn loading(message: &str) -> ApiError {
    ApiError::new(Kind::Loading, message).hint("`GET /readyz` says when it is done").retry_after(1)
}
