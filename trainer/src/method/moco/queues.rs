//! The queues of a method: one of global embeddings, and one of each aligned embedding where there are such.

use anyhow::{Result, ensure};
use tch::{Device, Tensor};

use super::{Keys, Vectors};
use crate::config::Moco;
use crate::model::{Named, find};

/// Both are filled together and have the same place.
pub(super) struct Queues {
    global: Keys,
    /// `(n, D, K)`.
    aligned: Option<Keys>,
}

impl Queues {
    pub(super) fn new(settings: &Moco, device: Device) -> Self {
        let (dim, len, start) = (settings.head.dim, settings.queue, settings.queue_start);
        let global = Keys::new(&[], dim, len, start, device);
        let aligned = settings.align.as_ref();
        let aligned = aligned.map(|align| Keys::new(&[(dim / align.heads) as i64], dim, len, start, device));
        Self { global, aligned }
    }

    /// The keys that count of the global embeddings and of the aligned ones; `None` where there are none.
    pub(super) fn get(&self) -> [Option<Tensor>; 2] {
        [self.global.get(), self.aligned.as_ref().and_then(Keys::get)]
    }

    pub(super) fn push(&mut self, keys: &Vectors) {
        self.global.push(&keys.global);
        if let (Some(queue), Some(keys)) = (&mut self.aligned, &keys.aligned) {
            queue.push(keys);
        }
    }

    /// All of it, by name.
    pub(super) fn state(&self) -> Vec<Named> {
        let number = |name: &str, value: i64| Named::new(name, &Tensor::from(value));
        let aligned = self.aligned.as_ref().map(|keys| Named::new("queue_aligned", &keys.columns));
        let global = [
            Named::new("queue", &self.global.columns),
            number("queue_ptr", self.global.next),
            number("queue_filled", self.global.filled),
        ];
        global.into_iter().chain(aligned).collect()
    }

    /// Takes the places from a state whose tensors were loaded.
    ///
    /// # Errors
    /// Where they are none of the queue.
    pub(super) fn resume(&mut self, state: &[Named]) -> Result<()> {
        let number = |name: &str| find(state, name).map(|t| t.int64_value(&[]));
        let len = self.global.len();
        let (next, filled) = (number("queue_ptr")?, number("queue_filled")?);
        ensure!(
            (0..len.max(1)).contains(&next) && (0..=len).contains(&filled),
            "`queue_ptr` {next} or `queue_filled` {filled} lies outside a queue of {len}"
        );
        for keys in std::iter::once(&mut self.global).chain(&mut self.aligned) {
            (keys.next, keys.filled) = (next, filled);
        }
        Ok(())
    }
}
