//! Writing files and folders that are whole or absent.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use occlude_output::Draft;

use crate::Error;
use crate::index::Span;

/// How a picture gets a second name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// A hard link where both names are on one file system, else a symbolic one.
    Auto,
    /// A hard link.
    Hard,
    /// A symbolic link with an absolute path.
    Symbolic,
}

impl Link {
    /// Makes `to` another name of `from`; links at `from` are resolved first.
    pub(super) fn make(self, from: &Path, to: &Path) -> Result<(), Error> {
        let real = fs::canonicalize(from).map_err(|e| Error::read(from, e))?;
        let made = match self {
            Self::Hard => fs::hard_link(&real, to),
            Self::Symbolic => symlink(&real, to),
            Self::Auto => fs::hard_link(&real, to).or_else(|e| match e.kind() {
                io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => Err(e),
                _ => symlink(&real, to),
            }),
        };
        made.map_err(|e| Error::write(to, e))
    }
}

/// A folder that grows under a hidden name beside its own, and goes if it does not get there.
#[derive(Debug)]
pub(super) struct Staging {
    partial: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// For `target`, which must not exist, or be an empty folder.
    pub(super) fn beside(target: &Path) -> Result<Self, Error> {
        let failed = |e| Error::write(target, e);
        match fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(Error::Exists { path: target.to_owned() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        let partial = partial_name(target).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        remove(&partial)?;
        fs::create_dir_all(&partial).map_err(failed)?;
        Ok(Self { partial, target: target.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Gives the folder its name, which may be that of an empty folder.
    pub(super) fn finish(self) -> Result<(), Error> {
        let renamed = flush(&self.partial).and_then(|()| fs::rename(&self.partial, &self.target));
        renamed.map_err(|e| Error::write(&self.target, e))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Nothing more can be done about a failure here; after a success there is nothing to remove.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// `.NAME.partial` beside a path: always the same, so that what a killed process left is found.
pub(super) fn partial_name(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".partial");
    Some(path.with_file_name(name))
}

/// Removes a folder, if it is there.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::write(folder, e)),
        _ => Ok(()),
    }
}

/// Puts a folder's files on the disk, all at once: one by one, a class would take a minute.
pub(super) fn flush(folder: &Path) -> io::Result<()> {
    let folder = File::open(folder)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&folder)?;
    folder.sync_all()
}

/// Whether a file must be on the disk when it gets its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durable {
    /// Yes.
    Now,
    /// With all the others, by [`flush`]: fifty thousand one by one take hours.
    Later,
}

/// Writes a file through `f`, whole or not at all.
pub(super) fn write_whole(
    path: &Path,
    durable: Durable,
    f: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let write = || {
        let mut draft = Draft::beside(path)?;
        f(&mut draft)?;
        match durable {
            Durable::Now => draft.finish(),
            Durable::Later => draft.finish_unflushed(),
        }
    };
    write().map_err(|e| Error::write(path, e))
}

/// A part of a file, as a file.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a File,
    span: Span,
    at: u64,
}

impl<'a> Window<'a> {
    pub(super) fn new(file: &'a File, span: Span) -> Self {
        Self { file, span, at: 0 }
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.span.len.saturating_sub(self.at);
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let n = self.file.read_at(buf.get_mut(..n).unwrap_or_default(), self.span.offset + self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.span.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// The file name of an entry of an archive, where it can be one: never a path, never hidden.
pub(super) fn plain_name(entry: &[u8]) -> Option<&OsStr> {
    let name = entry.rsplit(|&b| b == b'/').next()?;
    is_plain(name).then(|| OsStr::from_bytes(name))
}

/// Whether a name from a foreign file is that of a file or folder, which leads nowhere else.
pub(super) fn is_plain(name: &[u8]) -> bool {
    !name.is_empty() && !name.starts_with(b".") && !name.contains(&b'/') && !name.contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_file_of_its_own() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"0123456789").expect("written");
        let mut window = Window::new(&file, Span { offset: 3, len: 4 });
        let mut text = String::new();
        window.read_to_string(&mut text).expect("read");
        assert_eq!(text, "3456");
        assert_eq!(window.seek(SeekFrom::Current(-2)).expect("inside"), 2);
        assert_eq!(window.seek(SeekFrom::End(10)).expect("behind"), 14);
        assert_eq!(window.read(&mut [0; 4]).expect("nothing"), 0);
        assert!(window.seek(SeekFrom::Current(-15)).is_err());
    }

    #[test]
    fn names_never_lead_elsewhere() {
        assert_eq!(plain_name(b"a/../b.jpg"), Some(OsStr::new("b.jpg")));
        for name in [b"a/..".as_slice(), b"", b"a/", b".hidden", b"a\0b"] {
            assert_eq!(plain_name(name), None, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_folder_is_there_when_it_is_finished_and_gone_when_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("new/out");
        drop(Staging::beside(&target).expect("staged"));
        assert!(fs::read_dir(dir.path().join("new")).expect("made").next().is_none());
        let staging = Staging::beside(&target).expect("staged");
        fs::write(staging.path().join("x"), "x").expect("written");
        staging.finish().expect("renamed");
        assert!(target.join("x").is_file());
        assert!(matches!(Staging::beside(&target), Err(Error::Exists { .. })));
        assert!(matches!(Staging::beside(&target.join("x")), Err(Error::Write { .. })), "a file");
    }
}
