//! Shards in a bucket: listed, indexed once, kept on this machine as far as there is room, and read in parts beyond that.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use occlude_objects::{Listed, Ranged, Stat, Store, open_input, small, tar_of};
use occlude_preprocess::files;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tokio::runtime::{Handle, Runtime};

use crate::Error;
use crate::cache::CacheFile;
use crate::far::Remote;
use crate::index::{Index, Kind, Place};
use crate::kept::Kept;
use crate::options::Options;
use crate::shards::{self, Beside, CLASSES, Shards};
use crate::stamp::Stamp;
use crate::tar_scan::{self, Scan};

/// Longest file of names of classes that is read.
const MAX_CLASSES: u64 = 64 << 20;
/// Threads on which requests wait for answers; loaders' own threads wait with them.
const THREADS: usize = 2;

/// What one runtime for all data sets does: their requests.
fn runtime() -> Result<&'static Runtime, Error> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(THREADS).enable_all().build().map_err(|e| e.to_string())
    });
    made.as_ref().map_err(|reason| Error::Threads { reason: reason.clone() })
}

/// A store that was listed.
struct Found {
    store: Arc<dyn Store>,
    handle: Handle,
    shards: Vec<(PathBuf, Stat)>,
    /// Of the file of names of classes, where there is one.
    classes: Option<Stat>,
    /// Of the listing; nothing for a single shard.
    listing: Option<Stamp>,
}

/// Opens what lies at an address: the folder of it, its index and its shards.
///
/// # Errors
/// As [`Dataset::open`](crate::Dataset::open).
pub(crate) fn open(path: &Path, options: &Options) -> Result<(PathBuf, Index, Shards), Error> {
    let root = tar_of(path).map_or_else(|| path.to_owned(), |(folder, _)| folder);
    let found = Found::look(path, runtime()?.handle())?;
    let folder = options.cache.folder();
    let kept = Kept::choose(folder.as_deref(), options.room()?, &root, &found.shards);
    let local = kept.fetch(&root, &|shard| found.stream(shard), options.tell)?;
    let cached = folder.as_ref().map(|folder| CacheFile::of_address(folder, path));
    let stamps = found.stamps();
    let unchanged = |place: &Place| stamps.get(&place.path).copied().unwrap_or_default() == place.stamp;
    let index = cached.as_ref().and_then(|file| file.load_if(unchanged));
    let index = match index {
        Some((Kind::Shards, index)) => index,
        _ => {
            let index = found.index(path, &root, &local)?;
            if let Some(file) = cached {
                // a cache that cannot be written costs time, nothing else
                let _ = file.store(Kind::Shards, &index, SystemTime::now());
            }
            index
        }
    };
    let remote = Remote { store: found.store, shards: found.shards };
    Ok((root, index, Shards::remote(local, remote)))
}

impl Found {
    fn look(path: &Path, handle: &Handle) -> Result<Self, Error> {
        let store = open_input(path, handle)?;
        let Listed { shards, pictures, .. } = store.list()?;
        if shards.is_empty() {
            return Err(Error::Unsuitable {
                what: format!(
                    "`{}` holds {} pictures and no tar shard: buckets are read by shards",
                    path.display(),
                    pictures.len()
                ),
                hint: "`occlude-train dataset shards` makes shards of a folder",
            });
        }
        let listing = tar_of(path).is_none().then(|| {
            let names = shards.iter().fold(Sha256::new(), |hash, shard| {
                hash.chain_update(shard.path.as_os_str().as_encoded_bytes()).chain_update([0])
            });
            Stamp { inode: number(names), ..Stamp::default() }
        });
        let lost = |path: &Path, reason| Error::Store { name: store.name(path), reason };
        let known = |object: occlude_objects::Object| {
            let stat = match object.stat {
                Some(stat) => Some(stat),
                None => store.stat(&object.path).map_err(|e| lost(&object.path, e))?,
            };
            let stat = stat.ok_or_else(|| lost(&object.path, io::ErrorKind::NotFound.into()))?;
            Ok((object.path, stat))
        };
        let shards = shards.into_iter().map(known).collect::<Result<_, Error>>()?;
        let classes = store.stat(Path::new(CLASSES)).map_err(|e| lost(Path::new(CLASSES), e))?;
        Ok(Self { store, handle: handle.clone(), shards, classes, listing })
    }

    /// What the places of the index are now; nothing for those that are not there.
    fn stamps(&self) -> HashMap<PathBuf, Stamp> {
        let shards = self.shards.iter().map(|(path, stat)| (path.clone(), stamp(stat)));
        let classes = self.classes.iter().map(|stat| (PathBuf::from(CLASSES), stamp(stat)));
        shards.chain(classes).chain(self.listing.map(|listing| (PathBuf::new(), listing))).collect()
    }

    /// A shard from one end to the other.
    fn stream(&self, shard: usize) -> Option<Ranged> {
        let (path, stat) = self.shards.get(shard)?;
        Some(Ranged::new(Arc::clone(&self.store), path.clone(), stat.clone(), self.handle.clone()))
    }

    fn index(&self, path: &Path, root: &Path, local: &[Option<PathBuf>]) -> Result<Index, Error> {
        let names: Vec<PathBuf> = self.shards.iter().map(|(path, _)| path.clone()).collect();
        let file = Path::new(CLASSES);
        if self.classes.as_ref().is_some_and(|stat| stat.bytes > MAX_CLASSES) {
            let reason = io::Error::other(format!("names of classes are at most {MAX_CLASSES} bytes"));
            return Err(Error::read(&root.join(CLASSES), reason));
        }
        let text = small(&*self.store, file, MAX_CLASSES);
        let text = text.map_err(|reason| Error::Store { name: self.store.name(file), reason })?;
        let given = text.map(|bytes| files::utf8(bytes).map(|text| shards::names_of_classes(&text)));
        let given = given.transpose().map_err(|e| Error::read(&root.join(CLASSES), e))?;
        let beside = Beside { classes: self.classes.as_ref().map(stamp), given, folder: self.listing };
        let numbers: Vec<usize> = (0..names.len()).collect();
        let scans = numbers.par_iter().map(|&i| self.scan(i, local.get(i).and_then(Option::as_deref)));
        shards::join(path, root, &names, scans.collect(), beside)
    }

    fn scan(&self, shard: usize, local: Option<&Path>) -> Result<Scan, Error> {
        let Some(((path, stat), stream)) = self.shards.get(shard).zip(self.stream(shard)) else {
            return Ok(Scan::default());
        };
        if let Some(local) = local
            && let Ok(file) = files::open(local)
        {
            match tar_scan::scan(file, stat.bytes, stamp(stat)) {
                Ok(scan) => return Ok(scan),
                // the disk may have spoiled it: from now on it is read from the bucket, and fetched again the next time
                Err(_) => drop(std::fs::remove_file(local)),
            }
        }
        let scanned = tar_scan::scan(stream, stat.bytes, stamp(stat));
        scanned.map_err(|reason| Error::Tar { path: self.store.name(path).into(), reason })
    }
}

fn stamp(stat: &Stat) -> Stamp {
    let tag = stat.tag.as_ref().map_or(0, |tag| number(Sha256::new_with_prefix(tag)));
    Stamp { inode: tag, size: stat.bytes, ..Stamp::default() }
}

fn number(hash: Sha256) -> u64 {
    hash.finalize().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte))
}
