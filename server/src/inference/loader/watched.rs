//! The files of a model, and whether they are others than were loaded.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::ModelFile;
use occlude_contract::external::files;

/// Tells one version of a file from another: length, time of change, and the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    length: u64,
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        let changed = (data.mtime(), data.mtime_nsec());
        Some(Self { length: data.len(), changed, inode: data.ino() })
    }
}

/// One model as it was seen last.
pub(super) struct Watched {
    pub(super) file: ModelFile,
    /// The model's file, and those of its external data.
    pub(super) paths: Vec<PathBuf>,
    /// When it was loaded, or last failed to.
    pub(super) tried: Option<Vec<Stamp>>,
    /// Another version, seen once: a file that is still being written changes until the next look.
    seen: Option<Vec<Stamp>>,
    /// SHA-256 over the files of the model that is served.
    pub(super) digest: String,
    /// Whether the version that was tried last could not be served.
    pub(super) failed: bool,
}

impl Watched {
    pub(super) fn new(file: ModelFile) -> Self {
        let paths = vec![file.path.clone()];
        Self { file, paths, tried: None, seen: None, digest: String::new(), failed: false }
    }

    /// What the files are at present; nothing where one is missing.
    pub(super) fn stamps(&self) -> Option<Vec<Stamp>> {
        self.paths.iter().map(|p| Stamp::of(p)).collect()
    }

    /// Takes this version for the one that is tried.
    pub(super) fn look(&mut self) {
        self.paths = files(&self.file.path);
        self.tried = self.stamps();
    }

    /// Whether the files are others than were tried, and have not changed since the last look.
    pub(super) fn is_replaced(&mut self) -> bool {
        let now = self.stamps();
        let settled = now.is_some() && now == self.seen;
        let replaced = settled && now != self.tried;
        self.seen = now;
        replaced
    }
}
