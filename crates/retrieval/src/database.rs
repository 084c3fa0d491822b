//! The SQLite file: its schema, how it is opened, and every statement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};
use serde_json::{Map, Value};

use crate::ann::Shape;
use crate::check::Checked;
use crate::engine::{Metric, Record, Spec, With};
use crate::error::{Error, Result};
use crate::vector::{from_bytes, is_unit, to_bytes};

/// Name of the file in the store's folder.
pub(crate) const FILE: &str = "store.sqlite";
/// 2 added the identity of a collection's model.
const SCHEMA: i64 = 2;
const FROM_1: &str = "ALTER TABLE collections ADD COLUMN identity TEXT";
/// `occl`, in the header of our files.
const APPLICATION: i64 = 0x6f63_636c;
/// A vector of 512 numbers leaves half of a smaller page empty.
const PAGE: i64 = 8192;

/// `seq` numbers rows across collections, and never twice (`AUTOINCREMENT`). Payloads and vectors lie apart, so that
/// a scan of payloads reads nothing else.
const TABLES: &str = "
    CREATE TABLE state (clean INTEGER NOT NULL);
    INSERT INTO state VALUES (1);
    CREATE TABLE collections (
        uid INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        dim INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        model TEXT NOT NULL,
        metric TEXT NOT NULL,
        created INTEGER NOT NULL,
        identity TEXT
    );
    CREATE TABLE points (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        collection INTEGER NOT NULL,
        id TEXT NOT NULL,
        payload TEXT NOT NULL
    );
    CREATE UNIQUE INDEX points_by_id ON points (collection, id);
    CREATE INDEX points_by_seq ON points (collection);
    CREATE TABLE vectors (seq INTEGER PRIMARY KEY, vector BLOB NOT NULL);
    CREATE TABLE caches (
        collection INTEGER PRIMARY KEY,
        file TEXT NOT NULL,
        format TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        rows INTEGER NOT NULL,
        upto INTEGER NOT NULL
    );
";

/// A connection, with the file's name for messages.
pub(crate) struct Database {
    sql: Connection,
    path: PathBuf,
}

/// A collection as the file has it.
pub(crate) struct Stored {
    pub(crate) uid: i64,
    pub(crate) name: String,
    pub(crate) spec: Spec,
    pub(crate) created: u64,
}

/// A saved approximate index as the file remembers it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cache {
    /// Name in the store's folder.
    pub(crate) file: String,
    pub(crate) format: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
    pub(crate) shape: Shape,
}

/// A row of `points`.
pub(crate) struct Entry {
    pub(crate) seq: i64,
    pub(crate) id: String,
    pub(crate) payload: Map<String, Value>,
}

impl Database {
    /// Opens the file for writing, or makes it; tells whether the last one to have it open closed it.
    pub(crate) fn open(path: &Path, max_bytes: Option<u64>) -> Result<(Self, bool)> {
        let sql = Connection::open(path).map_err(|e| failed(path, e))?;
        let database = Self { sql, path: path.to_owned() };
        let clean = database.set_up(max_bytes).map_err(|error| match error {
            Error::Database { path, reason }
                if reason.sqlite_error_code() == Some(ErrorCode::NotADatabase) =>
            {
                Error::Foreign { path, reason: "it is not an SQLite database".to_owned() }
            }
            other => other,
        })?;
        Ok((database, clean))
    }

    fn set_up(&self, max_bytes: Option<u64>) -> Result<bool> {
        let pragma = |name: &str| self.sql.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let application = pragma("application_id").map_err(|e| self.raw(e))?;
        let version = pragma("user_version").map_err(|e| self.raw(e))?;
        let tables = "SELECT count(*) FROM sqlite_schema";
        let tables: i64 = self.sql.query_row(tables, [], |row| row.get(0)).map_err(|e| self.raw(e))?;
        match (application, tables) {
            (APPLICATION, _) if version > SCHEMA => {
                return Err(Error::Newer { path: self.path.clone(), found: version, known: SCHEMA });
            }
            (APPLICATION, _) | (0, 0) => {}
            _ => {
                let reason = "it is another program's SQLite database".to_owned();
                return Err(Error::Foreign { path: self.path.clone(), reason });
            }
        }
        let fresh = tables == 0;
        self.configure(fresh, max_bytes).map_err(|e| self.failed(e))?;
        if fresh {
            self.create().map_err(|e| self.failed(e))?;
        } else if version < SCHEMA {
            self.change(FROM_1).map_err(|e| self.failed(e))?;
        }
        self.take_clean().map_err(|e| self.failed(e))
    }

    fn configure(&self, fresh: bool, max_bytes: Option<u64>) -> rusqlite::Result<()> {
        if fresh {
            self.sql.pragma_update(None, "page_size", PAGE)?;
        }
        self.sql.pragma_update(None, "journal_mode", "WAL")?;
        self.sql.pragma_update(None, "synchronous", "FULL")?;
        // what a large batch has grown is given back
        self.sql.pragma_update(None, "journal_size_limit", 64 << 20)?;
        self.sql.busy_timeout(Duration::from_secs(10))?;
        self.sql.set_prepared_statement_cache_capacity(64);
        if let Some(bytes) = max_bytes {
            let page: i64 = self.sql.pragma_query_value(None, "page_size", |row| row.get(0))?;
            let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
            self.sql.pragma_update_and_check(None, "max_page_count", pages.max(1), |_| Ok(()))?;
        }
        Ok(())
    }

    fn create(&self) -> rusqlite::Result<()> {
        self.change(&format!("{TABLES} PRAGMA application_id = {APPLICATION}"))
    }

    /// Brings the tables to the schema of this release.
    fn change(&self, statements: &str) -> rusqlite::Result<()> {
        let schema = format!("BEGIN IMMEDIATE; {statements}; PRAGMA user_version = {SCHEMA}; COMMIT;");
        self.sql.execute_batch(&schema).inspect_err(|_| {
            let _ = self.sql.execute_batch("ROLLBACK");
        })
    }

    /// Whether the file was closed; from now on it is open.
    fn take_clean(&self) -> rusqlite::Result<bool> {
        let clean = self.sql.query_row("SELECT clean FROM state", [], |row| row.get(0))?;
        self.set_clean(false)?;
        Ok(clean)
    }

    fn set_clean(&self, clean: bool) -> rusqlite::Result<()> {
        self.sql.execute("UPDATE state SET clean = ?1", [clean]).map(drop)
    }

    /// Notes that the file was closed.
    pub(crate) fn close(&self) -> Result<()> {
        self.set_clean(true).map_err(|e| self.failed(e))
    }

    /// Writes what is there already.
    pub(crate) fn touch(&self) -> Result<()> {
        self.set_clean(false).map_err(|e| self.failed(e))
    }

    /// A connection that only reads.
    pub(crate) fn reader(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = Connection::open_with_flags(path, flags).map_err(|e| failed(path, e))?;
        sql.busy_timeout(Duration::from_secs(10)).map_err(|e| failed(path, e))?;
        sql.set_prepared_statement_cache_capacity(64);
        Ok(Self { sql, path: path.to_owned() })
    }

    /// Whether the structure of the file is sound; reads all of it.
    pub(crate) fn check(&self) -> Result<()> {
        let first = "PRAGMA quick_check(1)";
        let found: String = self.sql.query_row(first, [], |row| row.get(0)).map_err(|e| self.failed(e))?;
        if found == "ok" { Ok(()) } else { Err(self.corrupt(found)) }
    }

    /// Does `work` in a transaction: all of it, on the disk when this returns, or nothing.
    pub(crate) fn transaction<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let tx = rusqlite::Transaction::new_unchecked(&self.sql, rusqlite::TransactionBehavior::Immediate);
        let tx = tx.map_err(|e| self.failed(e))?;
        let done = work(self)?;
        tx.commit().map_err(|e| self.failed(e))?;
        Ok(done)
    }

    /// Reads within one state of the file.
    pub(crate) fn snapshot<T>(&self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let _tx = self.sql.unchecked_transaction().map_err(|e| self.failed(e))?;
        work(self)
    }

    pub(crate) fn collections(&self) -> Result<Vec<Stored>> {
        let sql = "SELECT uid, name, dim, fingerprint, model, metric, created, identity FROM collections ORDER BY name";
        self.all(sql, [], |row| {
            let metric: String = row.get(5)?;
            if metric != metric_name(Metric::Cosine) {
                return Ok(Err(self.corrupt(format!("unknown metric `{metric}`"))));
            }
            let dim = row.get(2)?;
            let (fingerprint, model, identity) = (row.get(3)?, row.get(4)?, row.get(7)?);
            let spec = Spec { dim, fingerprint, identity, model, metric: Metric::Cosine };
            Ok(Ok(Stored { uid: row.get(0)?, name: row.get(1)?, spec, created: row.get(6)? }))
        })
    }

    pub(crate) fn create_collection(&self, name: &str, spec: &Spec, created: u64) -> Result<i64> {
        let sql = "INSERT INTO collections (name, dim, fingerprint, model, metric, created, identity) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let Spec { dim, fingerprint, identity, model, metric } = spec;
        self.run(sql, params![name, dim, fingerprint, model, metric_name(*metric), created, identity])?;
        Ok(self.sql.last_insert_rowid())
    }

    /// Notes the identity of a collection's model.
    pub(crate) fn set_identity(&self, uid: i64, identity: &str) -> Result<()> {
        self.run("UPDATE collections SET identity = ?2 WHERE uid = ?1", params![uid, identity])
    }

    /// Deletes a collection; tells the name of its saved index.
    pub(crate) fn drop_collection(&self, uid: i64) -> Result<Option<String>> {
        let file = self.cache(uid)?.map(|c| c.file);
        self.run("DELETE FROM vectors WHERE seq IN (SELECT seq FROM points WHERE collection = ?1)", [uid])?;
        self.run("DELETE FROM points WHERE collection = ?1", [uid])?;
        self.run("DELETE FROM caches WHERE collection = ?1", [uid])?;
        self.run("DELETE FROM collections WHERE uid = ?1", [uid])?;
        Ok(file)
    }

    /// Every row in order: collection, number, id, vector.
    pub(crate) fn each_vector(
        &self,
        dim: impl Fn(i64) -> Option<usize>,
        mut see: impl FnMut(i64, i64, &str, &[f32]),
    ) -> Result<()> {
        let sql = "SELECT p.collection, p.seq, p.id, v.vector FROM points p LEFT JOIN vectors v ON v.seq = p.seq ORDER BY p.seq";
        self.each(sql, [], |row| {
            let (uid, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
            let id: String = row.get(2)?;
            let bytes = row.get_ref(3)?.as_blob_or_null().unwrap_or_default().unwrap_or_default();
            let vector = dim(uid).and_then(|dim| from_bytes(bytes, dim)).filter(|v| is_unit(v));
            match vector {
                Some(vector) => see(uid, seq, &id, &vector),
                None => return Ok(Err(self.corrupt(format!("the vector of point `{id}`")))),
            }
            Ok(Ok(()))
        })
    }

    /// Number of the point, if it is there.
    pub(crate) fn seq(&self, uid: i64, id: &str) -> Result<Option<i64>> {
        self.one("SELECT seq FROM points WHERE collection = ?1 AND id = ?2", params![uid, id], |row| {
            row.get(0)
        })
    }

    pub(crate) fn insert(&self, uid: i64, point: &Checked<'_>) -> Result<i64> {
        let sql = "INSERT INTO points (collection, id, payload) VALUES (?1, ?2, ?3)";
        self.run(sql, params![uid, point.id, point.payload])?;
        let seq = self.sql.last_insert_rowid();
        self.run("INSERT INTO vectors (seq, vector) VALUES (?1, ?2)", params![seq, to_bytes(&point.vector)])?;
        Ok(seq)
    }

    pub(crate) fn delete(&self, seq: i64) -> Result<()> {
        self.run("DELETE FROM points WHERE seq = ?1", [seq])?;
        self.run("DELETE FROM vectors WHERE seq = ?1", [seq])
    }

    pub(crate) fn entry(&self, uid: i64, id: &str) -> Result<Option<Entry>> {
        let sql = "SELECT seq, id, payload FROM points WHERE collection = ?1 AND id = ?2";
        self.one(sql, params![uid, id], |row| Ok(self.to_entry(row)))?.transpose()
    }

    pub(crate) fn payload(&self, seq: i64) -> Result<Option<Map<String, Value>>> {
        let sql = "SELECT seq, id, payload FROM points WHERE seq = ?1";
        let entry = self.one(sql, [seq], |row| Ok(self.to_entry(row)))?.transpose()?;
        Ok(entry.map(|e| e.payload))
    }

    pub(crate) fn record(&self, entry: Entry, dim: usize, with: With) -> Result<Record> {
        let vector = with.vector.then(|| self.vector(entry.seq, dim)).transpose()?;
        Ok(Record { id: entry.id, vector, payload: with.payload.then_some(entry.payload) })
    }

    fn vector(&self, seq: i64, dim: usize) -> Result<Vec<f32>> {
        let sql = "SELECT vector FROM vectors WHERE seq = ?1";
        let bytes: Option<Vec<u8>> = self.one(sql, [seq], |row| row.get(0))?;
        let vector = bytes.and_then(|b| from_bytes(&b, dim));
        vector.ok_or_else(|| self.corrupt(format!("the vector of row {seq}")))
    }

    /// Vector of the point, if it is there.
    pub(crate) fn vector_of(&self, uid: i64, id: &str, dim: usize) -> Result<Option<Vec<f32>>> {
        let sql = "SELECT v.vector FROM points p JOIN vectors v ON v.seq = p.seq WHERE p.collection = ?1 AND p.id = ?2";
        let bytes: Option<Vec<u8>> = self.one(sql, params![uid, id], |row| row.get(0))?;
        let broken = || self.corrupt(format!("the vector of point `{id}`"));
        bytes.map(|b| from_bytes(&b, dim).ok_or_else(broken)).transpose()
    }

    /// Payloads of the rows behind `after`, up to `upto`, in order.
    pub(crate) fn each_payload(&self, uid: i64, after: i64, mut see: impl FnMut(Entry)) -> Result<()> {
        let sql = "SELECT seq, id, payload FROM points WHERE collection = ?1 AND seq > ?2 ORDER BY seq";
        self.each(sql, params![uid, after], |row| Ok(self.to_entry(row).map(&mut see)))
    }

    /// Points in the order of ids, behind `after`, until `see` has enough.
    pub(crate) fn each_by_id(
        &self,
        uid: i64,
        after: Option<&str>,
        mut see: impl FnMut(Entry) -> Result<bool>,
    ) -> Result<()> {
        // no id is empty
        let sql = "SELECT seq, id, payload FROM points WHERE collection = ?1 AND id > ?2 ORDER BY id";
        let mut statement = self.sql.prepare_cached(sql).map_err(|e| self.failed(e))?;
        let mut rows = statement.query(params![uid, after.unwrap_or("")]).map_err(|e| self.failed(e))?;
        while let Some(row) = rows.next().map_err(|e| self.failed(e))? {
            if !see(self.to_entry(row)?)? {
                break;
            }
        }
        Ok(())
    }

    fn to_entry(&self, row: &Row<'_>) -> Result<Entry> {
        let text = |at| row.get_ref(at).and_then(|v| Ok(v.as_str()?)).map_err(|e| self.failed(e));
        let seq = row.get(0).map_err(|e| self.failed(e))?;
        let id = text(1)?.to_owned();
        let unread = |e| self.corrupt(format!("the payload of point `{id}`: {e}"));
        let payload = serde_json::from_str(text(2)?).map_err(unread)?;
        Ok(Entry { seq, id, payload })
    }

    /// The saved index of a collection.
    pub(crate) fn cache(&self, uid: i64) -> Result<Option<Cache>> {
        let sql = "SELECT file, format, bytes, sha256, c.dim, rows, upto FROM caches JOIN collections c ON c.uid = collection \
                   WHERE collection = ?1";
        self.one(sql, [uid], |row| {
            let shape = Shape { dim: row.get(4)?, rows: row.get(5)?, upto: row.get(6)? };
            let (file, format) = (row.get(0)?, row.get(1)?);
            Ok(Cache { file, format, bytes: row.get(2)?, sha256: row.get(3)?, shape })
        })
    }

    pub(crate) fn set_cache(&self, uid: i64, cache: &Cache) -> Result<()> {
        let Cache { file, format, bytes, sha256, shape } = cache;
        let sql = "INSERT OR REPLACE INTO caches VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        self.run(sql, params![uid, file, format, bytes, sha256, shape.rows, shape.upto])
    }

    pub(crate) fn forget_cache(&self, uid: i64) -> Result<()> {
        self.run("DELETE FROM caches WHERE collection = ?1", [uid])
    }

    fn run(&self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        let mut statement = self.sql.prepare_cached(sql).map_err(|e| self.failed(e))?;
        statement.execute(values).map(drop).map_err(|e| self.failed(e))
    }

    fn one<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        take: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.sql.prepare_cached(sql).map_err(|e| self.failed(e))?;
        statement.query_row(values, take).optional().map_err(|e| self.failed(e))
    }

    fn each(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        mut see: impl FnMut(&Row<'_>) -> rusqlite::Result<Result<()>>,
    ) -> Result<()> {
        let mut statement = self.sql.prepare_cached(sql).map_err(|e| self.failed(e))?;
        let mut rows = statement.query(values).map_err(|e| self.failed(e))?;
        while let Some(row) = rows.next().map_err(|e| self.failed(e))? {
            see(row).map_err(|e| self.failed(e))??;
        }
        Ok(())
    }

    fn all<T>(
        &self,
        sql: &str,
        values: impl rusqlite::Params,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<Result<T>>,
    ) -> Result<Vec<T>> {
        let mut found = Vec::new();
        self.each(sql, values, |row| Ok(take(row)?.map(|t| found.push(t))))?;
        Ok(found)
    }

    fn raw(&self, reason: rusqlite::Error) -> Error {
        Error::Database { path: self.path.clone(), reason }
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        failed(&self.path, error)
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::Corrupt { path: self.path.clone(), reason }
    }
}

fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine => "cosine",
    }
}

fn failed(path: &Path, reason: rusqlite::Error) -> Error {
    let path = path.to_owned();
    match reason.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            Error::Full { reason: format!("no space for `{}`: {reason}", path.display()) }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::Corrupt { path, reason: reason.to_string() }
        }
        None if !matches!(reason, rusqlite::Error::SqliteFailure(..)) => {
            // a value of another type than the schema's
            Error::Corrupt { path, reason: reason.to_string() }
        }
        _ => Error::Database { path, reason },
    }
}
