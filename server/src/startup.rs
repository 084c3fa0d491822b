//! From a configuration to a running server.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::batch::Encode;
use crate::config::{Config, Provider};
use crate::encoder::{LoadError, Loaded, Options, load};
use crate::gallery::{Gallery, GalleryError, Progress};
use crate::model::{Model, ModelInfo};
use crate::routes::app;
use crate::serve::{Timeouts, serve};
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
    /// The model cannot be served.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// The gallery cannot be indexed.
    #[error(transparent)]
    Gallery(#[from] GalleryError),
}

/// Listens at once (answering 503), loads the model, indexes the gallery, and serves until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), StartError> {
    let listen = |source| StartError::Listen { address: config.address, source };
    let listener = TcpListener::bind(config.address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signal)?;
    eprintln!("occlude-serve {} on http://{address}", env!("CARGO_PKG_VERSION"));

    let state = AppState::new(config.limits.clone(), config.gallery.is_some());
    let loading = background(config.clone(), state.clone());
    let (failed, mut failure) = oneshot::channel();
    let end = async {
        let load = async {
            match loading.await {
                Ok(Err(error)) => drop(failed.send(error)),
                // Loaded, or the loader was dropped: serve until a signal.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => eprintln!("SIGTERM: finishing what was accepted"),
            _ = interrupt.recv() => eprintln!("SIGINT: finishing what was accepted"),
            () = load => {}
        }
    };
    let timeouts = Timeouts {
        head: config.limits.read_timeout,
        drain: config.drain_timeout,
        max_connections: config.max_connections,
    };
    serve(listener, app(state.clone()), state, timeouts, end).await;
    failure.try_recv().map_or(Ok(()), Err)
}

/// Loads on a thread of its own: neither loading nor indexing may hold up the answers of `/readyz`.
fn background(config: Config, state: AppState) -> oneshot::Receiver<Result<(), StartError>> {
    let (done, receiver) = oneshot::channel();
    std::thread::spawn(move || done.send(prepare(&config, &state)));
    receiver
}

fn prepare(config: &Config, state: &AppState) -> Result<(), StartError> {
    let start = Instant::now();
    let options = Options {
        provider: config.provider,
        workers: config.workers,
        intra_threads: config.intra_threads,
        max_batch: config.limits.max_batch,
        name: config.name.clone(),
        gpu_mem_limit: config.gpu_mem_limit,
    };
    let Loaded { info, encoders, note, golden, warning, .. } = load(&config.model, &options)?;
    announce(&info, config.provider, note.as_deref(), start.elapsed());
    match (golden, warning) {
        (Some(cosine), _) => eprintln!("golden picture: answered, cosine {cosine:.6}"),
        (None, warning) => eprintln!("warning: {}", warning.unwrap_or("the answers were not checked")),
    }
    let encoders = encoders.into_iter().map(|e| Box::new(e) as Box<dyn Encode>).collect();
    state.set_model(Model::start(info, encoders, &config.limits, state.metrics()));
    if let (Some(dir), Some(model)) = (&config.gallery, state.loaded()) {
        let report = Report::new(dir.clone());
        let gallery = Gallery::index(dir, model, &config.limits, &report)?;
        report.end(gallery.len(), gallery.skipped());
        state.set_gallery(gallery);
    }
    eprintln!("ready");
    Ok(())
}

fn announce(info: &ModelInfo, asked: Provider, note: Option<&str>, time: Duration) {
    let ModelInfo { name, encoder, dim, provider, fingerprint, .. } = info;
    let short: String = fingerprint.chars().take(12).collect();
    let side = info.contract.crop;
    eprintln!(
        "model `{name}`: {encoder}, {side} px, {dim} numbers, fingerprint {short}, loaded in {time:.1?}"
    );
    match (asked, note) {
        (Provider::Auto, Some(why)) => eprintln!("provider: {provider} (`auto`; not CUDA: {why})"),
        _ => eprintln!("provider: {provider}"),
    }
}

/// Progress on stderr: a line that is rewritten on a terminal, a line every few seconds in a log.
struct Report {
    dir: PathBuf,
    start: Instant,
    last: Mutex<Instant>,
    terminal: bool,
}

impl Report {
    fn new(dir: PathBuf) -> Self {
        let start = Instant::now();
        Self { dir, start, last: Mutex::new(start), terminal: std::io::stderr().is_terminal() }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn end(&self, images: usize, skipped: usize) {
        self.clear();
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = images as f64 / seconds.max(1e-3);
        let dir = self.dir.display();
        eprintln!("gallery `{dir}`: {images} pictures in {seconds:.1} s ({rate:.0}/s), {skipped} skipped");
    }
}

impl Progress for Report {
    fn at(&self, done: usize, total: usize) {
        let every = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
        let Ok(mut last) = self.last.try_lock() else { return };
        if last.elapsed() < every {
            return;
        }
        *last = Instant::now();
        let rate = done as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let left = (total - done) as f64 / rate.max(1e-3);
        let line = format!("indexing {done}/{total} ({rate:.0}/s, {left:.0} s left)");
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{line}");
        }
    }

    fn skipped(&self, why: &dyn Display) {
        self.clear();
        eprintln!("skipped: {why}");
    }
}
