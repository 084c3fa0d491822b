//! Where the pictures of a run come from.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use anyhow::Result;
use tch::Device;

use super::{Feed, Loader, LoaderSpec, Store};

/// The pictures of a run.
#[derive(Clone)]
pub enum Pictures {
    /// Decoded by the loader.
    Stored(Arc<Store>),
    /// Random pixels, that many an epoch and the same in every batch: they measure what the device does alone.
    Synthetic(usize),
}

impl Pictures {
    /// Pictures an epoch.
    pub fn len(&self) -> usize {
        match self {
            Self::Stored(store) => store.len(),
            Self::Synthetic(n) => *n,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many files were found broken so far.
    pub fn broken(&self) -> usize {
        match self {
            Self::Stored(store) => store.broken(),
            Self::Synthetic(_) => 0,
        }
    }

    /// The batches of an epoch from one on, on their way to `device`; waiting for one ends when `signal` is not 0 any more.
    ///
    /// # Errors
    /// Where the device cannot be used.
    pub fn feed(
        &self,
        spec: &LoaderSpec,
        (epoch, first): (u64, usize),
        signal: Option<Arc<AtomicUsize>>,
        device: Device,
    ) -> Result<Feed> {
        match self {
            Self::Stored(store) => {
                Feed::start(Loader::start(store, spec, epoch, first).heeding(signal), device)
            }
            Self::Synthetic(n) => Ok(Feed::synthetic(spec, first..spec.steps(*n), device)),
        }
    }
}
