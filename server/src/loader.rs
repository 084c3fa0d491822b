//! Loading models, at start and again while requests run.
//!
//! All of it happens on one thread of its own: neither loading nor indexing may hold up the answers of `/readyz`.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use occlude_retrieval::{Engine, Store};
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::auth::{KeyError, Keys};
use crate::batch::Encode;
use crate::bulk::Report;
use crate::config::{Config, ModelFile, Provider};
use crate::encoder::{LoadError, Loaded, Options, load};
use crate::gallery::{Gallery, GalleryError};
use crate::model::{Model, ModelInfo};
use crate::state::AppState;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; hint: choose another with `--host` and `--port`")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signal(std::io::Error),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The collections cannot be opened.
    #[error("`--data`: {0}")]
    Store(#[from] occlude_retrieval::Error),
    /// The gallery cannot be indexed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
}

/// Tells one version of a file from another: length, time of change, and the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        let changed = (data.mtime(), data.mtime_nsec());
        Some(Self { length: data.len(), changed, inode: data.ino() })
    }
}

/// One model file as it was seen last.
struct Watched {
    file: ModelFile,
    /// When it was loaded, or last failed to.
    tried: Option<Stamp>,
    /// Another version, seen once: a file that is still being written changes until the next look.
    seen: Option<Stamp>,
}

/// The loading thread.
pub(crate) struct Loader {
    orders: Sender<()>,
}

impl Loader {
    /// Starts it; the receiver hears when everything is loaded for the first time, or why it is not.
    pub(crate) fn start(
        config: Config,
        state: AppState,
    ) -> (Self, oneshot::Receiver<Result<(), StartError>>) {
        let (orders, received) = channel();
        let (done, loaded) = oneshot::channel();
        std::thread::spawn(move || {
            let watched = config.models.iter().cloned();
            let watched = watched.map(|file| Watched { file, tried: None, seen: None }).collect();
            let mut work = Work { config, state, watched };
            let result = work.prepare();
            let going = result.is_ok();
            // Nobody listens once the server has been told to stop.
            let _ = done.send(result);
            if going {
                work.watch(&received);
            }
        });
        (Self { orders }, loaded)
    }

    /// Reads all models and keys again, changed or not.
    pub(crate) fn reload(&self) {
        // The thread has gone only where loading failed, which ends the server.
        let _ = self.orders.send(());
    }
}

struct Work {
    config: Config,
    state: AppState,
    watched: Vec<Watched>,
}

/// Tells systemd, where it has started the server.
pub(crate) fn supervisor(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot tell the supervisor: {error}");
    }
}

impl Work {
    fn prepare(&mut self) -> Result<(), StartError> {
        for watched in &mut self.watched {
            watched.tried = Stamp::of(&watched.file.path);
            self.state.set_model(open(&self.config, &self.state, &watched.file)?);
        }
        self.index()?;
        if let Some(dir) = &self.config.data {
            let store = Arc::new(Store::open(dir, &occlude_retrieval::Options::default())?);
            for info in store.collections()? {
                tracing::info!(
                    "collection `{}`: {} points of the model `{}`",
                    info.name,
                    info.count,
                    info.spec.model
                );
            }
            keep(Arc::downgrade(&store), self.state.clone());
            self.state.set_store(store);
        }
        tracing::info!("ready");
        supervisor(&[NotifyState::Ready]);
        Ok(())
    }

    /// Indexes the gallery where its vectors are not those of the first model.
    fn index(&self) -> Result<(), StartError> {
        let (Some(dir), Ok(model)) = (&self.config.gallery, self.state.model(None)) else { return Ok(()) };
        if self.state.indexed().is_some_and(|g| g.fingerprint() == model.info.fingerprint) {
            return Ok(());
        }
        let report = Report::new("indexing");
        let gallery = Gallery::index(dir, &model, &self.config.limits, &report)?;
        report.end(&format!("gallery `{}`", dir.display()), gallery.len(), gallery.skipped());
        self.state.set_gallery(gallery);
        Ok(())
    }

    /// Until the server ends: loads again what is replaced, and everything on demand.
    fn watch(&mut self, orders: &Receiver<()>) {
        loop {
            let order = match self.config.watch {
                Some(every) => orders.recv_timeout(every),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(()) => self.again(true),
                Err(RecvTimeoutError::Timeout) => self.again(false),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn again(&mut self, everything: bool) {
        if everything {
            self.read_keys();
        }
        let mut changed = false;
        for watched in &mut self.watched {
            if everything || watched.is_replaced() {
                watched.tried = Stamp::of(&watched.file.path);
                changed |= replace(&self.config, &self.state, &watched.file);
            }
        }
        if changed && let Err(error) = self.index() {
            tracing::error!("{error}; searches of the gallery are refused until it can be indexed");
        }
    }

    fn read_keys(&self) {
        let Some(path) = &self.config.api_keys else { return };
        match Keys::read(path) {
            Ok(keys) => self.state.set_keys(keys),
            Err(error) => tracing::error!("{error}; the keys read before go on"),
        }
    }
}

/// Time between looks at the approximate indexes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Brings the approximate indexes up to date now and then, on a thread of its own: building one may take minutes.
fn keep(store: Weak<Store>, state: AppState) {
    std::thread::spawn(move || {
        while !state.draining() {
            std::thread::sleep(UPKEEP);
            let Some(store) = store.upgrade() else { return };
            match store.maintain(&|| !state.draining()) {
                Ok(done) => done.failed.iter().for_each(|why| tracing::warn!("{why}")),
                Err(error) => tracing::error!("{error}"),
            }
        }
    });
}

impl Watched {
    /// Whether the file is another one than was tried, and has not changed since the last look.
    fn is_replaced(&mut self) -> bool {
        let now = Stamp::of(&self.file.path);
        let settled = now.is_some() && now == self.seen;
        self.seen = now;
        settled && now != self.tried
    }
}

/// Loads a model in place of the one that is served; that one goes on where the new one cannot be loaded.
fn replace(config: &Config, state: &AppState, file: &ModelFile) -> bool {
    match open(config, state, file) {
        Ok(model) => {
            state.set_model(model);
            state.metrics().reload(&file.name, "ok");
            tracing::info!("model `{}` was replaced", file.name);
            true
        }
        Err(error) => {
            state.metrics().reload(&file.name, "failed");
            tracing::error!("{error}; model `{}` goes on as it was", file.name);
            false
        }
    }
}

fn open(config: &Config, state: &AppState, file: &ModelFile) -> Result<Model, StartError> {
    let start = Instant::now();
    let options = Options {
        provider: config.provider,
        workers: config.workers,
        intra_threads: config.intra_threads,
        max_batch: config.limits.max_batch,
        name: file.name.clone(),
        gpu_mem_limit: config.gpu_mem_limit,
    };
    let Loaded { info, encoders, note, warning } = load(&file.path, &options)?;
    announce(&info, config.provider, note.as_deref(), start.elapsed());
    match (info.golden, warning) {
        (Some(cosine), _) => tracing::info!("golden picture: answered, cosine {cosine:.6}"),
        (None, warning) => tracing::warn!("{}", warning.unwrap_or("the answers were not checked")),
    }
    let encoders = encoders.into_iter().map(|e| Box::new(e) as Box<dyn Encode>).collect();
    Ok(Model::start(info, encoders, &config.limits, state.metrics()))
}

fn announce(info: &ModelInfo, asked: Provider, note: Option<&str>, time: Duration) {
    let ModelInfo { name, encoder, dim, provider, fingerprint, .. } = info;
    let short: String = fingerprint.chars().take(12).collect();
    let side = info.contract.crop;
    tracing::info!(
        "model `{name}`: {encoder}, {side} px, {dim} numbers, fingerprint {short}, loaded in {time:.1?}"
    );
    match (asked, note) {
        (Provider::Auto, Some(why)) => tracing::info!("provider: {provider} (`auto`; not CUDA: {why})"),
        _ => tracing::info!("provider: {provider}"),
    }
}
