//! The data set itself.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use occlude_preprocess::files::{self, LeftOut, ListError};
use occlude_preprocess::{Decoded, Limits, decode, names};

use crate::Error;
use crate::cache::CacheFile;
use crate::folder;
use crate::index::{Index, Kind, NONE};
use crate::limits::MAX_PICTURE_BYTES;
use crate::list;
use crate::options::{Options, is_address};
use crate::remote;
use crate::shards::{self, Shards};
use crate::stamp::Stamp;

/// Pictures in an order that is always the same, with their classes where there are any.
///
/// It holds names, not pictures; any thread reads any picture.
#[derive(Debug)]
pub struct Dataset {
    /// What places lie in.
    root: PathBuf,
    index: Index,
    /// `None` where every picture is a file.
    shards: Option<Shards>,
}

impl Dataset {
    /// Opens what `path` names.
    ///
    /// - A folder, flat or with one sub-folder per class (sorted; at any depth below it), of files
    ///   whose names end as those of pictures do ([`files::list`]).
    /// - A folder with shards (*.tar) and no picture: `key.jpg` is a picture, `key.cls` beside it its
    ///   class, as a number or a name; `classes.txt` in the folder names the classes in order. A
    ///   single shard likewise.
    /// - A list (*.txt): a path a line; then, where there is a class, a tab and its name or number, or a
    ///   blank and its number. Empty lines and lines that begin with `#` are skipped. Paths lie below
    ///   [`Options::root`], or the folder that a line `# root: FOLDER` names, or that of the list.
    ///   Without any class, the first folder of each path is its.
    /// - The address of shards in a bucket, or of one (`s3://`, `gs://`, `az://`). They are fetched and kept as far as there
    ///   is room ([`Options::shard_cache`]); of the others pictures are read one by one. The feature `buckets`.
    ///
    /// # Errors
    /// [`Error`], which names the file or folder.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        if is_address(path) {
            let (root, index, shards) = remote::open(path, options)?;
            return Ok(Self { root, index, shards: Some(shards) });
        }
        let meta = fs::metadata(path).map_err(|e| missing(path, e))?;
        if meta.is_dir() {
            return Self::open_cached(path, path, options, || index_folder(path));
        }
        if folder::is_shard_path(path) {
            let parent = path.parent().unwrap_or(Path::new(""));
            let name = path.file_name().map(PathBuf::from).unwrap_or_default();
            let index = || Ok((Kind::Shards, shards::index(path, parent, &[name], None)?));
            return Self::open_cached(path, parent, options, index);
        }
        if is_list(path) {
            let (root, index) = list::open(path, options.root.as_deref())?;
            return Ok(Self { root, index, shards: None });
        }
        Err(Error::NotADataset { path: path.to_owned() })
    }

    /// Single files without classes, in this order; nothing is looked at yet.
    ///
    /// # Errors
    /// [`Error::NotADataset`] for a path that ends in no name.
    pub fn of_files<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Result<Self, Error> {
        let mut index = Index::default();
        for path in paths {
            let bad = || Error::NotADataset { path: path.to_owned() };
            let name = path.file_name().ok_or_else(bad)?;
            let folder = path.parent().unwrap_or(Path::new(""));
            let place = match index.places.last() {
                Some(place) if place.path == folder => index.places.len() as u32 - 1,
                _ => index.add_place(folder.to_owned(), Stamp::default()).map_err(|_| bad())?,
            };
            index.push(place, name.as_encoded_bytes(), NONE).map_err(|_| bad())?;
        }
        Ok(Self { root: PathBuf::new(), index, shards: None })
    }

    /// Opens what a command line names, in its order: data sets, and single pictures of any name.
    /// Pictures next to each other share a data set.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Read`] for a picture that is not there.
    pub fn open_all(paths: &[PathBuf], options: &Options) -> Result<Vec<Self>, Error> {
        let is_single = |path: &Path| {
            !path.is_dir() && !folder::is_shard_path(path) && !is_list(path) && !is_address(path)
        };
        let groups = paths.chunk_by(|a, b| is_single(a) && is_single(b));
        let open = |group: &[PathBuf]| match group {
            [path] if !is_single(path) => Self::open(path, options),
            group => {
                for path in group {
                    fs::metadata(path).map_err(|e| Error::read(path, e))?;
                }
                Self::of_files(group.iter().map(PathBuf::as_path))
            }
        };
        groups.map(open).collect()
    }

    fn open_cached(
        path: &Path,
        root: &Path,
        options: &Options,
        build: impl FnOnce() -> Result<(Kind, Index), Error>,
    ) -> Result<Self, Error> {
        let cached = options.cache.folder().and_then(|folder| CacheFile::new(&folder, path));
        let found = cached.as_ref().and_then(|file| file.load(root));
        let (kind, index) = match found {
            Some(found) => found,
            None => {
                let now = SystemTime::now();
                let (kind, index) = build()?;
                if let Some(file) = cached.filter(|_| index.len() >= options.cache_from) {
                    // a cache that cannot be written costs time, nothing else
                    let _ = file.store(kind, &index, now);
                }
                (kind, index)
            }
        };
        let shards = (kind == Kind::Shards).then(|| Shards::new(root, &index));
        Ok(Self { root: root.to_owned(), index, shards })
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Names of the classes; empty where pictures have none.
    pub fn classes(&self) -> &[String] {
        &self.index.classes
    }

    /// What lies there besides pictures, to be told to people; nothing for a list.
    pub fn left_out(&self) -> &LeftOut {
        &self.index.left_out
    }

    /// Class of a picture, as position in [`classes`](Self::classes).
    pub fn class(&self, i: usize) -> Option<u32> {
        self.index.class(i)
    }

    /// What to call a picture: the file's path, or `shard.tar:key.jpg`, as [`names`] makes text of it. Different
    /// pictures have different names.
    pub fn name(&self, i: usize) -> String {
        let place = self.root.join(self.index.place_path(i));
        match &self.shards {
            Some(_) => {
                let name = names::escape(self.index.name(i).as_encoded_bytes());
                format!("{}:{name}", names::of_path(&place))
            }
            None => names::of_path(&place.join(self.index.name(i))),
        }
    }

    /// The part of [`name`](Self::name) below the root.
    pub fn name_below(&self, i: usize) -> String {
        let name = self.name(i);
        let root = names::of_path(&self.root);
        // `/photos` is no part of `/photos2/x.jpg`
        let whole = |rest: &&str| root.is_empty() || root.ends_with('/') || rest.starts_with('/');
        let below =
            name.strip_prefix(&root).filter(whole).map(|rest| rest.trim_start_matches('/').to_owned());
        below.unwrap_or(name)
    }

    /// Path of a picture that is a file; `None` in a shard.
    pub fn path(&self, i: usize) -> Option<PathBuf> {
        (self.shards.is_none() && i < self.len())
            .then(|| self.root.join(self.index.place_path(i)).join(self.index.name(i)))
    }

    /// The folder of a folder or list, which relative paths begin at; that of the shards.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads the bytes of a picture into `buf`, in place of what it held; on an error it is empty.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Store`] and [`Error::TooLarge`], which name the picture.
    pub fn read(&self, i: usize, buf: &mut Vec<u8>) -> Result<(), Error> {
        buf.clear();
        let size = match &self.shards {
            None => self.path(i).ok_or(io::ErrorKind::NotFound.into()).and_then(|path| read_file(&path, buf)),
            Some(shards) => self.read_part(shards, i, buf),
        };
        match size {
            Ok(bytes) if bytes > MAX_PICTURE_BYTES => {
                buf.clear();
                Err(Error::TooLarge { name: self.name(i), bytes })
            }
            Ok(_) => Ok(()),
            Err(reason) => {
                buf.clear();
                let name = self.name(i);
                match self.shards.as_ref().is_some_and(Shards::is_remote) {
                    true => Err(Error::Store { name, reason }),
                    false => Err(Error::Read { name, reason }),
                }
            }
        }
    }

    fn read_part(&self, shards: &Shards, i: usize, buf: &mut Vec<u8>) -> io::Result<u64> {
        let span = *self.index.spans.get(i).ok_or(io::ErrorKind::NotFound)?;
        if span.len <= MAX_PICTURE_BYTES {
            buf.resize(span.len as usize, 0);
            shards.read(self.index.place_of(i), span, buf)?;
        }
        Ok(span.len)
    }

    /// Reads and decodes a picture; its bytes stay in `buf`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`Error::Decode`].
    pub fn decode(&self, i: usize, limits: &Limits, buf: &mut Vec<u8>) -> Result<Decoded, Error> {
        self.read(i, buf)?;
        decode(buf, limits).map_err(|reason| Error::Decode { name: self.name(i), reason })
    }

    /// One picture.
    pub fn sample(&self, index: usize) -> Sample<'_> {
        Sample { dataset: self, index }
    }

    /// All pictures, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Sample<'_>> {
        (0..self.len()).map(|index| self.sample(index))
    }

    /// The bytes that a file's name and folder take, for selecting by name.
    pub(crate) fn file_name(&self, i: usize) -> &std::ffi::OsStr {
        self.index.name(i)
    }

    /// Folder of a picture below the root.
    pub(crate) fn folder(&self, i: usize) -> &Path {
        self.index.place_path(i)
    }

    /// Bytes of a picture that is a part of a shard.
    pub(crate) fn part_size(&self, i: usize) -> Option<u64> {
        self.index.spans.get(i).map(|span| span.len)
    }

    /// Whether pictures are parts of shards.
    pub(crate) fn is_sharded(&self) -> bool {
        self.shards.is_some()
    }
}

/// A picture of a data set.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    dataset: &'a Dataset,
    /// Its number.
    pub index: usize,
}

impl Sample<'_> {
    /// See [`Dataset::class`].
    pub fn class(&self) -> Option<u32> {
        self.dataset.class(self.index)
    }

    /// See [`Dataset::name`].
    pub fn name(&self) -> String {
        self.dataset.name(self.index)
    }

    /// See [`Dataset::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, buf: &mut Vec<u8>) -> Result<(), Error> {
        self.dataset.read(self.index, buf)
    }
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("txt"))
}

fn missing(path: &Path, reason: io::Error) -> Error {
    let path = path.to_owned();
    match reason.kind() {
        // the words that a folder that is missing always had
        io::ErrorKind::NotFound => ListError::Missing { path }.into(),
        _ => ListError::Read { path, reason }.into(),
    }
}

/// A folder of pictures, or of shards where there is no picture in it.
fn index_folder(path: &Path) -> Result<(Kind, Index), Error> {
    let top = folder::look(path)?;
    let shards: Vec<PathBuf> = top.shards().iter().map(PathBuf::from).collect();
    let (stamp, beside) = (top.stamp(), top.beside_shards());
    if shards.is_empty() || top.has_folders() {
        match top.index() {
            Err(Error::Folder(ListError::Empty { .. })) if !shards.is_empty() => {}
            indexed => return Ok((Kind::Files, indexed?)),
        }
    }
    let mut index = shards::index(path, path, &shards, Some(stamp))?;
    index.left_out.add(beside);
    Ok((Kind::Shards, index))
}

/// Reads a regular file by its size; one that says 0, as those of the kernel do, to its end. The size.
fn read_file(path: &Path, buf: &mut Vec<u8>) -> io::Result<u64> {
    let file = files::open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_PICTURE_BYTES {
        return Ok(size);
    }
    if size == 0 {
        return file.take(MAX_PICTURE_BYTES + 1).read_to_end(buf).map(|n| n as u64);
    }
    buf.resize(size as usize, 0);
    file.read_exact_at(buf, 0)?;
    Ok(size)
}
