//! What handlers share, and how far the server has come. What is asked of the models and of the collections is in the
//! files beside this one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ipnet::IpNet;
use occlude_retrieval::Engine;
use parking_lot::RwLock;

use super::keys::Keys;
use super::repository::Repository;
use super::room::Room;
use crate::config::Limits;
use crate::error::ApiError;
use crate::gallery::Gallery;
use crate::inference::model::Model;
use crate::observe::metrics::{Gauges, Metrics, ModelGauges, Stage};
use crate::observe::telemetry::Telemetry;
use crate::pictures::cache::Cache;
use crate::pictures::decoding::Decoders;
use crate::pictures::fetch::Fetcher;

/// The server's state; cheap to clone.
#[derive(Clone)]
pub struct AppState(pub(super) Arc<Inner>);

/// What has to be there before the server is ready.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Names of the models; the first one answers requests that name none.
    pub models: Vec<String>,
    /// Whether a folder is indexed at start.
    pub gallery: bool,
    /// Whether there are collections.
    pub store: bool,
}

pub(super) struct Inner {
    limits: Limits,
    metrics: Arc<Metrics>,
    pub(super) expected: Expected,
    /// In the order of `expected`.
    pub(super) models: RwLock<Vec<Arc<Model>>>,
    pub(super) gallery: RwLock<Option<Arc<Gallery>>>,
    pub(super) store: RwLock<Option<Arc<dyn Engine>>>,
    /// Why nothing can be added to collections.
    pub(super) store_problem: RwLock<Option<&'static str>>,
    fetcher: OnceLock<Fetcher>,
    telemetry: RwLock<Option<Arc<Telemetry>>>,
    keys: RwLock<Arc<Keys>>,
    trusted_proxies: OnceLock<Vec<IpNet>>,
    pub(super) repository: OnceLock<Arc<Repository>>,
    /// Told to end, and answering as before for a while.
    leaving: AtomicBool,
    draining: AtomicBool,
    room: Room,
    decoders: Decoders,
    cache: Option<Cache>,
}

/// What the server can do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    LoadingModel,
    IndexingGallery,
    OpeningStore,
    Ready,
    Draining,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::LoadingModel => "loading model",
            Phase::IndexingGallery => "indexing gallery",
            Phase::OpeningStore => "opening collections",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
        }
    }
}

impl AppState {
    /// A state without a model yet; it is ready once everything expected is there, and one model at least.
    pub fn new(limits: Limits, expected: Expected) -> Self {
        Self(Arc::new(Inner {
            room: Room::new(&limits),
            decoders: Decoders::new(limits.decode_threads),
            cache: Cache::new(limits.cache_bytes),
            limits,
            metrics: Arc::default(),
            expected,
            models: RwLock::default(),
            gallery: RwLock::default(),
            store: RwLock::default(),
            store_problem: RwLock::default(),
            fetcher: OnceLock::new(),
            telemetry: RwLock::default(),
            keys: RwLock::default(),
            trusted_proxies: OnceLock::new(),
            repository: OnceLock::new(),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }))
    }

    /// Fetches pictures that requests name by web address from now on; only the first one counts.
    pub fn set_fetcher(&self, fetcher: Fetcher) {
        let _ = self.0.fetcher.set(fetcher);
    }

    /// Tells a collector of requests from now on.
    pub fn set_telemetry(&self, telemetry: Telemetry) {
        *self.0.telemetry.write() = Some(Arc::new(telemetry));
    }

    pub(crate) fn telemetry(&self) -> Option<Arc<Telemetry>> {
        self.0.telemetry.read().clone()
    }

    /// Sends the last spans.
    pub(crate) fn close_telemetry(&self) {
        drop(self.0.telemetry.write().take());
    }

    pub(crate) fn fetcher(&self) -> Option<&Fetcher> {
        self.0.fetcher.get()
    }

    /// Believes proxies at these addresses who their clients are; only the first call counts.
    pub fn set_trusted_proxies(&self, proxies: Vec<IpNet>) {
        let _ = self.0.trusted_proxies.set(proxies);
    }

    pub(crate) fn trusted_proxies(&self) -> &[IpNet] {
        self.0.trusted_proxies.get().map_or(&[], Vec::as_slice)
    }

    /// Asks for one of these keys from now on.
    pub fn set_keys(&self, keys: Keys) {
        *self.0.keys.write() = Arc::new(keys);
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.keys.read())
    }

    /// Is not ready from now on, and answers as before.
    pub fn start_leaving(&self) {
        self.0.leaving.store(true, Ordering::SeqCst);
    }

    /// Answers new requests with 503 from now on.
    pub fn start_draining(&self) {
        self.0.draining.store(true, Ordering::SeqCst);
    }

    /// Waits until no admitted request is left.
    pub async fn idle(&self) {
        self.0.room.empty().await;
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Whether the end is near: connections are not kept, and nothing is ready.
    pub(crate) fn ending(&self) -> bool {
        self.0.leaving.load(Ordering::SeqCst) || self.draining()
    }

    pub(crate) fn draining(&self) -> bool {
        self.0.draining.load(Ordering::SeqCst)
    }

    /// Whether there are collections, or will be.
    pub(crate) fn has_store(&self) -> bool {
        self.0.expected.store || self.store().is_some()
    }

    /// Whether something can be added to collections.
    pub(crate) fn writable(&self) -> bool {
        self.store().is_some() && self.store_problem().is_none()
    }

    pub(crate) fn phase(&self) -> Phase {
        let loaded = self.models();
        let has = |name: &String| loaded.iter().any(|m| m.info.name == *name);
        if self.ending() {
            Phase::Draining
        } else if loaded.is_empty() || !self.0.expected.models.iter().all(has) {
            Phase::LoadingModel
        } else if self.0.expected.gallery && self.indexed().is_none() {
            Phase::IndexingGallery
        } else if self.0.expected.store && self.store().is_none() {
            Phase::OpeningStore
        } else {
            Phase::Ready
        }
    }

    pub(crate) fn gauges(&self) -> Gauges {
        let model = |m: &Arc<Model>| ModelGauges {
            name: m.info.name.clone(),
            fingerprint: m.info.fingerprint.clone(),
            identity: m.info.identity.clone(),
            provider: m.info.provider.clone(),
            queue_depth: m.batcher.depth(),
        };
        Gauges {
            ready: self.phase() == Phase::Ready,
            in_flight: self.0.room.pictures_taken(),
            in_flight_pixels: self.0.room.pixels_taken(),
            gallery: self.indexed().map_or(0, |g| g.len()),
            queue: self.limits().max_queue,
            writable: self.has_store().then(|| self.writable()),
            cached: self.cache().map_or(0, Cache::bytes),
            spans_lost: self.telemetry().map_or(0, |t| t.lost()),
            models: self.models().iter().map(model).collect(),
        }
    }

    /// What was said of pictures before, where that is kept.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.0.cache.as_ref()
    }

    /// How much more is let in.
    pub(super) fn room(&self) -> &Room {
        &self.0.room
    }

    /// Work on pixels, off the async threads ([`Decoders::run`]).
    pub(crate) async fn pooled<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.0.decoders.run(work).await
    }

    /// [`Self::pooled`], with its time added to a stage, of a model's pictures or not.
    pub(crate) async fn on_pool<T: Send + 'static>(
        &self,
        stage: Stage,
        model: Option<&str>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let start = Instant::now();
        let done = self.pooled(work).await?;
        self.metrics().observe(stage, model, start.elapsed());
        Ok(done)
    }
}
