//! The shards of an input: tar files, or stretches of the sorted list of pictures.

use std::fmt::Write;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use occlude_objects::{Object, Stat, Store, small};
use occlude_preprocess::names;
use sha2::{Digest, Sha256};

use crate::tools::{ToolError, file_error};

/// The file beside shards that names the classes, one a line.
const CLASSES: &str = "classes.txt";
/// Longest file of names of classes that is read.
const MAX_CLASSES: u64 = 64 << 20;

/// One shard: it becomes one file of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shard {
    /// What it is called, as text.
    pub(super) name: String,
    pub(super) what: What,
}

/// What a shard is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A tar file.
    Tar(PathBuf),
    /// A stretch of the list of pictures.
    Pictures(Range<usize>),
}

/// A shard as it is at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// What tells whether it is still what was embedded.
    pub(super) identity: String,
    /// Of the tar, or of each picture; nothing for a picture that is gone.
    pub(super) stats: Vec<Option<Stat>>,
}

/// An input that was listed.
pub(super) struct Input {
    pub(super) store: Arc<dyn Store>,
    pub(super) shards: Vec<Shard>,
    pub(super) pictures: Vec<Object>,
    classes: Vec<String>,
}

/// What the stretches of a list of pictures are called: `pictures-00003-of-00010`.
pub(super) fn stretch(index: usize, count: usize) -> String {
    format!("pictures-{index:05}-of-{count:05}")
}

impl Input {
    /// Lists what is there; a list of pictures is cut after every `per_shard`.
    pub(super) fn open(store: Arc<dyn Store>, per_shard: usize) -> Result<Self, ToolError> {
        let listed = store.list()?;
        if !listed.left_out.is_empty() {
            tracing::info!("`{}`: {}", store.name(Path::new("")), listed.left_out);
        }
        let per_shard = per_shard.max(1);
        let (pictures, count) = (listed.pictures, listed.shards.len());
        let cuts = pictures.len().div_ceil(per_shard);
        let cut = |i: usize| Shard {
            name: stretch(i, cuts),
            what: What::Pictures(i * per_shard..((i + 1) * per_shard).min(pictures.len())),
        };
        let tar = |object: Object| Shard { name: names::of_path(&object.path), what: What::Tar(object.path) };
        let shards = listed.shards.into_iter().map(tar).chain((0..cuts).map(cut)).collect();
        let classes = if count > 0 { classes(&*store)? } else { Vec::new() };
        Ok(Self { store, shards, pictures, classes })
    }

    /// Looks at a shard.
    pub(super) fn look(&self, shard: &Shard) -> io::Result<Known> {
        match &shard.what {
            What::Tar(path) => {
                let stat = self.store.stat(path)?.ok_or(io::ErrorKind::NotFound)?;
                let tag = stat.tag.as_deref().unwrap_or("none");
                Ok(Known { identity: format!("tar bytes={} tag={tag}", stat.bytes), stats: vec![Some(stat)] })
            }
            What::Pictures(range) => self.look_at_pictures(range.clone()),
        }
    }

    fn look_at_pictures(&self, range: Range<usize>) -> io::Result<Known> {
        let mut hash = Sha256::new();
        let mut stats = Vec::new();
        for object in self.pictures.get(range).unwrap_or_default() {
            // what a listing says of sizes needs no further question
            let stat = match &object.stat {
                Some(stat) => Some(Stat { bytes: stat.bytes, tag: None }),
                None => self.store.stat(&object.path)?,
            };
            let name = object.path.as_os_str().as_encoded_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(stat.as_ref().map_or(u64::MAX, |s| s.bytes).to_le_bytes());
            stats.push(stat);
        }
        let mut identity = "pictures sha256=".to_owned();
        for byte in hash.finalize() {
            // writing to a string does not fail
            let _ = write!(identity, "{byte:02x}");
        }
        Ok(Known { identity, stats })
    }

    /// The class that a `.cls` means: one of the names in `classes.txt` by its number, else what it says.
    pub(super) fn class(&self, text: &str) -> String {
        let named = text.parse().ok().and_then(|i: usize| self.classes.get(i));
        named.cloned().unwrap_or_else(|| text.to_owned())
    }
}

/// The class of a picture in a folder: the first folder on the way to it.
pub(super) fn folder_class(path: &Path) -> Option<String> {
    let mut parts = path.iter();
    let first = parts.next()?;
    parts.next().map(|_| names::escape(first.as_encoded_bytes()).into_owned())
}

fn classes(store: &dyn Store) -> Result<Vec<String>, ToolError> {
    let shown = PathBuf::from(store.name(Path::new(CLASSES)));
    let failed = file_error(&shown);
    let Some(bytes) = small(store, Path::new(CLASSES), MAX_CLASSES).map_err(&failed)? else {
        return Ok(Vec::new());
    };
    let text = occlude_preprocess::files::utf8(bytes).map_err(&failed)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
