//! The one walk over a data set's folders, which every listing is made by.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, FileType};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{LeftOut, ListError, is_picture};
use crate::names;

/// Folders that systems and archives put beside pictures.
const SYSTEM: [&str; 8] = [
    "$RECYCLE.BIN",
    "#recycle",
    "#snapshot",
    "@eaDir",
    "@Recycle",
    "System Volume Information",
    "__MACOSX",
    "lost+found",
];

/// Is told what a walk finds, in order.
pub trait Visit {
    /// What can go wrong besides.
    type Error: From<ListError>;

    /// A folder, as a path below the root, is about to be listed.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn enter(&mut self, folder: &Path) -> Result<(), Self::Error>;

    /// A picture's file name in the folder that was entered last.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn picture(&mut self, name: &OsStr) -> Result<(), Self::Error>;
}

/// A folder in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubFolder {
    /// Its file name.
    pub name: OsString,
    /// Whether it is a link.
    link: bool,
}

impl SubFolder {
    /// The class that it stands for, as text.
    pub fn class(&self) -> String {
        names::escape(self.name.as_encoded_bytes()).into_owned()
    }
}

/// What lies directly in the folder of a data set.
#[derive(Debug)]
pub struct Top {
    dir: PathBuf,
    /// `dir` without links.
    real: PathBuf,
    /// Its pictures, sorted.
    pub pictures: Names,
    /// Its tar files, sorted.
    pub shards: Vec<OsString>,
    /// Its folders, sorted: what may be classes.
    pub folders: Vec<SubFolder>,
    /// What of its files and folders is not listed.
    pub left_out: LeftOut,
}

impl Top {
    /// Looks into a folder.
    ///
    /// # Errors
    /// [`ListError`] where there is none or it cannot be read.
    pub fn look(dir: &Path) -> Result<Self, ListError> {
        let read = |reason| ListError::Read { path: dir.to_owned(), reason };
        match fs::metadata(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(ListError::Missing { path: dir.to_owned() });
            }
            Err(reason) => return Err(read(reason)),
            Ok(meta) if !meta.is_dir() => return Err(ListError::NotAFolder { path: dir.to_owned() }),
            Ok(_) => {}
        }
        let real = fs::canonicalize(dir).map_err(read)?;
        let mut left_out = LeftOut::default();
        let Entries { pictures, shards, mut folders } = entries(dir, &mut left_out)?;
        let mut found = Vec::with_capacity(folders.len());
        for folder in folders.drain(..) {
            if leads_back(&real, &resolve(dir, &real, &folder)?) {
                left_out.links += 1;
            } else {
                found.push(folder);
            }
        }
        Ok(Self { dir: dir.to_owned(), real, pictures, shards, folders: found, left_out })
    }

    /// Walks the pictures of a class folder and of the folders below it; what was left out there. Links are followed,
    /// but not to a folder that is on the way, and to each folder once.
    ///
    /// # Errors
    /// [`ListError`] where a folder cannot be read, and the visitor's own.
    pub fn walk<V: Visit>(&self, class: &SubFolder, visitor: &mut V) -> Result<LeftOut, V::Error> {
        let real = resolve(&self.dir, &self.real, class)?;
        let mut walk = Walk {
            root: &self.dir,
            way: vec![self.real.clone()],
            seen: HashSet::from([real.clone()]),
            left_out: LeftOut::default(),
        };
        walk.folder(Path::new(&class.name), &real, visitor)?;
        Ok(walk.left_out)
    }
}

struct Walk<'a> {
    root: &'a Path,
    /// The folders that lead here, without links.
    way: Vec<PathBuf>,
    /// The folders of this class so far.
    seen: HashSet<PathBuf>,
    left_out: LeftOut,
}

impl Walk<'_> {
    fn folder<V: Visit>(&mut self, folder: &Path, real: &Path, visitor: &mut V) -> Result<(), V::Error> {
        visitor.enter(folder)?;
        let dir = self.root.join(folder);
        let found = entries(&dir, &mut self.left_out)?;
        for name in found.pictures.iter() {
            visitor.picture(name)?;
        }
        self.left_out_shards(&found.shards);
        self.way.push(real.to_owned());
        for sub in &found.folders {
            let target = resolve(&dir, real, sub)?;
            if self.way.iter().any(|way| leads_back(way, &target)) || !self.seen.insert(target.clone()) {
                self.left_out.links += 1;
                continue;
            }
            self.folder(&folder.join(&sub.name), &target, visitor)?;
        }
        self.way.pop();
        Ok(())
    }

    fn left_out_shards(&mut self, shards: &[OsString]) {
        shards.iter().for_each(|name| self.left_out.add_file(name));
    }
}

/// Whether whoever follows a link from `here` to `target` comes by `here` again.
fn leads_back(here: &Path, target: &Path) -> bool {
    here.starts_with(target)
}

/// The real path of a folder in a folder whose real path is known.
fn resolve(dir: &Path, real: &Path, sub: &SubFolder) -> Result<PathBuf, ListError> {
    if !sub.link {
        return Ok(real.join(&sub.name));
    }
    let path = dir.join(&sub.name);
    fs::canonicalize(&path).map_err(|reason| ListError::Read { path, reason })
}

/// File names end to end: a folder can hold a million.
#[derive(Clone, Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Names {
    fn push(&mut self, name: &OsStr) {
        let name = name.as_bytes();
        self.spans.push((self.bytes.len(), self.bytes.len() + name.len()));
        self.bytes.extend_from_slice(name);
    }

    fn get(&self, (start, end): (usize, usize)) -> &[u8] {
        self.bytes.get(start..end).unwrap_or_default()
    }

    fn sort(&mut self) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.sort_unstable_by_key(|&span| self.get(span));
        self.spans = spans;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// All of them, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &OsStr> {
        self.spans.iter().map(|&span| OsStr::from_bytes(self.get(span)))
    }
}

/// What lies in one folder, each kind sorted.
struct Entries {
    pictures: Names,
    shards: Vec<OsString>,
    folders: Vec<SubFolder>,
}

fn entries(dir: &Path, left_out: &mut LeftOut) -> Result<Entries, ListError> {
    let failed = |reason| ListError::Read { path: dir.to_owned(), reason };
    let mut found = Entries { pictures: Names::default(), shards: Vec::new(), folders: Vec::new() };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        // The kind comes with the listing; only a link costs a look of its own.
        let own = entry.file_type().map_err(failed)?;
        let hidden = name.as_encoded_bytes().starts_with(b".");
        let kind = if own.is_symlink() && !hidden { target(&entry.path()) } else { Some(own) };
        let is_folder = kind.is_some_and(|kind| kind.is_dir());
        if hidden || (is_folder && SYSTEM.iter().any(|system| name == *system)) {
            if is_folder {
                left_out.add_folder(&name);
            } else {
                left_out.hidden += 1;
            }
        } else if is_folder {
            found.folders.push(SubFolder { name, link: own.is_symlink() });
        } else if !is_picture(&name) {
            if is_shard(&name) { found.shards.push(name) } else { left_out.add_file(&name) }
        } else if kind.is_none_or(|kind| kind.is_file()) {
            // A dangling link is listed, so that loading reports it by name.
            found.pictures.push(&name);
        } else {
            left_out.special += 1;
        }
    }
    found.pictures.sort();
    found.shards.sort_unstable();
    found.folders.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// What a link leads to; `None` where that is nothing.
fn target(path: &Path) -> Option<FileType> {
    fs::metadata(path).ok().map(|meta| meta.file_type())
}

/// Whether a file's name is a tar file's.
pub fn is_shard(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|ext| ext.eq_ignore_ascii_case("tar"))
}
