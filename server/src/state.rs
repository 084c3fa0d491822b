//! What handlers share: limits, counters, the models by name, the gallery once it is indexed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use ipnet::IpNet;
use occlude_retrieval::Engine;
use tokio::sync::{Semaphore, watch};

use crate::auth::Keys;
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::fetch::Fetcher;
use crate::gallery::Gallery;
use crate::metrics::{Gauges, Metrics, ModelGauges, Stage};
use crate::model::Model;
use crate::telemetry::Telemetry;

/// The server's state; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Inner>);

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

struct Inner {
    limits: Limits,
    metrics: Arc<Metrics>,
    expected: Expected,
    /// In the order of `expected`.
    models: RwLock<Vec<Arc<Model>>>,
    gallery: RwLock<Option<Arc<Gallery>>>,
    store: RwLock<Option<Arc<dyn Engine>>>,
    /// Why nothing can be added to collections.
    store_problem: RwLock<Option<&'static str>>,
    fetcher: OnceLock<Fetcher>,
    telemetry: RwLock<Option<Arc<Telemetry>>>,
    keys: RwLock<Arc<Keys>>,
    trusted_proxies: OnceLock<Vec<IpNet>>,
    draining: AtomicBool,
    admission: Arc<Semaphore>,
    pixels: Arc<Semaphore>,
    buffered: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    active: watch::Sender<usize>,
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
        let permits = |n: usize| Arc::new(Semaphore::new(n.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Inner {
            admission: permits(limits.max_queue),
            pixels: permits(usize::try_from(limits.max_queue_pixels).unwrap_or(usize::MAX)),
            buffered: permits(limits.max_buffered),
            decoders: permits(limits.decode_threads),
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
            draining: AtomicBool::new(false),
            active: watch::Sender::new(0),
        }))
    }

    /// Serves a model from now on, in place of the one of the same name. Requests under way keep the model that
    /// they began with; the old one ends with the last of them.
    pub fn set_model(&self, model: Model) {
        let model = Arc::new(model);
        if let Some(gallery) = self.indexed().filter(|g| g.identity() == model.info.identity) {
            model.attach(&gallery);
        }
        let mut models = self.0.models.write().unwrap_or_else(PoisonError::into_inner);
        match models.iter().position(|m| m.info.name == model.info.name) {
            Some(i) => models[i] = model,
            None => models.push(model),
        }
        let rank = |m: &Arc<Model>| self.0.expected.models.iter().position(|n| *n == m.info.name);
        models.sort_by_key(|m| rank(m).unwrap_or(usize::MAX));
    }

    /// Answers searches from this gallery from now on.
    pub fn set_gallery(&self, gallery: Gallery) {
        let gallery = Arc::new(gallery);
        for model in self.models().iter().filter(|m| m.info.identity == gallery.identity()) {
            model.attach(&gallery);
        }
        *self.0.gallery.write().unwrap_or_else(PoisonError::into_inner) = Some(gallery);
    }

    /// Serves a model and the gallery that it indexed, in place of the model of the same name and its gallery: no
    /// request sees the one without the other.
    pub fn set_model_with_gallery(&self, model: Model, gallery: Gallery) {
        let gallery = Arc::new(gallery);
        model.attach(&gallery);
        *self.0.gallery.write().unwrap_or_else(PoisonError::into_inner) = Some(gallery);
        self.set_model(model);
    }

    /// Answers about collections from this store from now on.
    pub fn set_store(&self, store: Arc<dyn Engine>) {
        *self.0.store.write().unwrap_or_else(PoisonError::into_inner) = Some(store);
    }

    pub(crate) fn store(&self) -> Option<Arc<dyn Engine>> {
        self.0.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the store, so that it is closed as soon as nobody works on it any more.
    pub(crate) fn close_store(&self) {
        drop(self.0.store.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Notes whether the disk takes what is to be kept; what has no room in a limit of the store's says nothing of it.
    pub(crate) fn note_store(&self, error: Option<&occlude_retrieval::Error>) {
        use occlude_retrieval::Kind;

        let problem = error.and_then(|e| match e.kind() {
            Kind::Full => Some("no space left on the disk"),
            Kind::Io => Some("the disk cannot be written to"),
            _ => None,
        });
        let mut known = self.0.store_problem.write().unwrap_or_else(PoisonError::into_inner);
        if *known != problem {
            match (problem, error) {
                (Some(problem), Some(error)) => tracing::error!("collections: {problem}: {error}"),
                _ => tracing::info!("collections are writable again"),
            }
        }
        *known = problem;
    }

    /// Why nothing can be added to collections, if so.
    pub(crate) fn store_problem(&self) -> Option<&'static str> {
        *self.0.store_problem.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the store, off the async threads; 503 while it is being opened, 404 when there is none.
    pub(crate) async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Engine) -> occlude_retrieval::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(store) = self.store() else {
            return Err(match self.0.expected.store {
                true => loading("the collections are being opened"),
                false => ApiError::new(Kind::NotFound, "this server has no collections")
                    .hint("its operator can give it a folder to keep them in"),
            });
        };
        let start = Instant::now();
        let crashed = |_| ApiError::new(Kind::Internal, "work on a collection was aborted");
        let done = tokio::task::spawn_blocking(move || work(&*store)).await.map_err(crashed)?;
        self.metrics().observe(Stage::Store, None, start.elapsed());
        if let Err(error) = &done
            && matches!(error.kind(), occlude_retrieval::Kind::Full | occlude_retrieval::Kind::Io)
        {
            self.note_store(Some(error));
        }
        Ok(done?)
    }

    /// Fetches pictures that requests name by web address from now on; only the first one counts.
    pub fn set_fetcher(&self, fetcher: Fetcher) {
        let _ = self.0.fetcher.set(fetcher);
    }

    /// Tells a collector of requests from now on.
    pub fn set_telemetry(&self, telemetry: Telemetry) {
        *self.0.telemetry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(telemetry));
    }

    pub(crate) fn telemetry(&self) -> Option<Arc<Telemetry>> {
        self.0.telemetry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends the last spans.
    pub(crate) fn close_telemetry(&self) {
        drop(self.0.telemetry.write().unwrap_or_else(PoisonError::into_inner).take());
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
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
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

    /// Whether there are collections, or will be.
    pub(crate) fn has_store(&self) -> bool {
        self.0.expected.store || self.store().is_some()
    }

    pub(crate) fn phase(&self) -> Phase {
        let loaded = self.models();
        let has = |name: &String| loaded.iter().any(|m| m.info.name == *name);
        if self.draining() {
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

    /// The models that are loaded, the one for requests that name none first.
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.0.models.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model of this name, or the first one; 503 while it is being loaded, 404 when there is none.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<Arc<Model>, ApiError> {
        let models = self.0.models.read().unwrap_or_else(PoisonError::into_inner);
        let expected = &self.0.expected.models;
        let Some(name) = name.or(expected.first().map(String::as_str)) else {
            return models.first().cloned().ok_or_else(|| loading("the model is being loaded"));
        };
        match models.iter().find(|m| m.info.name == name) {
            Some(model) => Ok(Arc::clone(model)),
            None if expected.iter().any(|n| n == name) => Err(loading("the model is being loaded")),
            None => {
                let known = models.iter().map(|m| format!("`{}`", m.info.name)).collect::<Vec<_>>();
                Err(ApiError::new(Kind::ModelNotFound, format!("there is no model `{name}`"))
                    .hint(format!("this server has {}; GET /v1/models lists them", known.join(", "))))
            }
        }
    }

    pub(crate) fn indexed(&self) -> Option<Arc<Gallery>> {
        self.0.gallery.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The gallery for a query by `model`: 503 while it is indexed, 404 when there is none, 409 where its vectors
    /// are another model's.
    pub(crate) fn gallery(&self, model: &Model) -> Result<Arc<Gallery>, ApiError> {
        if let Some(own) = model.gallery() {
            return Ok(Arc::clone(own));
        }
        match self.indexed() {
            Some(gallery) if gallery.identity() == model.info.identity => Ok(gallery),
            Some(gallery) => {
                let message = format!(
                    "the gallery was indexed by the model {}, the query was embedded by {} (`{}`)",
                    gallery.identity(),
                    model.info.identity,
                    model.info.name
                );
                Err(ApiError::new(Kind::WrongModel, message).hint("leave out `model`"))
            }
            None if self.0.expected.gallery => Err(loading("the gallery is being indexed")),
            None => Err(ApiError::new(Kind::NotFound, "this server has no gallery")
                .hint("its operator can give it a folder of pictures to search")),
        }
    }

    pub(crate) fn admission(&self) -> &Arc<Semaphore> {
        &self.0.admission
    }

    pub(crate) fn pixels(&self) -> &Arc<Semaphore> {
        &self.0.pixels
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
        let model = |m: &Arc<Model>| ModelGauges {
            name: m.info.name.clone(),
            fingerprint: m.info.fingerprint.clone(),
            identity: m.info.identity.clone(),
            provider: m.info.provider.clone(),
            queue_depth: m.batcher.depth(),
        };
        let limit = usize::try_from(self.0.limits.max_queue_pixels).unwrap_or(usize::MAX);
        Gauges {
            ready: self.phase() == Phase::Ready,
            in_flight: self.in_flight(),
            in_flight_pixels: limit.saturating_sub(self.0.pixels.available_permits()),
            gallery: self.indexed().map_or(0, |g| g.len()),
            writable: self.store().is_some() && self.store_problem().is_none(),
            spans_lost: self.telemetry().map_or(0, |t| t.lost()),
            models: self.models().iter().map(model).collect(),
        }
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

    /// Runs work on pixels off the async threads, at most as much at once as there are decoders. The permit goes
    /// with the work: when the client leaves, work that has begun still counts until it is done.
    pub(crate) async fn pooled<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let crashed = |_| ApiError::new(Kind::Internal, "work on a picture was aborted");
        let permit = Arc::clone(&self.0.decoders).acquire_owned().await;
        let run = move || {
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(run).await.map_err(crashed)
    }
}

fn loading(message: &str) -> ApiError {
    ApiError::new(Kind::Loading, message).hint("`GET /readyz` says when it is done").retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::fake::Fake;
    use crate::routes::tests_support::{fake_model, named_model};

    #[test]
    fn models_are_found_by_name_and_the_first_expected_is_the_default() {
        let expected = Expected { models: vec!["b".to_owned(), "a".to_owned()], ..Expected::default() };
        let state = AppState::new(Limits::default(), expected);
        let kind = |name| state.model(name).err().map(|e| e.kind);
        assert_eq!((kind(None), kind(Some("a"))), (Some(Kind::Loading), Some(Kind::Loading)));
        state.set_model(named_model("a", "1", &state));
        assert_eq!(state.phase(), Phase::LoadingModel, "one of two");
        assert_eq!((kind(None), kind(Some("a"))), (Some(Kind::Loading), None));
        state.set_model(named_model("b", "2", &state));
        assert_eq!(state.phase(), Phase::Ready);
        assert_eq!(state.model(None).unwrap().info.name, "b");
        assert_eq!(kind(Some("c")), Some(Kind::ModelNotFound));
    }

    #[test]
    fn a_replaced_model_lives_as_long_as_its_requests() {
        let state = AppState::new(Limits::default(), Expected::default());
        state.set_model(named_model("a", "1", &state));
        let old = state.model(None).unwrap();
        state.set_model(named_model("a", "2", &state));
        assert_eq!(state.model(Some("a")).unwrap().info.fingerprint, "2");
        assert_eq!((old.info.fingerprint.as_str(), Arc::strong_count(&old)), ("1", 1));
        let _ = fake_model(vec![Fake::default()], &state);
    }
}
