//! The pictures of a data set: decoded on demand, kept in memory while they fit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use occlude_dataset::Dataset;
use occlude_preprocess::{Limits, Rgb};

thread_local! {
    /// The bytes of the file that a thread decodes; kept, so that no picture takes memory anew.
    static BYTES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Files in a row that may be broken.
const MAX_BROKEN: usize = 1000;
/// Broken files that are named; further ones are only counted.
const NAMED: usize = 50;

/// A data set, a cache of its decoded pictures up to a number of bytes, and what was found broken.
pub struct Store {
    dataset: Dataset,
    cached: Vec<OnceLock<Arc<Rgb>>>,
    room: AtomicU64,
    limits: Limits,
    broken: Mutex<BTreeMap<usize, String>>,
}

impl Store {
    /// Nothing is decoded yet; `cache_bytes` bounds the pixels that are kept.
    pub fn new(dataset: Dataset, cache_bytes: u64) -> Self {
        // without a cache there is nothing to hold a place for
        let places = if cache_bytes == 0 { 0 } else { dataset.len() };
        Self {
            cached: (0..places).map(|_| OnceLock::new()).collect(),
            dataset,
            room: AtomicU64::new(cache_bytes),
            limits: Limits::default(),
            broken: Mutex::default(),
        }
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dataset.is_empty()
    }

    /// The picture at `index`, or `None` where the file cannot be read; the first time that is
    /// found, it is reported on stderr.
    pub fn get(&self, index: usize) -> Option<Arc<Rgb>> {
        if let Some(image) = self.cached.get(index).and_then(OnceLock::get) {
            return Some(Arc::clone(image));
        }
        match BYTES.with_borrow_mut(|bytes| self.dataset.decode(index, &self.limits, bytes)) {
            Ok(decoded) => Some(self.keep(index, Arc::new(decoded.image))),
            Err(error) => {
                self.report(index, &error.to_string());
                None
            }
        }
    }

    /// The picture at `index` or, where it is broken, of the next file that is not, so that a batch
    /// is always full and the choice does not depend on timing. `None` where no file can be read.
    pub fn get_or_next(&self, index: usize) -> Option<Arc<Rgb>> {
        let n = self.len();
        // a data set of which so many in a row are broken is not there any more
        (0..n.min(MAX_BROKEN)).find_map(|i| self.get((index + i) % n))
    }

    /// How many files were found broken so far.
    pub fn broken(&self) -> usize {
        self.broken.lock().map_or(0, |b| b.len())
    }

    fn keep(&self, index: usize, image: Arc<Rgb>) -> Arc<Rgb> {
        let Some(slot) = self.cached.get(index) else { return image };
        let bytes = image.data.len() as u64;
        let taken =
            self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if taken.is_ok() && slot.set(Arc::clone(&image)).is_err() {
            // another thread was faster; give the room back
            self.room.fetch_add(bytes, Ordering::Relaxed);
        }
        image
    }

    fn report(&self, index: usize, error: &str) {
        let Ok(mut broken) = self.broken.lock() else { return };
        if broken.insert(index, error.to_owned()).is_some() {
            return;
        }
        match broken.len() {
            n if n < NAMED => eprintln!("warning: skipped: {error}"),
            NAMED => eprintln!(
                "warning: skipped: {error}; further ones are not named; hint: `occlude-train dataset check` names all"
            ),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use occlude_dataset::{Options, prepare};

    /// A list and shards hold the pictures of the folder that they were made of, in its order: a run does not
    /// depend on which of them it is given.
    #[test]
    fn folders_lists_and_shards_give_the_same_pictures() {
        let dir = tempfile::tempdir().expect("a folder");
        let (folder, list, shards) =
            (dir.path().join("folder"), dir.path().join("list.txt"), dir.path().join("shards"));
        std::fs::create_dir(&folder).expect("made");
        for i in 0..5u8 {
            let picture = image::RgbImage::from_pixel(9 + u32::from(i), 8, image::Rgb([i * 40, 3, 4]));
            picture.save(folder.join(format!("{i}.jpg"))).expect("written");
        }
        std::fs::write(folder.join("3.jpg"), b"broken").expect("written");
        let open = |path: &std::path::Path| Dataset::open(path, &Options::default()).expect("opened");
        let data = open(&folder);
        prepare::write_list(&data, &[0, 1, 2, 3, 4], &list).expect("written");
        let pack = prepare::PackOptions { size: 4096, shuffle: None };
        prepare::pack(&data, &shards, &pack, &()).expect("packed");
        let pictures = |data: Dataset, cache: u64| -> Vec<Option<Arc<Rgb>>> {
            let store = Store::new(data, cache);
            let first: Vec<_> = (0..store.len()).map(|i| store.get(i)).collect();
            let again: Vec<_> = (0..store.len()).map(|i| store.get(i)).collect();
            assert_eq!((&first, store.broken()), (&again, 1));
            first
        };
        let expected = pictures(data, 0);
        assert!(expected[3].is_none() && expected[4].as_ref().is_some_and(|image| image.width == 13));
        for path in [&folder, &list, &shards] {
            assert_eq!(pictures(open(path), 1 << 20), expected, "{}", path.display());
        }
    }
}
