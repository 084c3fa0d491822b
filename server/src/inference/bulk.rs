//! Many files through the model: for the gallery, for collections and for `embed`.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use occlude_preprocess::files::{Listing, Sample};
use occlude_preprocess::{Broken, Rgb, load, names};
use parking_lot::Mutex;

use crate::config::Limits;
use crate::inference::batcher::{Announced, Batcher, Reply};
use crate::inference::encode::{EncodeError, Encoded, NOT_FINITE, Wants};
use crate::inference::model::Model;

/// Tells how it goes.
pub trait Progress: Sync {
    /// `done` of `total` pictures are read.
    fn at(&self, done: usize, total: usize);
    /// A picture was left out: what to tell about it.
    fn skipped(&self, line: &dyn Display);
}

/// Progress on stderr: a line that is rewritten on a terminal, a line every few seconds in a log.
pub(crate) struct Report {
    verb: &'static str,
    start: Instant,
    last: Mutex<Instant>,
    terminal: bool,
}

impl Report {
    /// `verb` says what is being done.
    pub(crate) fn new(verb: &'static str) -> Self {
        let start = Instant::now();
        Self { verb, start, last: Mutex::new(start), terminal: std::io::stderr().is_terminal() }
    }

    fn clear(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    /// Tells how it went.
    pub(crate) fn end(&self, what: &str, images: usize, skipped: usize) {
        self.clear();
        let seconds = self.start.elapsed().as_secs_f64();
        let rate = images as f64 / seconds.max(1e-3);
        tracing::info!("{what}: {images} pictures in {seconds:.1} s ({rate:.0}/s), {skipped} skipped");
    }
}

impl Progress for Report {
    fn at(&self, done: usize, total: usize) {
        let every = if self.terminal { Duration::from_millis(100) } else { Duration::from_secs(5) };
        let Some(mut last) = self.last.try_lock() else { return };
        if last.elapsed() < every {
            return;
        }
        *last = Instant::now();
        let rate = done as f64 / self.start.elapsed().as_secs_f64().max(1e-3);
        let left = (total - done) as f64 / rate.max(1e-3);
        let line = format!("{} {done}/{total} ({rate:.0}/s, {left:.0} s left)", self.verb);
        if self.terminal {
            eprint!("\r\x1b[K{line}");
            let _ = std::io::stderr().flush();
        } else {
            tracing::info!("{line}");
        }
    }

    fn skipped(&self, line: &dyn Display) {
        self.clear();
        tracing::warn!("{line}");
    }
}

/// Tells what of a folder is left out, if anything.
pub(crate) fn tell_left_out(dir: &Path, listing: &Listing) {
    if !listing.left_out.is_empty() {
        tracing::info!("`{}`: {}", dir.display(), listing.left_out);
    }
}

/// What a reader hands to the collector: which picture, and its answer to come.
type Pending = (usize, Reply);

/// Files to be read and encoded.
pub(crate) struct Run<'a> {
    pub(crate) samples: &'a [Sample],
    pub(crate) model: &'a Model,
    pub(crate) limits: &'a Limits,
    /// What is wanted besides embedding and saliency.
    pub(crate) wants: Wants,
    pub(crate) progress: &'a dyn Progress,
}

/// How a run ended.
pub(crate) struct Outcome {
    /// Pictures that were encoded.
    pub(crate) done: usize,
    /// Pictures that could not be read, or have no embedding.
    pub(crate) skipped: usize,
    /// Why the first of them could not.
    pub(crate) first_error: Option<String>,
}

/// What the readers share.
struct Shared<'a> {
    run: &'a Run<'a>,
    next: AtomicUsize,
    read: AtomicUsize,
    broken: Mutex<Broken>,
}

impl Run<'_> {
    /// Reads and encodes every picture and hands it to `keep` with its place in `samples`, in no fixed order:
    /// `limits.decode_threads` decode side by side, the model's own workers encode in batches. Pictures that cannot
    /// be read, and those whose embedding is not finite, are reported and left out; the first error of the model or of
    /// `keep` ends the run.
    pub(crate) fn encode<E: From<EncodeError>>(
        &self,
        keep: &mut dyn FnMut(usize, Encoded) -> Result<(), E>,
    ) -> Result<Outcome, E> {
        // The channel's bound keeps readers at most a few batches ahead of the model.
        let (sender, receiver) = sync_channel(4 * self.limits.max_batch);
        let shared = Shared {
            run: self,
            next: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            broken: Mutex::default(),
        };
        let done = std::thread::scope(|scope| {
            for _ in 0..self.limits.decode_threads.min(self.samples.len()) {
                let (sender, shared) = (sender.clone(), &shared);
                scope.spawn(move || shared.read(&sender));
            }
            drop(sender);
            shared.collect(receiver, keep)
        })?;
        let broken = shared.broken.into_inner();
        let first_error = (broken.count() > 0).then(|| broken.first().to_owned());
        Ok(Outcome { done, skipped: broken.count(), first_error })
    }
}

impl Shared<'_> {
    fn read(&self, sender: &SyncSender<Pending>) {
        let Run { samples, model, limits, wants, progress } = self.run;
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(sample) = samples.get(i) else { return };
            let announced = model.batcher.announce();
            match load(&sample.path, &limits.decode()) {
                Ok(decoded) => {
                    let pixels = model.info.contract.pixels(&decoded.image);
                    let reply = submit(&model.batcher, announced, &pixels, *wants);
                    if sender.send((i, reply)).is_err() {
                        // The collector gave up on an error.
                        return;
                    }
                }
                Err(error) => self.skip(&error),
            }
            progress.at(self.read.fetch_add(1, Ordering::Relaxed) + 1, samples.len());
        }
    }

    /// Takes the receiver: where this fails, readers that wait for room in the channel hear of it.
    fn collect<E: From<EncodeError>>(
        &self,
        receiver: Receiver<Pending>,
        keep: &mut dyn FnMut(usize, Encoded) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut done = 0;
        for (i, reply) in receiver {
            let gone = |_| EncodeError::Runtime("the worker has stopped".to_owned());
            let encoded = reply.blocking_recv().map_err(gone).and_then(|r| r)?;
            if encoded.embedding.iter().all(|v| v.is_finite()) {
                keep(i, encoded)?;
                done += 1;
            } else if let Some(sample) = self.run.samples.get(i) {
                self.skip(&format!("`{}`: {NOT_FINITE}", names::of_path(&sample.path)));
            }
        }
        Ok(done)
    }

    fn skip(&self, error: &dyn Display) {
        let line = self.broken.lock().add(error);
        if let Some(line) = line {
            self.run.progress.skipped(&line);
        }
    }
}

/// Queues a picture, waiting while requests fill the queue: they come first.
pub(crate) fn submit(batcher: &Batcher, mut announced: Announced, pixels: &Rgb, wants: Wants) -> Reply {
    loop {
        if let Ok(reply) = announced.submit_wanting(pixels.clone(), wants) {
            return reply;
        }
        std::thread::sleep(Duration::from_millis(5));
        announced = batcher.announce();
    }
}
