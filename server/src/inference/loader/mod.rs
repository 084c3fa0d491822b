//! Loading models, at start and again while requests run.
//!
//! All of it happens on one thread of its own: neither loading nor indexing may hold up the answers of `/readyz`.

mod error;
mod watched;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use occlude_preprocess::files::list;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::config::{Config, ModelFile, Provider};
use crate::gallery::Gallery;
use crate::gallery::indexing::GalleryError;
use crate::inference::bulk::Report;
use crate::inference::encode::Encode;
use crate::inference::encoder::files::digest;
use crate::inference::encoder::{Loaded, Options, file_kind, load};
use crate::inference::model::{Model, ModelInfo};
use crate::observe::supervisor::supervisor;
use crate::serving::repository::Order;
use crate::serving::state::AppState;

use watched::Watched;

pub use error::StartError;

/// Time between looks at whether a model that is no longer served still answers somebody.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// The loading thread.
pub(crate) struct Loader {
    orders: Sender<Order>,
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
            let watched = config.served.models.iter().cloned();
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
        let _ = self.orders.send(Order::Look);
    }

    /// Takes orders for what clients want loaded.
    pub(crate) fn orders(&self) -> Sender<Order> {
        self.orders.clone()
    }
}

struct Work {
    config: Config,
    state: AppState,
    watched: Vec<Watched>,
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
        for ModelFile { name, path } in &self.config.served.models {
            file_kind::check(path, name)?;
        }
        if let Some(dir) = &self.config.served.gallery {
            list(dir).map_err(|e| self.no_gallery(e.into()))?;
        }
        Ok(())
    }

    fn no_gallery(&self, source: GalleryError) -> StartError {
        StartError::Gallery { setting: self.config.sources.name("gallery"), source }
    }

    fn open_store(&self) -> Result<(), StartError> {
        let Some(data) = &self.config.served.data else { return Ok(()) };
        let failed = |source| StartError::Store { setting: self.config.sources.name("data"), source };
        let location = data.location().map_err(failed)?;
        match self.state.open_store(&location) {
            // Models answer meanwhile.
            Err(error) if error.kind() == occlude_retrieval::Kind::Unavailable => {
                tracing::error!("{error}");
                self.state.open_store_later(location);
                Ok(())
            }
            opened => opened.map_err(failed),
        }
    }

    /// The pictures of the gallery as `model` sees them, where it is the first model and they are not what is served.
    fn index(&self, model: &Model) -> Result<Option<Gallery>, StartError> {
        let Some(dir) = &self.config.served.gallery else { return Ok(None) };
        let first = self.config.served.models.first().is_some_and(|m| m.name == model.info.name);
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
    fn watch(&mut self, orders: &Receiver<Order>) {
        loop {
            let order = match self.config.served.watch() {
                Some(every) => orders.recv_timeout(every),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Look) => self.again(true),
                // Nobody listens any more where the client has left.
                Ok(Order::Load(file, done)) => drop(done.send(self.load(file))),
                Ok(Order::Unload(name, done)) => {
                    self.unload(&name);
                    let _ = done.send(Ok(()));
                }
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
                // What is wrong is in the log.
                let _ = self.anew(i);
            }
        }
    }

    /// Loads the model at a place among those watched again, unless its files are what is served.
    fn anew(&mut self, i: usize) -> Result<(), StartError> {
        let Some(watched) = self.watched.get_mut(i) else { return Ok(()) };
        watched.look();
        let file = watched.file.clone();
        // What was only touched, or copied over itself, answers as before.
        if !watched.failed && digest(&watched.paths).is_ok_and(|d| d == watched.digest) {
            tracing::info!("model `{}` is unchanged and stays in use", file.name);
            return Ok(());
        }
        let loaded = self.replace(&file);
        if let Some(watched) = self.watched.get_mut(i) {
            watched.failed = loaded.is_err();
            if let Ok(digest) = &loaded {
                watched.digest.clone_from(digest);
            }
        }
        loaded.map(drop)
    }

    /// Serves a file for a client; the reason, where that cannot be, names no path of this machine.
    fn load(&mut self, file: ModelFile) -> Result<(), String> {
        let (name, path) = (file.name.clone(), file.path.display().to_string());
        let loaded = match self.watched.iter_mut().position(|w| w.file.name == name) {
            Some(i) => {
                if let Some(watched) = self.watched.get_mut(i) {
                    watched.file = file;
                }
                self.anew(i)
            }
            None => self.first(file),
        };
        loaded.map_err(|error| {
            let told = error.to_string();
            let told = told.split("; hint: ").next().unwrap_or_default();
            told.replace(&path, &format!("{name}.onnx"))
        })
    }

    /// Serves a file whose name is new.
    fn first(&mut self, file: ModelFile) -> Result<(), StartError> {
        let mut watched = Watched::new(file);
        watched.look();
        let opened = file_kind::check(&watched.file.path, &watched.file.name).map_err(StartError::from);
        match opened.and_then(|()| open(&self.config, &self.state, &watched.file)) {
            Ok((model, digest)) => {
                watched.digest = digest;
                self.state.metrics().reload(&watched.file.name, "ok");
                tracing::info!("model `{}` was loaded", watched.file.name);
                self.state.set_model(model);
                self.watched.push(watched);
                Ok(())
            }
            Err(error) => {
                tracing::error!("{error}; model `{}` was not loaded", watched.file.name);
                Err(error)
            }
        }
    }

    /// Serves a model no more, and waits for the requests that began with it; none takes longer than the time-out.
    fn unload(&mut self, name: &str) {
        self.watched.retain(|w| w.file.name != name);
        let Some(model) = self.state.remove_model(name) else { return };
        let end = Instant::now() + self.config.limits.timeout.time();
        while Arc::strong_count(&model) > 1 && Instant::now() < end {
            std::thread::sleep(DRAIN_POLL);
        }
        tracing::info!("model `{name}` was unloaded");
    }

    /// Loads a model in place of the one that is served, and indexes the gallery for it where that is its own; both go
    /// on as they were until that is done, and where it cannot be done. Gives the hash of what is served now.
    fn replace(&self, file: &ModelFile) -> Result<String, StartError> {
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
                Ok(digest)
            }
            Err(error) => {
                self.state.metrics().reload(&file.name, "failed");
                tracing::error!("{error}; model `{}` stays in use as it was", file.name);
                Err(error)
            }
        }
    }
}

/// A model with its workers, and the hash of its files.
fn open(config: &Config, state: &AppState, file: &ModelFile) -> Result<(Model, String), StartError> {
    let start = Instant::now();
    let sessions = config.served.sessions.clone();
    let options = Options { sessions, max_batch: config.limits.max_batch, name: file.name.clone() };
    let Loaded { info, encoders, note, warning, digest } = load(&file.path, &options)?;
    announce(&info, config.served.sessions.provider, note.as_deref(), start.elapsed());
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
