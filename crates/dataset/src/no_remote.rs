//! Stands for buckets where the program was built without them.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::index::Index;
use crate::options::Options;
use crate::shards::Shards;

/// Says how to get them.
pub(crate) fn open(path: &Path, _: &Options) -> Result<(PathBuf, Index, Shards), Error> {
    Err(Error::Unsuitable {
        what: format!("`{}` is an address, and this program was built without buckets", path.display()),
        hint: "build it with the feature `object-store`, which plain `cargo build` does",
    })
}
