//! Shards: tar files whose pictures are read where they lie.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use occlude_preprocess::files;
use rayon::prelude::*;

use crate::Error;
use crate::far::Remote;
use crate::index::{Full, Index, NONE, Span};
use crate::labels::Labels;
use crate::stamp::Stamp;
use crate::tar_scan::{self, Scan};

/// The file beside shards that names the classes, one a line.
pub(crate) const CLASSES: &str = "classes.txt";
/// Shards held open: processes may have 1024 files as a rule.
const MAX_OPEN: usize = 512;
const HINT: &str = "samples are named `key.jpg` (or another picture's ending) and `key.cls`";

/// What lies beside shards.
pub(crate) struct Beside {
    /// Stamp of the file of names, where there is one.
    pub(crate) classes: Option<Stamp>,
    /// What it says.
    pub(crate) given: Option<Vec<String>>,
    /// Stamp of the folder where its listing says which shards there are.
    pub(crate) folder: Option<Stamp>,
}

/// Indexes the shards `names` of the folder `root`, several at a time; `folder` is the stamp of the
/// folder where its listing says which shards there are.
///
/// # Errors
/// [`Error::Read`], [`Error::Tar`], [`Error::Empty`], or what labels can have wrong.
pub(crate) fn index(
    path: &Path,
    root: &Path,
    names: &[PathBuf],
    folder: Option<Stamp>,
) -> Result<Index, Error> {
    let scans: Vec<_> = names.par_iter().map(|name| scan(&root.join(name))).collect();
    let file = root.join(CLASSES);
    let classes = Some(Stamp::of(&file)).filter(|stamp| *stamp != Stamp::default());
    let given = classes.map(|_| class_names(&file)).transpose()?;
    join(path, root, names, scans, Beside { classes, given, folder })
}

/// One index of all shards.
///
/// # Errors
/// The first of the scans', [`Error::Empty`], or what labels can have wrong.
pub(crate) fn join(
    path: &Path,
    root: &Path,
    names: &[PathBuf],
    scans: Vec<Result<Scan, Error>>,
    beside: Beside,
) -> Result<Index, Error> {
    let full = |Full| Error::TooMany { path: path.to_owned() };
    let mut index = Index::default();
    let mut labels = Labels::default();
    for (name, scan) in names.iter().zip(scans) {
        let mut scan = scan?;
        scan.index.places.iter_mut().for_each(|place| place.path.clone_from(name));
        let map = labels.merge(&scan.labels);
        index.append(scan.index, |label| map.get(label as usize).copied().unwrap_or(NONE)).map_err(full)?;
    }
    if index.len() == 0 {
        return Err(Error::Empty { path: path.to_owned(), hint: HINT });
    }
    // The samples' places come first: the number of a place is that of its shard. The others are here
    // for their stamps, also that of a missing file of names.
    index.add_place(CLASSES.into(), beside.classes.unwrap_or_default()).map_err(full)?;
    if let Some(stamp) = beside.folder {
        index.add_place(PathBuf::new(), stamp).map_err(full)?;
    }
    let file = root.join(CLASSES);
    let given = beside.given.map(|names| (file.as_path(), names));
    let (classes, map) = labels.resolve(path, given)?;
    for label in &mut index.labels {
        *label = map.get(*label as usize).copied().unwrap_or(NONE);
    }
    index.classes = classes;
    index.shrink();
    Ok(index)
}

fn scan(path: &Path) -> Result<Scan, Error> {
    let failed = |e| Error::read(path, e);
    let file = files::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    tar_scan::scan(file, meta.len(), Stamp::from(&meta))
        .map_err(|reason| Error::Tar { path: path.to_owned(), reason })
}

/// Names of classes, one a line; empty lines are no names.
///
/// # Errors
/// [`Error::Read`], also where the file is not UTF-8.
pub(crate) fn class_names(path: &Path) -> Result<Vec<String>, Error> {
    let text = files::read_utf8(path).map_err(|e| Error::read(path, e))?;
    Ok(names_of_classes(&text))
}

/// The same of a text.
pub(crate) fn names_of_classes(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The shards of an open data set; each is opened when it is first read.
#[derive(Debug)]
pub(crate) struct Shards {
    /// Nothing for a shard that is not on this machine.
    paths: Vec<Option<PathBuf>>,
    files: Vec<OnceLock<File>>,
    room: AtomicUsize,
    /// Where they come from, unless from this machine.
    remote: Option<Remote>,
}

impl Shards {
    /// Opens nothing yet.
    pub(crate) fn new(root: &Path, index: &Index) -> Self {
        Self::of(index.places.iter().map(|place| Some(root.join(&place.path))).collect(), None)
    }

    /// The shards of a bucket, of which those with a path are kept there.
    #[cfg_attr(not(feature = "buckets"), allow(dead_code, reason = "only buckets use it"))]
    pub(crate) fn remote(paths: Vec<Option<PathBuf>>, remote: Remote) -> Self {
        Self::of(paths, Some(remote))
    }

    fn of(paths: Vec<Option<PathBuf>>, remote: Option<Remote>) -> Self {
        let files = paths.iter().map(|_| OnceLock::new()).collect();
        Self { paths, files, room: AtomicUsize::new(MAX_OPEN), remote }
    }

    /// Whether they lie in a bucket, which may be out of reach.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Reads a picture; `buf` has its length.
    ///
    /// # Errors
    /// What the operating system says; `UnexpectedEof` where the shard has become shorter.
    pub(crate) fn read(&self, place: usize, span: Span, buf: &mut [u8]) -> io::Result<()> {
        let (Some(path), Some(slot)) = (self.paths.get(place), self.files.get(place)) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let elsewhere = |failed: io::Error, buf: &mut [u8]| match &self.remote {
            // not kept, deleted to make room for others, or spoiled
            Some(remote) => remote.read(place, span, buf),
            None => Err(failed),
        };
        if let Some(file) = slot.get() {
            return file.read_exact_at(buf, span.offset).or_else(|e| elsewhere(e, buf));
        }
        let opened = path.as_ref().map_or(Err(io::ErrorKind::NotFound.into()), File::open);
        let file = match opened.and_then(|file| file.read_exact_at(buf, span.offset).map(|()| file)) {
            Ok(file) => file,
            Err(failed) => return elsewhere(failed, buf),
        };
        let room = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1));
        if room.is_ok() && slot.set(file).is_err() {
            // another thread was faster; give the room back
            self.room.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
