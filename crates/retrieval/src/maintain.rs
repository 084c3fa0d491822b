//! The approximate indexes: building them, and keeping them on disk beside the database.
//!
//! The database says which file belongs to a collection: its name, size and SHA-256. A file that is not that, bit for
//! bit, is deleted unread, for the library that reads it trusts it. As a row's vector never changes, a file written
//! at an earlier state of the database is right about all rows that it has; those that came since are added.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::ann::{self, Ann};
use crate::collection::Collection;
use crate::database::Cache;
use crate::engine::Maintained;
use crate::error::{Error, Result};
use crate::lock::{lock, read, write};
use crate::store::Store;

/// Rows that are added between two questions whether to go on.
const STEP: usize = 64;
/// An index is written when this part of it is new.
const SAVE: usize = 8;
/// An index with this many rows of which a part is gone is built anew.
const GONE: usize = 1000;

const PREFIX: &str = "cache-";
const ENDING: &str = ".usearch";

pub(crate) fn maintain(store: &Store, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Maintained> {
    let _alone = lock(&store.maintenance);
    let mut done = Maintained::default();
    for collection in store.all() {
        if go_on() {
            update(store, &collection, go_on, &mut done);
        }
    }
    save_all(store, &mut done, SAVE);
    Ok(done)
}

/// Brings an index up to date.
fn update(store: &Store, collection: &Collection, go_on: &(dyn Fn() -> bool + Sync), done: &mut Maintained) {
    if !collection.wants_ann(store.options.exact_numbers) {
        return;
    }
    let found = read(&collection.ann).as_ref().map(Ann::len);
    let rows = read(&collection.rows).len();
    let gone = found.map_or(0, |len| len.saturating_sub(rows));
    let result = match found {
        Some(len) if gone < GONE || gone * 4 < len => grow(collection, go_on),
        _ => build(collection, store.options.threads, go_on).map(|(ann, whole)| {
            let rows = ann.len();
            // half an index is better than none, but not than a whole one
            if whole || found.is_none() {
                done.rebuilt += usize::from(found.is_some());
                collection.set_ann(Some(ann));
            }
            rows
        }),
    };
    match result {
        Ok(rows) => done.indexed += rows,
        Err(why) => done.failed.push(format!("index of `{}`: {why}", collection.stored.name)),
    }
}

/// Adds what came since. Searches go on between rows.
fn grow(collection: &Collection, go_on: &(dyn Fn() -> bool + Sync)) -> std::result::Result<usize, String> {
    let mut added = 0;
    while go_on() {
        let Some(upto) = read(&collection.ann).as_ref().map(Ann::upto) else { break };
        let new = next(collection, upto);
        if new.is_empty() {
            break;
        }
        for (seq, vector) in new {
            if let Some(ann) = write(&collection.ann).as_mut() {
                ann.add(seq, &vector)?;
                added += 1;
            }
        }
    }
    Ok(added)
}

fn next(collection: &Collection, after: i64) -> Vec<(i64, Vec<f32>)> {
    read(&collection.rows).after(after).take(STEP).map(|row| (row.seq, row.vector.to_vec())).collect()
}

/// An index of all rows, and whether it has them all: `go_on` may have stopped it.
fn build(
    collection: &Collection,
    threads: usize,
    go_on: &(dyn Fn() -> bool + Sync),
) -> std::result::Result<(Ann, bool), String> {
    let mut ann = Ann::new(collection.dim(), read(&collection.rows).len())?;
    loop {
        if !go_on() {
            return Ok((ann, false));
        }
        let new = next(collection, ann.upto());
        if new.is_empty() {
            return Ok((ann, true));
        }
        ann.add_all(&new, threads)?;
    }
}

/// Writes every index of which more than a part is new: every one that changed if `part` is 0.
pub(crate) fn save_all(store: &Store, done: &mut Maintained, part: usize) {
    let due = |ann: &Ann| ann.unsaved() > 0 && (part == 0 || ann.unsaved() * part >= ann.len());
    for collection in store.all() {
        if !read(&collection.ann).as_ref().is_some_and(due) {
            continue;
        }
        match save(store, &collection) {
            Ok(()) => done.saved += 1,
            Err(why) => done.failed.push(format!("saving the index of `{}`: {why}", collection.stored.name)),
        }
    }
}

fn save(store: &Store, collection: &Arc<Collection>) -> std::result::Result<(), String> {
    let uid = collection.stored.uid;
    let temporary = store.dir.join(format!("{PREFIX}{uid}.tmp"));
    let shape =
        read(&collection.ann).as_ref().map(|ann| ann.save(&temporary)).ok_or("there is no index")??;
    let (bytes, sha256) = digest(&temporary, true).map_err(|e| e.to_string())?;
    let file = format!("{PREFIX}{uid}-{}{ENDING}", sha256.get(..16).unwrap_or_default());
    let rows = shape.rows;
    let cache = Cache { file, format: ann::format(), bytes, sha256, shape };
    publish(store, collection, &temporary, &cache).map_err(|e| e.to_string())?;
    if let Some(ann) = write(&collection.ann).as_mut() {
        ann.set_saved(rows);
    }
    Ok(())
}

/// First the file, then the line in the database that makes it count, then the one before is deleted.
fn publish(store: &Store, collection: &Arc<Collection>, temporary: &Path, cache: &Cache) -> Result<()> {
    let writer = lock(&store.writer);
    let uid = collection.stored.uid;
    if !store.find(&collection.stored.name).is_ok_and(|found| Arc::ptr_eq(&found, collection)) {
        let _ = std::fs::remove_file(temporary);
        return Ok(());
    }
    let path = store.dir.join(&cache.file);
    std::fs::rename(temporary, &path).map_err(|reason| Error::Io { path, reason })?;
    let before = writer.transaction(|tx| {
        let before = tx.cache(uid)?;
        tx.set_cache(uid, cache)?;
        Ok(before)
    })?;
    if let Some(before) = before.filter(|b| b.file != cache.file) {
        let _ = std::fs::remove_file(store.dir.join(before.file));
    }
    Ok(())
}

/// Size and SHA-256 of a file, which is on the disk afterwards if `sync`.
fn digest(path: &Path, sync: bool) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    if sync {
        file.sync_all()?;
    }
    let (mut hasher, mut buffer, mut bytes) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        hasher.update(buffer.get(..read).unwrap_or_default());
    }
    Ok((bytes, hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()))
}

/// Takes over the indexes that were saved, and deletes files that are none.
pub(crate) fn load_all(store: &Store) -> Result<()> {
    let mut used = HashSet::new();
    let writer = lock(&store.writer);
    for collection in store.all() {
        let Some(cache) = writer.cache(collection.stored.uid)? else { continue };
        let found =
            collection.wants_ann(store.options.exact_numbers).then(|| load(store, &collection, &cache));
        if let Some(Ok(ann)) = found {
            collection.set_ann(Some(ann));
            used.insert(cache.file);
        } else {
            writer.transaction(|tx| tx.forget_cache(collection.stored.uid))?;
        }
    }
    for entry in std::fs::read_dir(&store.dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| n.starts_with(PREFIX) && !used.contains(n));
        if ours {
            let _ = std::fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn load(store: &Store, collection: &Collection, cache: &Cache) -> std::result::Result<Ann, String> {
    let path = store.dir.join(&cache.file);
    let bytes = std::fs::metadata(&path).map_err(|e| e.to_string())?.len();
    if cache.format != ann::format() || bytes != cache.bytes || cache.shape.dim != collection.dim() {
        return Err("written in another format".to_owned());
    }
    if digest(&path, false).map_err(|e| e.to_string())? != (cache.bytes, cache.sha256.clone()) {
        return Err("changed since it was written".to_owned());
    }
    Ann::load(&path, &cache.shape)
}
