//! The collections: opened, asked off the async threads, and kept in order.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use occlude_retrieval::{Engine, Kind as Cause, Location, Options};

use super::state::AppState;
use crate::error::{ApiError, Kind};
use crate::observe::metrics::Stage;

/// Bytes that are kept free for deleting points on a full disk.
const RESERVE: u64 = 4 << 20;
/// Looks at the approximate indexes between two at whether the disk takes something.
const PROBE_EVERY: usize = 12;

/// Time between attempts to reach a database at start.
const AGAIN: Duration = Duration::from_secs(2);
/// Time between looks at the approximate indexes.
const UPKEEP: Duration = Duration::from_secs(5);

impl AppState {
    /// Opens collections, answers about them from now on, and keeps them in order.
    pub(crate) fn open_store(&self, location: &Location) -> occlude_retrieval::Result<()> {
        let options = Options { reserve: RESERVE, ..Default::default() };
        let store = location.open(&options)?;
        for info in store.collections()? {
            let (name, count, model) = (&info.name, info.count, &info.spec.model);
            tracing::info!("collection `{name}`: {count} points of the model `{model}`");
            if info.spec.identity.is_none() {
                tracing::warn!(
                    "collection `{name}` does not record the precision of its model: pictures and vectors are \
                     refused; hint: declare its model by PUT /v1/collections/{name} with {{\"model\": .., \"adopt\": \
                     true}}"
                );
            }
        }
        keep(Arc::downgrade(&store), self.clone());
        self.set_store(store);
        tracing::info!("collections: {location}");
        Ok(())
    }

    /// [`Self::open_store`] as soon as the database can be reached; until then requests hear that it is being opened.
    pub(crate) fn open_store_later(&self, location: Location) {
        let state = self.clone();
        std::thread::spawn(move || {
            let mut told = String::new();
            while !state.draining() {
                std::thread::sleep(AGAIN);
                let Err(error) = state.open_store(&location) else { return };
                // What is still the same was said already.
                if error.kind() != Cause::Unavailable && error.to_string() != told {
                    told = error.to_string();
                    tracing::error!("{told}");
                }
            }
        });
    }

    /// Answers about collections from this store from now on.
    pub fn set_store(&self, store: Arc<dyn Engine>) {
        *self.0.store.write() = Some(store);
    }

    pub(crate) fn store(&self) -> Option<Arc<dyn Engine>> {
        self.0.store.read().clone()
    }

    /// Lets go of the store, so that it is closed as soon as nobody works on it any more.
    pub(crate) fn close_store(&self) {
        drop(self.0.store.write().take());
    }

    /// Notes whether the disk takes what is to be kept; what has no room in a limit of the store's says nothing of it.
    pub(crate) fn note_store(&self, error: Option<&occlude_retrieval::Error>) {
        let problem = error.and_then(|e| match e.kind() {
            Cause::Full => Some("no space left on the disk"),
            Cause::Io => Some("the disk cannot be written to"),
            Cause::Unavailable => Some("the database cannot be reached"),
            Cause::Refused => Some("the database answers with errors"),
            _ => None,
        });
        let mut known = self.0.store_problem.write();
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
        *self.0.store_problem.read()
    }

    /// Asks the store, off the async threads; 503 while it is being opened, 404 when there is none.
    pub(crate) async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Engine) -> occlude_retrieval::Result<T> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Some(store) = self.store() else {
            return Err(match self.0.expected.store {
                true => ApiError::loading("the collections are being opened"),
                false => ApiError::new(Kind::NotFound, "this server has no collections")
                    .hint("its operator can give it a folder to keep them in"),
            });
        };
        let start = Instant::now();
        let crashed = |_| ApiError::new(Kind::Internal, "work on a collection was aborted");
        let done = tokio::task::spawn_blocking(move || work(&*store)).await.map_err(crashed)?;
        self.metrics().observe(Stage::Store, None, start.elapsed());
        if let Err(error) = &done
            && matches!(error.kind(), Cause::Full | Cause::Io | Cause::Unavailable | Cause::Refused)
        {
            self.note_store(Some(error));
        }
        Ok(done?)
    }
}

/// Brings the approximate indexes up to date now and then, on a thread of its own: building one may take minutes. Also
/// looks whether the disk takes something: at once after something could not be written, else once a minute.
fn keep(store: Weak<dyn Engine>, state: AppState) {
    std::thread::spawn(move || {
        for round in 1usize.. {
            std::thread::sleep(UPKEEP);
            let Some(store) = store.upgrade().filter(|_| !state.draining()) else { return };
            match store.maintain(&|| !state.draining()) {
                Ok(done) => done.failed.iter().for_each(|why| tracing::warn!("{why}")),
                Err(error) if error.kind() == Cause::Unavailable => state.note_store(Some(&error)),
                Err(error) => tracing::error!("{error}"),
            }
            if round % PROBE_EVERY == 0 || state.store_problem().is_some() {
                state.note_store(store.probe().err().as_ref());
            }
        }
    });
}
