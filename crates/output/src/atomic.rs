//! Writes that are whole or absent, also across a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes a file through `f`: into a sibling temporary file that is flushed to the disk, renamed to
/// `path`, and whose folder is flushed too. Nobody ever sees a half-written `path`; on an error the
/// old content stays and the temporary file goes.
///
/// # Errors
/// What `f` or the operating system reports; `InvalidInput` when `path` names something that is not
/// a regular file, which a rename would replace.
pub fn write(path: &Path, f: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut draft = Draft::beside(path)?;
    f(&mut draft)?;
    draft.finish()
}

/// Gives a file that another program wrote, or that was copied, its final name: `from` is flushed to the disk and renamed to
/// `path` in the same file system, whose folder is flushed too. Nobody ever sees a half-written `path`.
///
/// # Errors
/// What the operating system reports; unless only the last flush failed, the old content of `path` stays, and `from` too.
pub fn place(from: &Path, path: &Path) -> io::Result<()> {
    File::open(from)?.sync_all()?;
    fs::rename(from, path)?;
    sync_folder(parent(path))
}

/// A file in the making, for those who cannot write it in one closure as [`write()`] does: it grows under a hidden name
/// beside its own, and goes where it is not finished.
#[derive(Debug)]
pub struct Draft {
    out: BufWriter<File>,
    temporary: Temporary,
    target: PathBuf,
}

impl Draft {
    /// A draft of `path`, which stays as it is until the draft is finished.
    ///
    /// # Errors
    /// What the operating system reports; `InvalidInput` when `path` names something that is not a regular file, which a
    /// rename would replace.
    pub fn beside(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the target is not a regular file"));
        }
        let (file, temporary) = Temporary::beside(path)?;
        let out = BufWriter::with_capacity(1 << 16, file);
        Ok(Self { out, temporary, target: path.to_owned() })
    }

    /// Puts the file on the disk, under its own name.
    ///
    /// # Errors
    /// What the operating system reports; the old content is there then.
    pub fn finish(self) -> io::Result<()> {
        let target = self.target.clone();
        self.named(File::sync_all)?;
        sync_folder(parent(&target))
    }

    /// Gives the file its own name, and leaves it to the caller to flush its file system: one by one, fifty thousand
    /// files take hours.
    ///
    /// # Errors
    /// What the operating system reports; the old content is there then.
    pub fn finish_unflushed(self) -> io::Result<()> {
        self.named(|_| Ok(()))
    }

    fn named(self, flush: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        flush(&file)?;
        drop(file);
        self.temporary.rename(&self.target)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The folder of `path`, `.` for a bare file name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// Makes a rename survive a power cut. Only unix opens folders.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A file that is removed unless it was renamed.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<(File, Self)> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the target has no file name"))?;
        loop {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            let n = COUNTER.fetch_add(1, Ordering::Relaxed);
            hidden.push(format!(".{}.{n}.tmp", process::id()));
            let path = parent(path).join(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((file, Self { path, renamed: false })),
                // Left over by a killed process of the same id.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn rename(mut self, target: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing more can be done about a failure here; the error that led to it is reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(dir: &Path) -> usize {
        fs::read_dir(dir).expect("folder").count()
    }

    #[test]
    fn replaces_whole_files() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.bin");
        for content in ["first", "second, longer"] {
            write(&path, |out| out.write_all(content.as_bytes()))?;
            assert_eq!(fs::read_to_string(&path)?, content);
        }
        assert_eq!(entries(dir.path()), 1);
        Ok(())
    }

    #[test]
    fn a_failure_keeps_the_old_content() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.bin");
        fs::write(&path, "old")?;
        let result = write(&path, |out| {
            out.write_all(&[0; 100_000])?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(result.expect_err("failed").to_string(), "no more");
        assert_eq!(fs::read_to_string(&path)?, "old");
        assert_eq!(entries(dir.path()), 1);
        Ok(())
    }

    #[test]
    fn a_draft_is_nothing_until_it_is_finished() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.bin");
        for finish in [Draft::finish, Draft::finish_unflushed] {
            let mut draft = Draft::beside(&path)?;
            draft.write_all(b"never")?;
            drop(draft);
            assert_eq!(entries(dir.path()), 0);
            let mut draft = Draft::beside(&path)?;
            draft.write_all(b"whole")?;
            assert!(!path.exists());
            finish(draft)?;
            assert_eq!((fs::read_to_string(&path)?.as_str(), entries(dir.path())), ("whole", 1));
            fs::remove_file(&path)?;
        }
        Ok(())
    }

    #[test]
    fn a_finished_file_takes_the_place_of_another() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (from, path) = (dir.path().join("a.part"), dir.path().join("a.bin"));
        assert_eq!(place(&from, &path).expect_err("nothing there").kind(), io::ErrorKind::NotFound);
        for content in ["first", "second"] {
            fs::write(&from, content)?;
            place(&from, &path)?;
            assert_eq!((fs::read_to_string(&path)?.as_str(), entries(dir.path())), (content, 1));
        }
        Ok(())
    }

    #[test]
    fn refuses_folders() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let err = write(dir.path(), |_| Ok(())).expect_err("a folder");
        assert_eq!(err.kind(), io::ErrorKind::InvalidInput);
        Ok(())
    }
}
