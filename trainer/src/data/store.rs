//! The pictures of a data set: decoded on demand, kept in memory while they fit.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use occlude_dataset::{Dataset, Error};
use occlude_preprocess::{AllBroken, Broken, DecodeError, Limits};
use occlude_views::Picture;

use super::foreground::Foreground;

/// Files in a row that may be broken.
pub(super) const MAX_BROKEN: usize = 1000;

/// A data set, a cache of its decoded pictures up to a number of bytes, and what was found broken.
pub struct Store {
    dataset: Arc<Dataset>,
    /// Positions in the data set; absent: all of them.
    which: Option<Vec<usize>>,
    cached: Vec<OnceLock<Picture>>,
    room: AtomicU64,
    limits: Limits,
    /// Of every picture its foreground, once it was asked for; 40 bytes each.
    foregrounds: OnceLock<Vec<OnceLock<Foreground>>>,
    broken: Mutex<(BTreeSet<usize>, Broken)>,
    /// Why the data set is out of reach.
    lost: OnceLock<String>,
}

impl Store {
    /// Nothing is decoded yet; `cache_bytes` bounds the pixels that are kept.
    pub fn new(dataset: Dataset, cache_bytes: u64) -> Self {
        Self::over(Arc::new(dataset), None, cache_bytes)
    }

    /// The same with the pictures at those positions alone.
    pub fn some(dataset: Arc<Dataset>, which: Vec<usize>, cache_bytes: u64) -> Self {
        Self::over(dataset, Some(which), cache_bytes)
    }

    fn over(dataset: Arc<Dataset>, which: Option<Vec<usize>>, cache_bytes: u64) -> Self {
        let n = which.as_ref().map_or(dataset.len(), Vec::len);
        // without a cache there is nothing to hold a place for
        let places = if cache_bytes == 0 { 0 } else { n };
        Self {
            cached: (0..places).map(|_| OnceLock::new()).collect(),
            dataset,
            which,
            room: AtomicU64::new(cache_bytes),
            limits: Limits::default(),
            foregrounds: OnceLock::new(),
            broken: Mutex::default(),
            lost: OnceLock::new(),
        }
    }

    /// The position in the data set.
    fn at(&self, index: usize) -> usize {
        self.which.as_ref().map_or(index, |which| which[index])
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.which.as_ref().map_or(self.dataset.len(), Vec::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How large a picture may be.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The bytes of the picture at `index`.
    ///
    /// # Errors
    /// Where they cannot be read; it names the picture.
    pub(super) fn read(&self, index: usize, bytes: &mut Vec<u8>) -> Result<(), Error> {
        self.dataset.read(self.at(index), bytes)
    }

    /// What is wrong with the picture at `index`.
    pub(super) fn decode_error(&self, index: usize, reason: DecodeError) -> Error {
        Error::Decode { name: self.dataset.name(self.at(index)), reason }
    }

    /// The decoded picture at `index`, where it was kept.
    pub(super) fn cached(&self, index: usize) -> Option<&Picture> {
        self.cached.get(index).and_then(OnceLock::get)
    }

    /// The foreground of the picture at `index`, found by `find` when it is first asked for. It depends on nothing but the
    /// picture, so that it does not matter which thread does.
    pub(super) fn foreground(&self, index: usize, find: impl FnOnce() -> Foreground) -> Foreground {
        let all = self.foregrounds.get_or_init(|| (0..self.len()).map(|_| OnceLock::new()).collect());
        match all.get(index) {
            Some(known) => *known.get_or_init(find),
            None => find(),
        }
    }

    /// Whether a picture of that size might still be kept; photographs take one and a half bytes a pixel.
    pub(super) fn has_room(&self, width: u32, height: u32) -> bool {
        self.room.load(Ordering::Relaxed) >= u64::from(width) * u64::from(height) * 3 / 2
    }

    /// How many files were found broken so far.
    pub fn broken(&self) -> usize {
        self.broken.lock().map_or(0, |b| b.1.count())
    }

    /// The error of a job that found nothing but broken files.
    pub fn all_broken(&self) -> AllBroken {
        let first = self.broken.lock().map(|b| b.1.first().to_owned()).unwrap_or_default();
        AllBroken { folder: Some(self.dataset.root().to_owned()), count: self.broken(), first }
    }

    /// Notes that the data set is out of reach; the first reason stays.
    pub(super) fn lose(&self, error: &Error) {
        let _ = self.lost.set(error.to_string());
    }

    /// Why there is no batch: the data set is out of reach, or nothing but broken files was found.
    pub fn nothing(&self) -> anyhow::Error {
        match self.lost() {
            Some(reason) => anyhow::anyhow!("{reason}"),
            None => self.all_broken().into(),
        }
    }

    /// Why the data set is out of reach, if it is.
    pub fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Keeps a decoded picture where there is room.
    pub(super) fn keep(&self, index: usize, picture: Picture) {
        let Some(slot) = self.cached.get(index) else { return };
        let bytes = picture.bytes() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if taken.is_ok() && slot.set(picture).is_err() {
            // another thread was faster; give the room back
            self.room.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Tells, once a file, that it cannot be used.
    pub(super) fn report(&self, index: usize, error: &str) {
        let Ok(mut broken) = self.broken.lock() else { return };
        let (known, broken) = &mut *broken;
        if known.insert(index)
            && let Some(line) = broken.add(&error)
        {
            tell!("warning: {line}");
        }
    }
}
