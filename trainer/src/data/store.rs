//! The pictures of a data set: decoded on demand, kept in memory while they fit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use occlude_preprocess::files::Listing;
use occlude_preprocess::{Limits, Rgb};

/// A listing, a cache of its decoded pictures up to a number of bytes, and what was found broken.
pub struct Store {
    paths: Vec<PathBuf>,
    cached: Vec<OnceLock<Arc<Rgb>>>,
    room: AtomicU64,
    limits: Limits,
    broken: Mutex<BTreeMap<usize, String>>,
}

impl Store {
    /// Nothing is decoded yet; `cache_bytes` bounds the pixels that are kept.
    pub fn new(listing: Listing, cache_bytes: u64) -> Self {
        let paths: Vec<_> = listing.samples.into_iter().map(|s| s.path).collect();
        let cached = paths.iter().map(|_| OnceLock::new()).collect();
        Self {
            paths,
            cached,
            room: AtomicU64::new(cache_bytes),
            limits: Limits::default(),
            broken: Mutex::default(),
        }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The picture at `index`, or `None` where the file cannot be read; the first time that is
    /// found, it is reported on stderr.
    pub fn get(&self, index: usize) -> Option<Arc<Rgb>> {
        if let Some(image) = self.cached[index].get() {
            return Some(Arc::clone(image));
        }
        match occlude_preprocess::load(&self.paths[index], &self.limits) {
            Ok(decoded) => Some(self.keep(index, Arc::new(decoded.image))),
            Err(error) => {
                self.report(index, &error.to_string());
                None
            }
        }
    }

    /// The picture at `index` or, where it is broken, of the next file that is not, so that a batch
    /// is always full and the choice does not depend on timing; and the index that it has. `None`
    /// where no file can be read.
    pub fn get_or_next(&self, index: usize) -> Option<(usize, Arc<Rgb>)> {
        let n = self.len();
        (0..n).map(|i| (index + i) % n).find_map(|i| self.get(i).map(|image| (i, image)))
    }

    /// How many files were found broken so far.
    pub fn broken(&self) -> usize {
        self.broken.lock().map_or(0, |b| b.len())
    }

    fn keep(&self, index: usize, image: Arc<Rgb>) -> Arc<Rgb> {
        let bytes = image.data.len() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if taken.is_ok() && self.cached[index].set(Arc::clone(&image)).is_err() {
            // another thread was faster; give the room back
            self.room.fetch_add(bytes, Ordering::Relaxed);
        }
        image
    }

    fn report(&self, index: usize, error: &str) {
        let Ok(mut broken) = self.broken.lock() else { return };
        if broken.insert(index, error.to_owned()).is_none() {
            eprintln!("warning: skipped: {error}");
        }
    }
}
