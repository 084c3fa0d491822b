//! The shards of a data set in a bucket, of which parts are read.

use std::io;
#[cfg(feature = "buckets")]
use std::path::{Path, PathBuf};
#[cfg(feature = "buckets")]
use std::sync::Arc;

#[cfg(feature = "buckets")]
use occlude_objects::{Stat, Store};

use crate::index::Span;

/// The shards of a data set, in its store.
#[cfg(feature = "buckets")]
pub(crate) struct Remote {
    pub(crate) store: Arc<dyn Store>,
    /// In the order of the places of the index.
    pub(crate) shards: Vec<(PathBuf, Stat)>,
}

#[cfg(feature = "buckets")]
impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({}, {} shards)", self.store.name(Path::new("")), self.shards.len())
    }
}

#[cfg(feature = "buckets")]
impl Remote {
    /// Reads a part of a shard; `buf` has its length.
    ///
    /// # Errors
    /// What the store says, also where the shard is another by now.
    pub(crate) fn read(&self, place: usize, span: Span, buf: &mut [u8]) -> io::Result<()> {
        let (path, stat) = self.shards.get(place).ok_or(io::ErrorKind::NotFound)?;
        let bytes = self.store.read(path, stat, span.offset..span.offset.saturating_add(span.len))?;
        if bytes.len() != buf.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Without buckets there are none.
#[cfg(not(feature = "buckets"))]
#[derive(Debug)]
pub(crate) enum Remote {}

#[cfg(not(feature = "buckets"))]
impl Remote {
    pub(crate) fn read(&self, _: usize, _: Span, _: &mut [u8]) -> io::Result<()> {
        match *self {}
    }
}
