//! The store: a folder with one SQLite file and what is derived from it.

use std::collections::BTreeMap;
use std::fs::{OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use occlude_output::FileLock;

use crate::collection::Collection;
use crate::database::{Database, FILE};
use crate::error::{Error, Result};
use crate::lock::{lock, read, write};
use crate::reserve::Reserve;

/// Connections that are kept for reading.
const READERS: usize = 16;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// A search that compares with so many numbers or fewer (rows × dimension) is exact; a collection of no more has
    /// no approximate index. 8 Mi, some milliseconds, by default.
    pub exact_numbers: usize,
    /// Most bytes of vectors in memory, of all collections together; what would take more is refused. No bound by
    /// default. The approximate indexes take a quarter as much and 150 bytes a row on top.
    pub max_memory: Option<u64>,
    /// Most bytes of the database; what would take more is refused. No bound by default.
    pub max_disk: Option<u64>,
    /// Threads that build an approximate index anew. 1 by default.
    pub threads: usize,
    /// Bytes kept in a file beside the database, so that points can be deleted on a full disk. None by default.
    pub reserve: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { exact_numbers: 8 << 20, max_memory: None, max_disk: None, threads: 1, reserve: 0 }
    }
}

/// Collections in a folder of this machine.
///
/// One process at a time: another one is refused. Dropping the store saves the approximate indexes, so that the next
/// start need not build them.
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) options: Options,
    pub(crate) reserve: Reserve,
    /// Held while something is written, memory included.
    pub(crate) writer: Mutex<Database>,
    readers: Mutex<Vec<Database>>,
    pub(crate) collections: RwLock<BTreeMap<String, Arc<Collection>>>,
    /// Held while indexes are built.
    pub(crate) maintenance: Mutex<()>,
    /// Last: the others are closed when it is given up.
    _lock: Option<FileLock>,
}

impl Store {
    /// The database of a folder and the vectors in it, without approximate indexes.
    pub(crate) fn read(dir: &Path, options: &Options) -> Result<Self> {
        let io = |reason| Error::Io { path: dir.to_owned(), reason };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = lock_file(dir)?;
        let (database, clean) = Database::open(&dir.join(FILE), options.max_disk)?;
        if !clean {
            database.check()?;
        }
        let collections = load(&database)?;
        let reserve = Reserve::new(dir, options.reserve);
        reserve.fill();
        Ok(Self {
            reserve,
            dir: dir.to_owned(),
            options: options.clone(),
            writer: Mutex::new(database),
            readers: Mutex::default(),
            collections: RwLock::new(collections),
            maintenance: Mutex::default(),
            _lock: lock,
        })
    }

    /// Reads the whole database and checks its structure.
    pub fn check(&self) -> Result<()> {
        self.reading(Database::check)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Arc<Collection>> {
        let found = read(&self.collections).get(name).cloned();
        found.ok_or_else(|| Error::NoCollection { name: name.chars().take(80).collect() })
    }

    pub(crate) fn all(&self) -> Vec<Arc<Collection>> {
        read(&self.collections).values().cloned().collect()
    }

    /// Lends a connection that reads.
    pub(crate) fn reading<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let kept = lock(&self.readers).pop();
        let database = kept.map_or_else(|| Database::reader(&self.dir.join(FILE)), Ok)?;
        let done = work(&database)?;
        let mut readers = lock(&self.readers);
        if readers.len() < READERS {
            readers.push(database);
        }
        Ok(done)
    }

    /// Deletes rows on the disk and then in memory.
    pub(crate) fn remove(&self, writer: &Database, collection: &Collection, seqs: &[i64]) -> Result<()> {
        self.freeing(writer, |tx| seqs.iter().try_for_each(|seq| tx.delete(*seq)))?;
        let mut rows = write(&collection.rows);
        seqs.iter().for_each(|seq| rows.remove(*seq));
        Ok(())
    }

    /// A transaction that deletes: where there is no room for it, the reserve makes some.
    pub(crate) fn freeing<T>(&self, writer: &Database, work: impl Fn(&Database) -> Result<T>) -> Result<T> {
        match writer.transaction(&work) {
            Err(Error::Full { .. }) if self.reserve.give() => writer.transaction(&work),
            done => done,
        }
    }

    pub(crate) fn check_memory(&self, collection: &Collection, more: usize) -> Result<()> {
        let Some(most) = self.options.max_memory else { return Ok(()) };
        let held = |c: &Collection| {
            let rows = read(&c.rows);
            rows.bytes(rows.len())
        };
        let held: u64 = self.all().iter().map(|c| held(c)).sum();
        let wanted = held.saturating_add(read(&collection.rows).bytes(more));
        if wanted <= most {
            return Ok(());
        }
        let reason = format!("{wanted} bytes of vectors in memory, {most} at most");
        Err(Error::Full { reason })
    }
}

/// Takes the store's folder for this process; given up when the file is closed, by a crash too.
fn lock_file(dir: &Path) -> Result<Option<FileLock>> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|reason| Error::Io { path: path.clone(), reason })?;
    match FileLock::try_take(file) {
        Ok(lock) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: dir.to_owned() }),
        // a file system without locks: better without than not at all
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(None),
        Err(TryLockError::Error(reason)) => Err(Error::Io { path, reason }),
    }
}

fn load(database: &Database) -> Result<BTreeMap<String, Arc<Collection>>> {
    let collections: Vec<Collection> = database.collections()?.into_iter().map(Collection::new).collect();
    let by_uid: BTreeMap<i64, &Collection> = collections.iter().map(|c| (c.stored.uid, c)).collect();
    let dim = |uid| by_uid.get(&uid).map(|c| c.dim());
    database.each_vector(dim, |uid, seq, id, vector| {
        if let Some(collection) = by_uid.get(&uid) {
            write(&collection.rows).push(seq, id, vector);
        }
    })?;
    Ok(collections.into_iter().map(|c| (c.stored.name.clone(), Arc::new(c))).collect())
}
