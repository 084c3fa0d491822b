//! Which checkpoints a run writes, and when.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::snapshot::{self, State};

/// The checkpoint that is replaced by the next one.
const LATEST: &str = "latest.safetensors";
/// The last one whose accuracy had not fallen.
const GOOD: &str = "good.safetensors";

/// The checkpoints of a run's folder: one that is always replaced, and those that are kept.
pub(super) struct Saves {
    out: PathBuf,
    interval: Duration,
    /// Whether this is the process that writes.
    writes: bool,
    saved: Cell<Instant>,
}

impl Saves {
    pub(super) fn new(out: &Path, interval: Duration, writes: bool) -> Self {
        Self { out: out.to_owned(), interval, writes, saved: Cell::new(Instant::now()) }
    }

    /// Whether the last checkpoint is old.
    pub(super) fn due(&self) -> bool {
        self.saved.get().elapsed() >= self.interval
    }

    /// Replaces the latest checkpoint.
    ///
    /// # Errors
    /// Where it cannot be written; the one before is then untouched.
    pub(super) fn latest(&self, state: &State<'_>) -> Result<PathBuf> {
        self.save(LATEST, state)
    }

    /// Writes the checkpoint of `epoch`, which stays.
    ///
    /// # Errors
    /// Where it cannot be written; the ones before are then untouched.
    pub(super) fn kept(&self, epoch: usize, state: &State<'_>) -> Result<PathBuf> {
        let path = self.save(&format!("checkpoint_{epoch:04}.safetensors"), state)?;
        if !self.writes {
            return Ok(path);
        }
        // it is older than the one that was just named in `last`
        match std::fs::remove_file(self.out.join(LATEST)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                tell!("warning: cannot remove `{}`: {e}", self.out.join(LATEST).display());
            }
            _ => {}
        }
        Ok(path)
    }

    /// Keeps what was just written to `path` as the one to go back to when the accuracy falls.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub(super) fn keep_good(&self, path: &Path) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        let (good, fresh) = (self.good(), self.out.join(".good.unfinished"));
        // one file under two names costs nothing; checkpoints are replaced, never written into
        let _ = std::fs::remove_file(&fresh);
        std::fs::hard_link(path, &fresh)
            .or_else(|_| std::fs::copy(path, &fresh).map(drop))
            .and_then(|()| occlude_output::place(&fresh, &good))
            .with_context(|| format!("cannot write `{}`; hint: is the disk full?", good.display()))
    }

    /// The checkpoint to go back to when the accuracy falls.
    pub(super) fn good(&self) -> PathBuf {
        self.out.join(GOOD)
    }

    /// Removes that checkpoint, which a finished run does not need.
    pub(super) fn drop_good(&self) {
        if self.writes {
            let _ = std::fs::remove_file(self.good());
        }
    }

    fn save(&self, name: &str, state: &State<'_>) -> Result<PathBuf> {
        let path = self.out.join(name);
        if !self.writes {
            return Ok(path);
        }
        let saved = snapshot::save(&path, state);
        saved.with_context(|| match snapshot::locate(&self.out) {
            Ok(good) => format!(
                "the run stopped at step {}; its last good checkpoint is `{}`, `--resume` continues from there",
                state.at.step,
                good.display()
            ),
            Err(_) => "the run could not start".to_owned(),
        })?;
        self.saved.set(Instant::now());
        Ok(path)
    }
}
