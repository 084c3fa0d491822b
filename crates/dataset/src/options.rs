//! How data sets are opened.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::cache;
use crate::limits::size;

/// Says how many bytes of shards are kept.
const SHARD_CACHE: &str = "OCCLUDE_SHARD_CACHE";
const DEFAULT_SHARD_CACHE: u64 = 20 << 30;

/// How to open a data set.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the paths of a list lie in; what the list says unless given.
    pub root: Option<PathBuf>,
    /// Where indices are kept.
    pub cache: Cache,
    /// Fewest pictures whose index is kept; smaller data sets are indexed in no time. That of a bucket always is.
    pub cache_from: usize,
    /// Bytes of shards of buckets that are kept beside indices; what `OCCLUDE_SHARD_CACHE` says (like `200GB`) unless given,
    /// else 20 GiB.
    pub shard_cache: Option<u64>,
    /// Is told what takes long.
    pub tell: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Self { root: None, cache: Cache::Default, cache_from: 10_000, shard_cache: None, tell: |_| {} }
    }
}

impl Options {
    /// # Errors
    /// Where the variable is no number of bytes.
    #[cfg_attr(not(feature = "buckets"), allow(dead_code, reason = "only buckets use it"))]
    pub(crate) fn room(&self) -> Result<u64, Error> {
        if let Some(room) = self.shard_cache {
            return Ok(room);
        }
        let Some(text) = std::env::var_os(SHARD_CACHE).filter(|text| !text.is_empty()) else {
            return Ok(DEFAULT_SHARD_CACHE);
        };
        let wrong = |reason: String| Error::Unsuitable {
            what: format!("{SHARD_CACHE} is `{}`: {reason}", text.display()),
            hint: "set it to a number of bytes, like `200GB`, or to 0",
        };
        let known = text.to_str().ok_or_else(|| wrong("it is not UTF-8".to_owned()))?;
        if known == "0" { Ok(0) } else { size(known).map_err(wrong) }
    }
}

/// Where indices are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cache {
    /// In [`default_cache_folder`](crate::default_cache_folder).
    Default,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere.
    Off,
}

impl Cache {
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        match self {
            Self::Default => cache::default_folder(),
            Self::Folder(path) => Some(path.clone()),
            Self::Off => None,
        }
    }
}

/// Whether a path is a bucket's address, as `s3://BUCKET/..`.
pub fn is_address(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains("://"))
}
