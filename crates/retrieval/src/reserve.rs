//! Room that is kept for deleting.
//!
//! To delete, SQLite first writes down what is to go: on a full disk it cannot. So a file of no use lies beside the
//! database and makes room when that happens; it comes back once there is room for it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "reserve";
/// Bytes written to see whether there is room.
const PROBE: u64 = 256 << 10;

pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join(FILE), bytes }
    }

    /// Takes the room, where there is some.
    pub(crate) fn fill(&self) {
        let there = std::fs::metadata(&self.path).is_ok_and(|m| m.len() == self.bytes);
        if !there && self.bytes > 0 && occupy(&self.path, self.bytes).is_err() {
            self.give();
        }
    }

    /// Makes room; whether there was any to make.
    pub(crate) fn give(&self) -> bool {
        std::fs::remove_file(&self.path).is_ok()
    }

    /// Whether a little can be written beside it.
    pub(crate) fn probe(&self) -> io::Result<()> {
        let path = self.path.with_extension("probe");
        let written = occupy(&path, PROBE);
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }
}

/// Bytes that no file system can press together.
fn occupy(path: &Path, bytes: u64) -> io::Result<()> {
    let (mut file, mut state, mut left) = (File::create(path)?, 0x9e37_79b9_7f4a_7c15_u64, bytes);
    while left > 0 {
        let block: Vec<u8> = (0..4096)
            .flat_map(|_| {
                // xorshift64 (Marsaglia, 2003)
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        let part =
            block.get(..usize::try_from(left).unwrap_or(usize::MAX).min(block.len())).unwrap_or_default();
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_given_and_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 100_000);
        reserve.fill();
        assert_eq!(std::fs::metadata(dir.path().join(FILE)).unwrap().len(), 100_000);
        assert!(reserve.give() && !reserve.give());
        assert!(!dir.path().join(FILE).exists());
        reserve.probe().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        Reserve::new(dir.path(), 0).fill();
        assert!(!dir.path().join(FILE).exists(), "none was asked for");
        let gone = Reserve::new(&dir.path().join("gone"), 10);
        gone.fill();
        assert!(gone.probe().is_err() && !gone.give());
    }
}
