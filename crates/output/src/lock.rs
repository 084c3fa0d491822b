//! One process at a time.

use std::fs::{File, TryLockError};
use std::io::{self, Write};

/// An exclusive lock on a file that every writer of a folder agrees on. The system takes it back when the process dies,
/// however it does.
///
/// The lock is given up before the file is closed: a child of another thread, between its fork and its exec, holds the same
/// open file, and closing alone would leave the lock with that child.
#[derive(Debug)]
pub struct FileLock(File);

impl FileLock {
    /// Locks a file that is open.
    ///
    /// # Errors
    /// `WouldBlock` where somebody else has it; otherwise what the file system reports, which may have no locks at all.
    pub fn try_take(file: File) -> Result<Self, TryLockError> {
        file.try_lock().map(|()| Self(file))
    }

    /// Puts `name` into the file, in place of what is there: for the message of those who find it locked.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn sign(&mut self, name: &str) -> io::Result<()> {
        self.0.set_len(0)?;
        writeln!(self.0, "{name}")
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // closing the file does the same but for such a child
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, OpenOptions};

    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("lock");
        let open =
            || OpenOptions::new().write(true).create(true).truncate(false).open(&path).expect("a file");
        let file = open();
        // what a child holds between its fork and its exec
        let copy = file.try_clone().expect("a copy");
        let mut first = FileLock::try_take(file).expect("free");
        first.sign("process 7").expect("written");
        assert!(matches!(FileLock::try_take(open()), Err(TryLockError::WouldBlock)));
        assert_eq!(fs::read_to_string(&path).expect("text"), "process 7\n");
        drop(first);
        FileLock::try_take(open()).expect("free again");
        drop(copy);
    }
}
