//! Folders: flat, or with one sub-folder per class, by the walk of `occlude_preprocess::files`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::{self, LeftOut, ListError, Visit, is_shard};
use rayon::prelude::*;

use crate::Error;
use crate::index::{Full, Index, NONE};
use crate::shards::CLASSES;
use crate::stamp::Stamp;

/// What lies directly in the folder of a data set.
pub(crate) struct Top {
    dir: PathBuf,
    stamp: Stamp,
    found: files::Top,
}

/// Looks into a folder.
///
/// # Errors
/// [`ListError`] where there is none or it cannot be read.
pub(crate) fn look(dir: &Path) -> Result<Top, Error> {
    // before the entries: what changes in between shows in the next stamp
    let stamp = Stamp::of(dir);
    Ok(Top { dir: dir.to_owned(), stamp, found: files::Top::look(dir)? })
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

    /// What is beside shards.
    pub(crate) fn beside_shards(&self) -> LeftOut {
        let mut left_out = self.found.left_out.clone();
        // the file of names is read
        if self.dir.join(CLASSES).is_file()
            && let Some(n) = left_out.endings.get_mut(".txt")
        {
            *n -= 1;
            left_out.endings.retain(|_, n| *n > 0);
        }
        left_out
    }

    /// Walks the class folders, several at a time.
    ///
    /// # Errors
    /// [`ListError`] where a folder cannot be read or there is no picture; [`Error::TooMany`].
    pub(crate) fn index(self) -> Result<Index, Error> {
        let full = |Full| Error::TooMany { path: self.dir.clone() };
        let mut index = Index { left_out: self.found.left_out.clone(), ..Index::default() };
        self.found.shards.iter().for_each(|name| index.left_out.add_file(name));
        let here = index.add_place(PathBuf::new(), self.stamp).map_err(full)?;
        for name in self.found.pictures.iter() {
            index.push(here, name.as_bytes(), NONE).map_err(full)?;
        }
        let loose = index.len();
        let walk = |class| {
            let mut part = Part { root: &self.dir, here: 0, index: Index::default() };
            let left_out = self.found.walk(class, &mut part)?;
            Ok((part.index, left_out))
        };
        let walked: Vec<Result<_, Error>> = self.found.folders.par_iter().map(walk).collect();
        let mut empty = Vec::new();
        for (class, (walked, folder)) in (0u32..).zip(walked.into_iter().zip(&self.found.folders)) {
            let (part, left_out) = walked?;
            if part.len() == 0 {
                empty.push(folder.class());
            }
            index.append(part, |_| class).map_err(full)?;
            index.left_out.add(left_out);
            index.classes.push(folder.class());
        }
        match index.len() {
            0 => return Err(ListError::Empty { path: self.dir, left_out: Box::new(index.left_out) }.into()),
            // Sub-folders without any picture are not classes: the folder is flat.
            n if n == loose => index.classes.clear(),
            _ => index.left_out.classes = empty,
        }
        index.shrink();
        Ok(index)
    }
}

/// The pictures of a class folder.
struct Part<'a> {
    root: &'a Path,
    /// Place of the folder that is being listed.
    here: u32,
    index: Index,
}

impl Part<'_> {
    fn full(&self) -> Error {
        Error::TooMany { path: self.root.to_owned() }
    }
}

impl Visit for Part<'_> {
    type Error = Error;

    fn enter(&mut self, folder: &Path) -> Result<(), Error> {
        let stamp = Stamp::of(&self.root.join(folder));
        self.here = self.index.add_place(folder.to_owned(), stamp).map_err(|Full| self.full())?;
        Ok(())
    }

    fn picture(&mut self, name: &OsStr) -> Result<(), Error> {
        self.index.push(self.here, name.as_bytes(), NONE).map_err(|Full| self.full())
    }
}

/// Whether a path is a shard's, by its name.
pub(crate) fn is_shard_path(path: &Path) -> bool {
    path.file_name().is_some_and(is_shard)
}
