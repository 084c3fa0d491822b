//! The pictures of a data set: decoded on demand, kept in memory while they fit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use occlude_preprocess::files::Listing;
use occlude_preprocess::{DecodeError, Limits, LoadError, Picture};

/// A listing, a cache of its decoded pictures up to a number of bytes, and what was found broken.
pub struct Store {
    paths: Vec<PathBuf>,
    cached: Vec<OnceLock<Picture>>,
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

    /// How large a picture may be.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The bytes of the file at `index`; the error names the file.
    pub(super) fn read(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
        let path = &self.paths[index];
        bytes.clear();
        File::open(path)
            .and_then(|mut file| file.read_to_end(bytes))
            .map(|_| ())
            .map_err(|reason| LoadError::Read { path: path.clone(), reason }.to_string())
    }

    /// What is wrong with the file at `index`, in words.
    pub(super) fn decode_error(&self, index: usize, reason: DecodeError) -> String {
        LoadError::Decode { path: self.paths[index].clone(), reason }.to_string()
    }

    /// The decoded picture at `index`, where it was kept.
    pub(super) fn cached(&self, index: usize) -> Option<&Picture> {
        self.cached[index].get()
    }

    /// Whether a picture of that size might still be kept; photographs take one and a half bytes a pixel.
    pub(super) fn has_room(&self, width: u32, height: u32) -> bool {
        self.room.load(Ordering::Relaxed) >= u64::from(width) * u64::from(height) * 3 / 2
    }

    /// How many files were found broken so far.
    pub fn broken(&self) -> usize {
        self.broken.lock().map_or(0, |b| b.len())
    }

    /// Keeps a decoded picture where there is room.
    pub(super) fn keep(&self, index: usize, picture: Picture) {
        let bytes = picture.bytes() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if taken.is_ok() && self.cached[index].set(picture).is_err() {
            // another thread was faster; give the room back
            self.room.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Tells, once a file, that it cannot be used.
    pub(super) fn report(&self, index: usize, error: &str) {
        let Ok(mut broken) = self.broken.lock() else { return };
        if broken.insert(index, error.to_owned()).is_none() {
            eprintln!("warning: skipped: {error}");
        }
    }
}
