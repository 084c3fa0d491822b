//! Folders: flat, or with one sub-folder per class, as `occlude_preprocess::files` lists them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::{ListError, is_picture};
use rayon::prelude::*;

use crate::Error;
use crate::index::{Full, Index, NONE};
use crate::stamp::Stamp;

/// What lies directly in the folder of a data set.
pub(crate) struct Top {
    dir: PathBuf,
    stamp: Stamp,
    found: Entries,
}

/// Looks into a folder.
///
/// # Errors
/// [`ListError`] where there is none or it cannot be read.
pub(crate) fn look(dir: &Path) -> Result<Top, Error> {
    match fs::metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(ListError::Missing { path: dir.to_owned() }.into());
        }
        Err(reason) => return Err(ListError::Read { path: dir.to_owned(), reason }.into()),
        Ok(meta) if !meta.is_dir() => return Err(ListError::NotAFolder { path: dir.to_owned() }.into()),
        Ok(_) => {}
    }
    // before the entries: what changes in between shows in the next stamp
    let stamp = Stamp::of(dir);
    Ok(Top { dir: dir.to_owned(), stamp, found: entries(dir)? })
}

impl Top {
    /// The shards among the files, sorted; none where there are pictures, because then an archive
    /// beside them is where they came from.
    pub(crate) fn shards(&self) -> &[OsString] {
        if self.found.pictures.is_empty() { &self.found.shards } else { &[] }
    }

    /// The folder as it was before it was listed.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether pictures can only lie here or in shards.
    pub(crate) fn has_folders(&self) -> bool {
        !self.found.folders.is_empty()
    }

    /// Walks the class folders, several at a time.
    ///
    /// # Errors
    /// [`ListError`] where a folder cannot be read or there is no picture; [`Error::TooMany`].
    pub(crate) fn index(self) -> Result<Index, Error> {
        let full = |Full| Error::TooMany { path: self.dir.clone() };
        let mut index = Index::default();
        let here = index.add_place(PathBuf::new(), self.stamp).map_err(full)?;
        for name in self.found.pictures.iter() {
            index.push(here, name, NONE).map_err(full)?;
        }
        let loose = index.len();
        let walked: Vec<_> =
            self.found.folders.par_iter().map(|class| walk_class(&self.dir, class)).collect();
        for (class, (part, folder)) in (0u32..).zip(walked.into_iter().zip(&self.found.folders)) {
            index.append(part?, |_| class).map_err(full)?;
            index.classes.push(folder.to_string_lossy().into_owned());
        }
        match index.len() {
            0 => return Err(ListError::Empty { path: self.dir }.into()),
            // Sub-folders without any picture are not classes: the folder is flat.
            n if n == loose => index.classes.clear(),
            _ => {}
        }
        index.shrink();
        Ok(index)
    }
}

/// Pictures, shards and sub-folders of one folder, each sorted.
struct Entries {
    pictures: Names,
    shards: Vec<OsString>,
    folders: Vec<OsString>,
}

/// File names end to end: a folder can hold a million.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
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

    fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|&span| self.get(span))
    }
}

fn entries(dir: &Path) -> Result<Entries, Error> {
    let failed = |reason| ListError::Read { path: dir.to_owned(), reason };
    let mut found = Entries { pictures: Names::default(), shards: Vec::new(), folders: Vec::new() };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") {
            continue;
        }
        // The kind comes with the listing; only a link costs a look of its own. A dangling one is
        // listed where its name is a picture's, so that loading reports it by name.
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() || (kind.is_symlink() && entry.path().is_dir()) {
            found.folders.push(name);
        } else if is_picture(&name) {
            found.pictures.push(name.as_bytes());
        } else if is_shard(Path::new(&name)) {
            found.shards.push(name);
        }
    }
    found.pictures.sort();
    found.shards.sort_unstable();
    found.folders.sort_unstable();
    Ok(found)
}

/// Whether a file's name is a shard's.
pub(crate) fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("tar"))
}

fn walk_class(root: &Path, class: &OsString) -> Result<Index, Error> {
    let mut part = Index::default();
    walk(root, Path::new(class), &mut BTreeSet::new(), &mut part)?;
    Ok(part)
}

/// Collects the pictures of a folder and of the folders below it; `seen` holds the folders on the way
/// down, because links can lead back up.
fn walk(root: &Path, folder: &Path, seen: &mut BTreeSet<PathBuf>, part: &mut Index) -> Result<(), Error> {
    let dir = root.join(folder);
    let full = |Full| Error::TooMany { path: root.to_owned() };
    let here = part.add_place(folder.to_owned(), Stamp::of(&dir)).map_err(full)?;
    let found = entries(&dir)?;
    for name in found.pictures.iter() {
        part.push(here, name, NONE).map_err(full)?;
    }
    if found.folders.is_empty() {
        return Ok(());
    }
    let real = fs::canonicalize(&dir).map_err(|reason| ListError::Read { path: dir, reason })?;
    if !seen.insert(real.clone()) {
        return Ok(());
    }
    for name in found.folders {
        walk(root, &folder.join(name), seen, part)?;
    }
    seen.remove(&real);
    Ok(())
}
