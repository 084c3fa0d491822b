//! Stands for buckets where the program was built without them.

use std::io;
use std::path::{Path, PathBuf};

use crate::Error;
use crate::dataset::Options;
use crate::index::{Index, Span};
use crate::shards::Shards;

/// There are none.
#[derive(Debug)]
pub(crate) enum Remote {}

impl Remote {
    pub(crate) fn read(&self, _: usize, _: Span, _: &mut [u8]) -> io::Result<()> {
        match *self {}
    }
}

/// Says how to get them.
pub(crate) fn open(path: &Path, _: &Options) -> Result<(PathBuf, Index, Shards), Error> {
    Err(Error::Unsuitable {
        what: format!("`{}` is an address, and this program was built without buckets", path.display()),
        hint: "build it with the feature `object-store`, which plain `cargo build` does",
    })
}
