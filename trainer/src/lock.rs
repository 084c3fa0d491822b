//! One process writes into a folder at a time.

use std::fs::{self, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};
use occlude_output::FileLock;

/// The file that is locked; it stays, because a lock on a file that was removed keeps nobody out.
const NAME: &str = ".lock";

/// Keeps others from writing into a folder as long as it lives. The system takes the lock back when the process dies, however it does.
#[derive(Debug)]
pub struct Lock {
    _file: Option<FileLock>,
}

impl Lock {
    /// Takes `folder`, which exists.
    ///
    /// # Errors
    /// Where another process has it, or the file cannot be made.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.with_context(|| format!("cannot write `{}`", path.display()))?;
        let mut lock = match FileLock::try_take(file) {
            Ok(lock) => lock,
            Err(TryLockError::WouldBlock) => {
                // who it is helps, but is not needed
                let owner = fs::read_to_string(&path).unwrap_or_default();
                let owner = Some(owner.trim()).filter(|o| !o.is_empty()).unwrap_or("a process");
                bail!(
                    "`{}` is being written by {owner}; hint: wait until it has ended or stop it, or use another `--out`",
                    folder.display()
                )
            }
            Err(TryLockError::Error(error)) => {
                tell!(
                    "warning: cannot lock `{}` ({error}): nothing prevents a second process from writing into the folder",
                    path.display()
                );
                return Ok(Self { _file: None });
            }
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = format!("process {} on {}", std::process::id(), host.trim());
        // the same: for the message alone
        let _ = lock.sign(&name);
        Ok(Self { _file: Some(lock) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_the_other_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Lock::take(dir.path()).expect("free");
        let error = Lock::take(dir.path()).expect_err("taken").to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())) && error.contains("--out"),
            "{error}"
        );
        drop(first);
        Lock::take(dir.path()).expect("free again");
        let gone = Lock::take(&dir.path().join("nowhere")).expect_err("no folder");
        assert!(format!("{gone:#}").contains("nowhere"), "{gone:#}");
    }
}
