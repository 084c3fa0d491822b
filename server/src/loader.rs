//! Loading models, at start and again while requests run.
//!
//! All of it happens on one thread of its own: neither loading nor indexing may hold up the answers of `/readyz`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use occlude_preprocess::files::list;
use occlude_retrieval::{Engine, Store};
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::auth::KeyError;
use crate::batch::Encode;
use crate::bulk::Report;
use crate::config::{Config, ModelFile, Provider};
use crate::encoder::files::{digest, files};
use crate::encoder::{LoadError, Loaded, Options, file_kind, load};
use crate::gallery::Gallery;
use crate::indexing::GalleryError;
use crate::model::{Model, ModelInfo};
use crate::state::AppState;

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; hint: choose another with {host} and {port}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
        /// The setting of the host.
        host: String,
        /// Of the port.
        port: String,
    },
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signal(std::io::Error),
    /// The keys cannot be read.
    #[error("{setting}: {source}")]
    Keys {
        /// The setting.
        setting: String,
        /// Why.
        source: KeyError,
    },
    /// A model cannot be served.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The collections cannot be opened.
    #[error("{setting}: {source}")]
    Store {
        /// The setting.
        setting: String,
        /// Why.
        source: occlude_retrieval::Error,
    },
    /// The gallery cannot be indexed.
    #[error("{setting}: {source}")]
    Gallery {
        /// The setting.
        setting: String,
        /// Why.
        source: GalleryError,
    },
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

/// One model as it was seen last.
struct Watched {
    file: ModelFile,
    /// The model's file, and those of its external data.
    paths: Vec<PathBuf>,
    /// When it was loaded, or last failed to.
    tried: Option<Vec<Stamp>>,
    /// Another version, seen once: a file that is still being written changes until the next look.
    seen: Option<Vec<Stamp>>,
    /// SHA-256 over the files of the model that is served.
    digest: String,
    /// Whether the version that was tried last could not be served.
    failed: bool,
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
            let watched = watched.map(Watched::new).collect();
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

    /// Looks at all models now, and loads those again that have changed.
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
        self.check()?;
        self.open_store()?;
        for watched in &mut self.watched {
            watched.look();
            let (model, digest) = open(&self.config, &self.state, &watched.file)?;
            watched.digest = digest;
            self.state.set_model(model);
        }
        if let Ok(model) = self.state.model(None)
            && let Some(gallery) = self.index(&model)?
        {
            self.state.set_gallery(gallery);
        }
        tracing::info!("ready");
        supervisor(&[NotifyState::Ready]);
        Ok(())
    }

    /// What can be known to be wrong before a model is loaded, which takes its time.
    fn check(&self) -> Result<(), StartError> {
        for ModelFile { name, path } in &self.config.models {
            file_kind::check(path, name)?;
        }
        if let Some(dir) = &self.config.gallery {
            list(dir).map_err(|e| self.no_gallery(e.into()))?;
        }
        Ok(())
    }

    fn no_gallery(&self, source: GalleryError) -> StartError {
        StartError::Gallery { setting: self.config.sources.name("gallery"), source }
    }

    fn open_store(&self) -> Result<(), StartError> {
        let Some(dir) = &self.config.data else { return Ok(()) };
        let failed = |source| StartError::Store { setting: self.config.sources.name("data"), source };
        let options = occlude_retrieval::Options { reserve: RESERVE, ..Default::default() };
        let store = Arc::new(Store::open(dir, &options).map_err(failed)?);
        for info in store.collections().map_err(failed)? {
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
        keep(Arc::downgrade(&store), self.state.clone());
        self.state.set_store(store);
        Ok(())
    }

    /// The pictures of the gallery as `model` sees them, where it is the first model and they are not what is served.
    fn index(&self, model: &Model) -> Result<Option<Gallery>, StartError> {
        let Some(dir) = &self.config.gallery else { return Ok(None) };
        let first = self.config.models.first().is_some_and(|m| m.name == model.info.name);
        if !first || self.state.indexed().is_some_and(|g| g.identity() == model.info.identity) {
            return Ok(None);
        }
        let report = Report::new("indexing");
        let gallery = Gallery::index(dir, model, &self.config.limits, &report);
        let gallery = gallery.map_err(|e| self.no_gallery(e))?;
        report.end(&format!("gallery `{}`", dir.display()), gallery.len(), gallery.skipped());
        Ok(Some(gallery))
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
        for i in 0..self.watched.len() {
            let Some(watched) = self.watched.get_mut(i) else { return };
            let name = watched.file.name.clone();
            let replaced = watched.is_replaced();
            if everything && !replaced && !watched.failed && watched.stamps() == watched.tried {
                tracing::info!("model `{name}` is unchanged and stays in use");
            } else if everything || replaced {
                watched.look();
                let file = watched.file.clone();
                // What was only touched, or copied over itself, answers as before.
                if !watched.failed && digest(&watched.paths).is_ok_and(|d| d == watched.digest) {
                    tracing::info!("model `{name}` is unchanged and stays in use");
                    continue;
                }
                let loaded = self.replace(&file);
                if let Some(watched) = self.watched.get_mut(i) {
                    watched.failed = loaded.is_none();
                    watched.digest = loaded.unwrap_or_else(|| watched.digest.clone());
                }
            }
        }
    }

    /// Loads a model in place of the one that is served, and indexes the gallery for it where that is its own; both go
    /// on as they were until that is done, and where it cannot be done. Gives the hash of what is served now.
    fn replace(&self, file: &ModelFile) -> Option<String> {
        let loaded = open(&self.config, &self.state, file);
        let loaded = loaded.and_then(|(model, digest)| Ok((self.index(&model)?, model, digest)));
        match loaded {
            Ok((gallery, model, digest)) => {
                match gallery {
                    Some(gallery) => self.state.set_model_with_gallery(model, gallery),
                    None => self.state.set_model(model),
                }
                self.state.metrics().reload(&file.name, "ok");
                tracing::info!("model `{}` was replaced", file.name);
                Some(digest)
            }
            Err(error) => {
                self.state.metrics().reload(&file.name, "failed");
                tracing::error!("{error}; model `{}` stays in use as it was", file.name);
                None
            }
        }
    }
}

/// Bytes that are kept free for deleting points on a full disk.
const RESERVE: u64 = 4 << 20;
/// Looks at the approximate indexes between two at whether the disk takes something.
const PROBE_EVERY: usize = 12;

/// Time between looks at the approximate indexes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Brings the approximate indexes up to date now and then, on a thread of its own: building one may take minutes. Also
/// looks whether the disk takes something: at once after something could not be written, else once a minute.
fn keep(store: Weak<Store>, state: AppState) {
    std::thread::spawn(move || {
        for round in 1usize.. {
            std::thread::sleep(UPKEEP);
            let Some(store) = store.upgrade().filter(|_| !state.draining()) else { return };
            match store.maintain(&|| !state.draining()) {
                Ok(done) => done.failed.iter().for_each(|why| tracing::warn!("{why}")),
                Err(error) => tracing::error!("{error}"),
            }
            if round % PROBE_EVERY == 0 || state.store_problem().is_some() {
                state.note_store(store.probe().err().as_ref());
            }
        }
    });
}

impl Watched {
    fn new(file: ModelFile) -> Self {
        let paths = vec![file.path.clone()];
        Self { file, paths, tried: None, seen: None, digest: String::new(), failed: false }
    }

    /// What the files are at present; nothing where one is missing.
    fn stamps(&self) -> Option<Vec<Stamp>> {
        self.paths.iter().map(|p| Stamp::of(p)).collect()
    }

    /// Takes this version for the one that is tried.
    fn look(&mut self) {
        self.paths = files(&self.file.path);
        self.tried = self.stamps();
    }

    /// Whether the files are others than were tried, and have not changed since the last look.
    fn is_replaced(&mut self) -> bool {
        let now = self.stamps();
        let settled = now.is_some() && now == self.seen;
        let replaced = settled && now != self.tried;
        self.seen = now;
        replaced
    }
}

/// A model with its workers, and the hash of its files.
fn open(config: &Config, state: &AppState, file: &ModelFile) -> Result<(Model, String), StartError> {
    let start = Instant::now();
    let options = Options {
        provider: config.provider,
        workers: config.workers,
        intra_threads: config.intra_threads,
        max_batch: config.limits.max_batch,
        name: file.name.clone(),
        gpu_mem_limit: config.gpu_mem_limit,
    };
    let Loaded { info, encoders, note, warning, digest } = load(&file.path, &options)?;
    announce(&info, config.provider, note.as_deref(), start.elapsed());
    match (info.golden, warning) {
        (Some(cosine), _) => tracing::info!("golden picture: reproduced, cosine {cosine:.6}"),
        (None, warning) => tracing::warn!("{}", warning.unwrap_or("the outputs were not checked")),
    }
    let encoders = encoders.into_iter().map(|e| Box::new(e) as Box<dyn Encode>).collect();
    Ok((Model::start(info, encoders, &config.limits, state.metrics()), digest))
}

fn announce(info: &ModelInfo, asked: Provider, note: Option<&str>, time: Duration) {
    let ModelInfo { name, encoder, dim, provider, fingerprint, identity, .. } = info;
    let short = |hash: &str| hash.chars().take(12).collect::<String>();
    let (fingerprint, identity) = (short(fingerprint), short(identity));
    let side = info.contract.crop;
    tracing::info!(
        "model `{name}`: {encoder}, {side} px, {dim} dimensions, fingerprint {fingerprint}, identity {identity}, loaded in {time:.1?}"
    );
    match (asked, note) {
        (Provider::Auto, Some(why)) => tracing::info!("provider: {provider} (`auto`; not CUDA: {why})"),
        _ => tracing::info!("provider: {provider}"),
    }
}
