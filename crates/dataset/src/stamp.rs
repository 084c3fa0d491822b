//! How one sees that a folder or file is what it was.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Below this age a stamp proves nothing: file systems count time in steps of up to two seconds, so
/// that a change in the same step would not show.
const SETTLED: Duration = Duration::from_secs(2);

/// Identity, size and times of a folder or file; all zero for one that is not there.
///
/// The time of change of the inode is there because copying tools set the other back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) modified: i64,
    /// Nanoseconds since 1970.
    pub(crate) changed: i64,
}

impl Stamp {
    /// Of what is at `path` now, links followed.
    pub(crate) fn of(path: &Path) -> Self {
        std::fs::metadata(path).map(|meta| Self::from(&meta)).unwrap_or_default()
    }

    /// Whether a later change is sure to show in another stamp.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(SETTLED);
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        self.modified < now && self.changed < now
    }
}

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        let nanos = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }
}
