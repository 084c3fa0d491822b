//! Where shards are read and results are put: a folder, or a bucket (S3 and what speaks like it, Google's, Azure's).
//!
//! [`open`] gives a [`Store`] for a path or an address: what lies there is listed, read in parts, and put whole or not at
//! all. [`Ranged`] reads one file as a stream. Buckets need the feature `buckets`.

#[cfg_attr(not(feature = "buckets"), path = "no_bucket.rs")]
mod bucket;
mod ranged;

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use occlude_preprocess::files::{self, ListError, Top, is_picture, is_shard};
use tokio::runtime::Handle;

pub use ranged::Ranged;

/// What a hidden file of ours begins with while it grows.
const DRAFT: &str = ".occlude-embed-";

/// A file of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Below the store.
    pub path: PathBuf,
    /// What it is, where the listing says so.
    pub stat: Option<Stat>,
}

/// What a file is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its length.
    pub bytes: u64,
    /// What changes with the content, where the store has it (`ETag`).
    pub tag: Option<String>,
}

/// What lies in the input.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Tar files directly in it, sorted; empty where there are pictures.
    pub shards: Vec<Object>,
    /// Pictures at any depth, sorted by path; empty where there are shards.
    pub pictures: Vec<Object>,
    /// What is left out, in words.
    pub left_out: String,
}

/// A file of the result that is being written.
pub enum Draft {
    /// Hidden in the folder of the result.
    Hidden(tempfile::NamedTempFile),
    /// Without a name, in the folder for temporary files.
    #[cfg_attr(not(feature = "buckets"), allow(dead_code, reason = "only buckets use it"))]
    Nameless(File),
}

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that leads nowhere.
    #[error("`{address}`: {reason}")]
    Address {
        /// As it was given.
        address: String,
        /// Why it cannot be used, and what to do.
        reason: String,
    },
    /// An address below which there is nothing of use.
    #[error(
        "no tar shards and no pictures below `{place}`; hint: correct the address, or name what lies one level deeper"
    )]
    Nothing {
        /// The address.
        place: String,
    },
    /// A folder that is missing, no folder, unreadable, or without pictures.
    #[error(transparent)]
    Folder(#[from] ListError),
    /// A file or listing that cannot be read.
    #[error("`{place}`: {reason}")]
    Read {
        /// Its path or address.
        place: String,
        /// What the system or the store says.
        reason: io::Error,
    },
}

/// The store of a path or address, `s3://BUCKET/..`, `gs://BUCKET/..` or `az://CONTAINER/..`, with credentials and endpoint
/// of the environment. A folder need not exist; a bucket has to answer. Calls of the store wait on `runtime`.
///
/// # Errors
/// [`Error::Address`].
pub fn open(place: &Path, runtime: &Handle) -> Result<Arc<dyn Store>, Error> {
    match is_url(place) {
        true => bucket::open(&place.to_string_lossy(), runtime),
        false => Ok(folder(place)),
    }
}

/// The same of what is read: for a tar, of its folder, in which nothing else is listed.
///
/// # Errors
/// As [`open`].
pub fn open_input(place: &Path, runtime: &Handle) -> Result<Arc<dyn Store>, Error> {
    match tar_of(place) {
        Some((folder, path)) => Ok(Arc::new(Single { inner: open(&folder, runtime)?, path })),
        None => open(place, runtime),
    }
}

/// A folder or a bucket. Calls wait; none of them is made from a runtime's own threads.
pub trait Store: Send + Sync {
    /// What messages call the file at `path`; the store itself for an empty one.
    fn name(&self, path: &Path) -> String;

    /// The input.
    ///
    /// # Errors
    /// Where it cannot be listed, or has nothing of use.
    fn list(&self) -> Result<Listed, Error>;

    /// Names of the files directly in it; none where it does not exist yet.
    ///
    /// # Errors
    /// Where it cannot be listed.
    fn names(&self) -> io::Result<Vec<String>>;

    /// What a file is, if it is there.
    ///
    /// # Errors
    /// Where the store does not say.
    fn stat(&self, path: &Path) -> io::Result<Option<Stat>>;

    /// A part of a file that is as `stat` said.
    ///
    /// # Errors
    /// Where it cannot be read, or is another by now.
    fn read(&self, path: &Path, stat: &Stat, range: Range<u64>) -> io::Result<Bytes>;

    /// A new file for the result; it goes where it is not put.
    ///
    /// # Errors
    /// Where none can be made.
    fn draft(&self) -> io::Result<Draft>;

    /// Gives a draft its name, all at once; false where something has that name already, which stays.
    ///
    /// # Errors
    /// Where it cannot be written, or is another store's draft.
    fn put(&self, draft: Draft, name: &str) -> io::Result<bool>;
}

/// Where something is: a path, or `s3://`, `gs://` or `az://`.
pub fn is_url(place: &Path) -> bool {
    place.to_str().is_some_and(|text| text.contains("://"))
}

/// A folder, which need not exist.
fn folder(root: &Path) -> Arc<dyn Store> {
    Arc::new(Folder { root: root.to_owned() })
}

/// A folder of this machine, or one that it mounts.
struct Folder {
    root: PathBuf,
}

impl Store for Folder {
    fn name(&self, path: &Path) -> String {
        self.root.join(path).display().to_string()
    }

    fn list(&self) -> Result<Listed, Error> {
        let top = Top::look(&self.root)?;
        if top.pictures.is_empty() && !top.shards.is_empty() {
            let object = |name: &std::ffi::OsString| Object { path: name.into(), stat: None };
            let shards = top.shards.iter().map(object).collect();
            let left_out = match top.folders.len() {
                0 => top.left_out.to_string(),
                n => format!("left out: {n} folders beside shards"),
            };
            return Ok(Listed { shards, left_out, ..Listed::default() });
        }
        let listing = files::list(&self.root)?;
        let below = |path: &Path| path.strip_prefix(&self.root).unwrap_or(path).to_owned();
        let object = |s: files::Sample| Object { path: below(&s.path), stat: None };
        let mut pictures: Vec<Object> = listing.samples.into_iter().map(object).collect();
        sort(&mut pictures);
        Ok(Listed { pictures, left_out: listing.left_out.to_string(), ..Listed::default() })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        // ours are text; what others put there only has to stay apart from it
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match fs::metadata(self.root.join(path)) {
            Ok(data) => Ok(Some(Stat { bytes: data.len(), tag: None })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&self, path: &Path, _: &Stat, range: Range<u64>) -> io::Result<Bytes> {
        let file = files::open(&self.root.join(path))?;
        let mut bytes = vec![0; range.end.saturating_sub(range.start) as usize];
        file.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes.into())
    }

    fn draft(&self) -> io::Result<Draft> {
        fs::create_dir_all(&self.root)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(DRAFT).suffix(".tmp");
        // as the process's mask has it, like any file
        builder.permissions(Permissions::from_mode(0o666));
        builder.tempfile_in(&self.root).map(Draft::Hidden)
    }

    fn put(&self, draft: Draft, name: &str) -> io::Result<bool> {
        let Draft::Hidden(file) = draft else { return Err(io::ErrorKind::InvalidInput.into()) };
        file.as_file().sync_all()?;
        // by `RENAME_NOREPLACE` or by a link: both fail where the name is taken
        match file.persist_noclobber(self.root.join(name)) {
            Ok(_) => {}
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(e.error),
        }
        File::open(&self.root)?.sync_all()?;
        Ok(true)
    }
}

/// A single tar of a folder: what is listed is that alone.
struct Single {
    inner: Arc<dyn Store>,
    path: PathBuf,
}

impl Store for Single {
    fn name(&self, path: &Path) -> String {
        self.inner.name(path)
    }

    fn list(&self) -> Result<Listed, Error> {
        let failed = |reason| Error::Read { place: self.inner.name(&self.path), reason };
        let there = self.inner.stat(&self.path).map_err(failed)?;
        let there = there.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let object = Object { path: self.path.clone(), stat: Some(there) };
        Ok(Listed { shards: vec![object], ..Listed::default() })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.inner.names()
    }

    fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        self.inner.stat(path)
    }

    fn read(&self, path: &Path, stat: &Stat, range: Range<u64>) -> io::Result<Bytes> {
        self.inner.read(path, stat, range)
    }

    fn draft(&self) -> io::Result<Draft> {
        self.inner.draft()
    }

    fn put(&self, draft: Draft, name: &str) -> io::Result<bool> {
        self.inner.put(draft, name)
    }
}

/// The folder of a tar's path or address, and its name; nothing for anything else.
pub fn tar_of(place: &Path) -> Option<(PathBuf, PathBuf)> {
    let name = place.file_name().filter(|name| is_shard(name))?;
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // a bucket may be called `x.tar`
    let is_file = if is_url(place) { is_url(folder) } else { !place.is_dir() };
    is_file.then(|| (folder.to_owned(), name.into()))
}

/// In one order on every machine and in every store: by the bytes of the path.
pub(crate) fn sort(objects: &mut [Object]) {
    objects.sort_by(|a, b| a.path.as_os_str().as_encoded_bytes().cmp(b.path.as_os_str().as_encoded_bytes()));
}

/// A whole small file, at most `most` bytes of it; nothing where there is none.
///
/// # Errors
/// As [`Store::read`].
pub fn small(store: &dyn Store, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(stat) = store.stat(path)? else { return Ok(None) };
    let bytes = store.read(path, &stat, 0..stat.bytes.min(most))?;
    let mut out = Vec::new();
    bytes.as_ref().read_to_end(&mut out)?;
    Ok(Some(out))
}

/// Whether a key of a bucket is a picture's that a folder's listing would have, too.
#[cfg_attr(not(feature = "buckets"), allow(dead_code, reason = "only buckets use it"))]
pub(crate) fn is_listed_picture(path: &Path) -> bool {
    let hidden = |part: &std::ffi::OsStr| part.as_encoded_bytes().starts_with(b".") || part == "__MACOSX";
    !path.iter().any(hidden) && path.file_name().is_some_and(is_picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_name_is_given_once_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = folder(&dir.path().join("new/out"));
        assert!(store.names().unwrap().is_empty());
        let draft = |bytes: &[u8]| {
            let draft = store.draft().unwrap();
            let Draft::Hidden(mut file) = draft else { panic!("it has no name") };
            file.write_all(bytes).unwrap();
            Draft::Hidden(file)
        };
        let (first, second) = (draft(b"first"), draft(b"second"));
        assert_eq!(store.names().unwrap().iter().filter(|name| name.starts_with(DRAFT)).count(), 2);
        assert!(store.put(first, "x").unwrap());
        assert!(!store.put(second, "x").unwrap());
        assert_eq!(store.names().unwrap(), ["x"]);
        let stat = store.stat(Path::new("x")).unwrap().unwrap();
        assert_eq!(store.read(Path::new("x"), &stat, 1..5).unwrap().as_ref(), b"irst");
        assert_eq!(small(&*store, Path::new("gone"), 9).unwrap(), None);
        let mode = fs::metadata(dir.path().join("new/out/x")).unwrap().permissions().mode();
        assert_eq!(mode & 0o600, 0o600);
    }

    #[test]
    fn tars_are_told_by_their_names() {
        let tar = |place: &str| {
            tar_of(Path::new(place)).map(|(folder, name)| format!("{} {}", folder.display(), name.display()))
        };
        assert_eq!(tar("s3://b/in/x.tar").as_deref(), Some("s3://b/in x.tar"));
        assert_eq!(tar("s3://b/x.TAR").as_deref(), Some("s3://b x.TAR"));
        assert_eq!(tar("x.tar").as_deref(), Some(". x.tar"));
        assert_eq!((tar("s3://x.tar"), tar("in/"), tar("x.tar.gz")), (None, None, None));
    }
}
