//! What models said of pictures lately: a file that comes again costs a hash.

use std::sync::Arc;

use hashlink::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::inference::encode::{Encoded, Wants};
use crate::pictures::facts::Facts;
use crate::pictures::window::Window;

/// Bytes that a row takes beside its numbers.
const ROW: usize = 512;

/// A file, the model that is asked about it, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// By a model's identity, which tells all that changes its numbers.
    pub(crate) fn of(identity: &str, window: Window, mirror: bool, wants: Wants, file: &[u8]) -> Self {
        let mut hash = Sha256::new();
        let flags = [mirror, wants.features, wants.sum, window == Window::Whole].map(u8::from);
        hash.update((identity.len() as u64).to_le_bytes());
        hash.update(identity);
        hash.update(flags);
        hash.update(file);
        Self(hash.finalize().into())
    }
}

/// What was said of a picture, to the bit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) facts: Facts,
    pub(crate) encoded: Encoded,
    pub(crate) mirrored: Option<Encoded>,
}

impl Row {
    /// Bytes that it takes, more or less.
    fn size(&self) -> usize {
        let numbers = |e: &Encoded| {
            let features = e.features.as_ref().map_or(0, |f| f.values.len());
            e.embedding.len() + e.saliency.len() + features + e.sum.as_ref().map_or(0, |s| s.values.len())
        };
        ROW + size_of::<f32>() * (numbers(&self.encoded) + self.mirrored.as_ref().map_or(0, numbers))
    }
}

/// The rows that were asked for last, within a bound of bytes.
pub(crate) struct Cache {
    most: usize,
    held: Mutex<Held>,
}

struct Held {
    rows: LruCache<Key, (Arc<Row>, usize)>,
    bytes: usize,
}

impl Cache {
    /// None where nothing is to be kept.
    pub(crate) fn new(most: usize) -> Option<Self> {
        let held = Mutex::new(Held { rows: LruCache::new_unbounded(), bytes: 0 });
        (most > 0).then_some(Self { most, held })
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Row>> {
        self.held.lock().rows.get(key).map(|(row, _)| Arc::clone(row))
    }

    /// Keeps a row, in place of those that nobody asked for the longest time.
    pub(crate) fn put(&self, key: Key, row: Row) {
        let size = row.size();
        // One row for all others would be no cache.
        if size > self.most / 4 {
            return;
        }
        let mut held = self.held.lock();
        let before = held.rows.insert(key, (Arc::new(row), size));
        held.bytes = held.bytes + size - before.map_or(0, |(_, size)| size);
        while held.bytes > self.most {
            let Some((_, (_, size))) = held.rows.remove_lru() else { break };
            held.bytes -= size;
        }
    }

    /// Bytes of all rows, more or less.
    pub(crate) fn bytes(&self) -> usize {
        self.held.lock().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(numbers: usize) -> Row {
        let encoded = Encoded {
            embedding: vec![0.5; numbers],
            saliency: Vec::new(),
            grid: (0, 0),
            features: None,
            sum: None,
        };
        let facts = Facts { width: 1, height: 2, format: "PNG", notes: Vec::new() };
        Row { facts, encoded, mirrored: None }
    }

    fn key(file: &[u8]) -> Key {
        Key::of("id", Window::Crop, false, Wants::default(), file)
    }

    #[test]
    fn everything_that_changes_the_answer_is_part_of_the_key() {
        let plain = key(b"file");
        assert_eq!(plain, key(b"file"));
        let (none, crop) = (Wants::default(), Window::Crop);
        for other in [
            key(b"File"),
            Key::of("ie", crop, false, none, b"file"),
            Key::of("idf", crop, false, none, b"ile"),
            Key::of("id", Window::Whole, false, none, b"file"),
            Key::of("id", crop, true, none, b"file"),
            Key::of("id", crop, false, Wants { features: true, sum: false }, b"file"),
            Key::of("id", crop, false, Wants { features: false, sum: true }, b"file"),
        ] {
            assert_ne!(plain, other);
        }
    }

    #[test]
    fn what_was_asked_for_last_stays_within_the_bound() {
        assert!(Cache::new(0).is_none());
        let size = row(10).size();
        let cache = Cache::new(4 * size).unwrap();
        for i in 0..4u8 {
            cache.put(key(&[i]), row(10));
        }
        assert_eq!(*cache.get(&key(&[0])).unwrap(), row(10));
        cache.put(key(&[4]), row(10));
        assert_eq!(cache.bytes(), 4 * size);
        assert!(cache.get(&key(&[1])).is_none() && cache.get(&key(&[0])).is_some());
        cache.put(key(&[4]), row(10));
        assert_eq!(cache.bytes(), 4 * size, "the same once more");
        cache.put(key(&[9]), row(10_000));
        assert!(cache.get(&key(&[9])).is_none(), "too large to be kept");
    }
}
