//! What a store does.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::check;
use crate::collection::Collection;
use crate::database::Stored;
use crate::engine::{Engine, Info, Maintained, Page, Point, Query, Record, Spec, Upserted, With};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::lock::{lock, read, write};
use crate::rows::Rows;
use crate::store::{Options, Store};
use crate::{maintain, search};

impl Store {
    /// Opens the store in a folder, or makes one. Reads all vectors. After a crash the file is checked first.
    pub fn open(dir: impl AsRef<Path>, options: &Options) -> Result<Self> {
        let store = Self::read(dir.as_ref(), options)?;
        maintain::load_all(&store)?;
        Ok(store)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // what cannot be saved is built anew at the next start
        maintain::save_all(self, &mut Maintained::default(), 0);
        let _ = lock(&self.writer).close();
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl Engine for Store {
    fn create_collection(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::name(name)?;
        check::spec(spec)?;
        let writer = lock(&self.writer);
        let known = read(&self.collections).len();
        if self.find(name).is_ok() {
            return Err(Error::Exists { name: name.to_owned() });
        }
        if known >= check::MAX_COLLECTIONS {
            return Err(Error::Full { reason: format!("{} collections at most", check::MAX_COLLECTIONS) });
        }
        let created = now();
        let uid = writer.transaction(|tx| tx.create_collection(name, spec, created))?;
        let stored = Stored { uid, name: name.to_owned(), spec: spec.clone(), created };
        let collection = Arc::new(Collection::new(stored));
        let info = collection.info();
        write(&self.collections).insert(name.to_owned(), collection);
        Ok(info)
    }

    fn adopt(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::spec(spec)?;
        let writer = lock(&self.writer);
        let collection = self.find(name)?;
        let there = collection.spec();
        let Some(identity) = &spec.identity else { return Ok(collection.info()) };
        if there.identity.is_none() && (&there.fingerprint, there.dim) == (&spec.fingerprint, spec.dim) {
            writer.transaction(|tx| tx.set_identity(collection.stored.uid, identity))?;
            // Only whoever holds the writer sets it.
            let _ = collection.adopted.set(identity.clone());
        } else if there.maker() != identity {
            let (expected, found) = (there.maker().to_owned(), identity.clone());
            return Err(Error::Fingerprint { collection: name.to_owned(), expected, found });
        }
        Ok(collection.info())
    }

    fn collections(&self) -> Result<Vec<Info>> {
        Ok(self.all().iter().map(|c| c.info()).collect())
    }

    fn collection(&self, name: &str) -> Result<Info> {
        Ok(self.find(name)?.info())
    }

    fn drop_collection(&self, name: &str) -> Result<()> {
        let writer = lock(&self.writer);
        let collection = self.find(name)?;
        let file = self.freeing(&writer, |tx| tx.drop_collection(collection.stored.uid))?;
        write(&self.collections).remove(name);
        if let Some(file) = file {
            // a file that nothing names any more is deleted at the next start at the latest
            let _ = std::fs::remove_file(self.dir.join(file));
        }
        Ok(())
    }

    fn upsert(&self, name: &str, maker: &str, points: &[Point]) -> Result<Upserted> {
        let found = self.find(name)?;
        found.check_maker(maker)?;
        let points = check::points(points, found.dim())?;
        let writer = lock(&self.writer);
        // another one may have taken its name meanwhile
        let collection = self.find(name)?;
        if !Arc::ptr_eq(&found, &collection) {
            return Err(Error::NoCollection { name: name.to_owned() });
        }
        let uid = collection.stored.uid;
        let (gone, seqs) = writer.transaction(|tx| {
            let (mut gone, mut seqs) = (Vec::new(), Vec::with_capacity(points.len()));
            for point in &points {
                if let Some(seq) = tx.seq(uid, point.id)? {
                    tx.delete(seq)?;
                    gone.push(seq);
                }
                seqs.push(tx.insert(uid, point)?);
            }
            // an error undoes the transaction
            self.check_memory(&collection, points.len() - gone.len())?;
            Ok((gone, seqs))
        })?;
        let mut rows = write(&collection.rows);
        gone.iter().for_each(|seq| rows.remove(*seq));
        points.iter().zip(seqs).for_each(|(point, seq)| rows.push(seq, point.id, &point.vector));
        Ok(Upserted { added: points.len() - gone.len(), replaced: gone.len() })
    }

    fn delete(&self, name: &str, ids: &[String]) -> Result<usize> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        let writer = lock(&self.writer);
        let collection = self.find(name)?;
        let found = ids.iter().map(|id| writer.seq(collection.stored.uid, id));
        let mut seqs: Vec<i64> = found.filter_map(Result::transpose).collect::<Result<_>>()?;
        seqs.sort_unstable();
        seqs.dedup();
        self.remove(&writer, &collection, &seqs)?;
        Ok(seqs.len())
    }

    fn delete_where(&self, name: &str, filter: &Filter) -> Result<usize> {
        let writer = lock(&self.writer);
        let collection = self.find(name)?;
        // while the writer is held memory is as the database
        let matching = collection.matching(filter, &writer, None)?;
        let seqs: Vec<i64> = read(&collection.rows).among(&matching.seqs).map(|row| row.seq).collect();
        self.remove(&writer, &collection, &seqs)?;
        Ok(seqs.len())
    }

    fn get(&self, name: &str, ids: &[String], with: With) -> Result<Vec<Record>> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        let collection = self.find(name)?;
        self.reading(|db| {
            // one state for all of them
            db.snapshot(|db| {
                let mut records = Vec::with_capacity(ids.len());
                for id in ids {
                    if let Some(entry) = db.entry(collection.stored.uid, id)? {
                        records.push(db.record(entry, collection.dim(), with)?);
                    }
                }
                Ok(records)
            })
        })
    }

    fn scroll(&self, name: &str, page: &Page) -> Result<Vec<Record>> {
        check::within("`limit`", page.limit, check::MAX_K)?;
        let collection = self.find(name)?;
        self.reading(|db| {
            db.snapshot(|db| {
                let mut records = Vec::new();
                db.each_by_id(collection.stored.uid, page.after.as_deref(), |entry| {
                    if page.filter.as_ref().is_none_or(|f| f.matches(&entry.payload)) {
                        records.push(db.record(entry, collection.dim(), page.with)?);
                    }
                    Ok(records.len() < page.limit)
                })?;
                Ok(records)
            })
        })
    }

    fn count(&self, name: &str, filter: Option<&Filter>) -> Result<usize> {
        let collection = self.find(name)?;
        let Some(filter) = filter.filter(|f| !f.is_empty()) else { return Ok(read(&collection.rows).len()) };
        self.reading(|db| {
            let count = |rows: &Rows, seqs: Option<&[i64]>, ()| rows.among(seqs.unwrap_or_default()).count();
            collection.at_once(Some(filter), db, Some(&self.writer), |_| (), count)
        })
    }

    fn search(&self, name: &str, maker: &str, query: &Query) -> Result<Vec<crate::Hit>> {
        let collection = self.find(name)?;
        collection.check_maker(maker)?;
        self.reading(|db| search::search(&collection, query, db, &self.writer, self.options.exact_numbers))
    }

    fn probe(&self) -> Result<()> {
        lock(&self.writer).touch()?;
        match self.reserve.probe() {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Err(Error::Full { reason: e.to_string() }),
            Err(reason) => Err(Error::Io { path: self.dir.clone(), reason }),
        }
    }

    fn maintain(&self, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Maintained> {
        {
            // Room that was made for deleting is taken back only when nobody deletes.
            let _writer = lock(&self.writer);
            self.reserve.fill();
        }
        maintain::maintain(self, go_on)
    }
}
