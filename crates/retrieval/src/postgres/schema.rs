//! The tables: who made them, in which version, and how they are made.
//!
//! A collection is a row of `collections` and a table of its own, which is called by its number: no name that a user gave is
//! ever a part of a statement. In it, `payload` is the JSON as it came, `facts` what filters see of it, `id` the bytes of the
//! id (their order is that of pages, whatever the database's collation).

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::address::Address;
use super::failure::{Attempt, Failure};
use super::pool;
use super::statement::Statement;
use crate::engine::{Info, Metric, Spec};
use crate::error::Error;

const VERSION: i64 = 1;
const APPLICATION: &str = "occlude";
/// Most numbers of the extension's `vector`.
pub(super) const MAX_DIM: usize = 16_000;
/// Most numbers that its index takes as halves.
pub(super) const MAX_INDEXED: usize = 4_000;
/// Vectors of so many numbers lie in the row itself, where a search that compares with all of them finds them faster.
const INLINE: usize = 1_900;

/// A collection as the database has it at a moment.
pub(super) struct Known {
    pub(super) uid: i64,
    pub(super) name: String,
    pub(super) spec: Spec,
    pub(super) count: usize,
    created: u64,
    /// Whether there is an approximate index.
    pub(super) near: bool,
}

impl Known {
    pub(super) fn table(&self) -> String {
        table(self.uid)
    }

    pub(super) fn info(self) -> Info {
        let indexed = if self.near { self.count } else { 0 };
        Info { name: self.name, spec: self.spec, count: self.count, indexed, created: self.created }
    }
}

pub(super) fn table(uid: i64) -> String {
    format!("points_{uid}")
}

/// The approximate index of a collection.
pub(super) fn index(uid: i64) -> String {
    format!("points_{uid}_near")
}

/// All collections, or the one of a name; `lock` is what the row is locked for.
pub(super) fn collections(name: Option<&str>, lock: &str) -> Statement {
    let mut statement = Statement::new(
        "SELECT uid, name, dim, fingerprint, identity, model, metric, created, count, EXISTS (SELECT FROM pg_index \
         WHERE indexrelid = to_regclass(format('points_%s_near', uid)) AND indisvalid) FROM collections",
    );
    if let Some(name) = name {
        let name = statement.bind(name.to_owned(), Type::TEXT);
        statement.push(&format!(" WHERE name = {name} {lock}"));
    } else {
        statement.push(" ORDER BY name");
    }
    statement
}

/// A row of [`collections`].
pub(super) fn known(row: &Row, address: &Address) -> Attempt<Known> {
    let metric: String = row.try_get(6)?;
    if metric != metric_name(Metric::Cosine) {
        return Err(server_error(address, format!("unknown metric `{metric}`")).into());
    }
    let spec = Spec {
        dim: row.try_get::<_, i32>(2)?.unsigned_abs() as usize,
        fingerprint: row.try_get(3)?,
        identity: row.try_get(4)?,
        model: row.try_get(5)?,
        metric: Metric::Cosine,
    };
    let number = |at| row.try_get::<_, i64>(at).map(i64::unsigned_abs);
    let (count, created) = (usize::try_from(number(8)?).unwrap_or(usize::MAX), number(7)?);
    Ok(Known { uid: row.try_get(0)?, name: row.try_get(1)?, spec, count, created, near: row.try_get(9)? })
}

pub(super) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Cosine => "cosine",
    }
}

/// The statements that make the table of a new collection.
pub(super) fn table_of(uid: i64, dim: usize) -> String {
    let table = table(uid);
    let inline = if dim > INLINE {
        String::new()
    } else {
        format!(
            "ALTER TABLE {table} ALTER COLUMN vector SET STORAGE PLAIN; ALTER TABLE {table} SET (toast_tuple_target = 8160);"
        )
    };
    format!(
        "CREATE TABLE {table} (id bytea PRIMARY KEY, payload text NOT NULL, facts jsonb NOT NULL, \
         vector vector({dim}) NOT NULL); {inline} \
         CREATE INDEX {table}_facts ON {table} USING gin (facts jsonb_path_ops)"
    )
}

/// Makes the tables, or checks that they are of this release. Of several servers that start at once, one makes them.
pub(super) async fn set_up(client: &mut Client, address: &Address) -> Attempt<()> {
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.try_get(0)?;
    if encoding != "UTF8" {
        let reason = format!("the database's encoding is `{encoding}`; hint: make it with `ENCODING 'UTF8'`");
        return Err(server_error(address, reason).into());
    }
    if !version_fits(client, address).await? {
        create(client, address).await?;
        pool::prepare(client, address).await?;
        version_fits(client, address).await?;
    }
    check_extension(client, address).await
}

/// The schema as a statement names it: it may be called as a word of SQL, and has no quote in it.
fn quoted(address: &Address) -> String {
    format!("\"{}\"", address.schema)
}

/// Whether the tables are there.
async fn version_fits(client: &Client, address: &Address) -> Attempt<bool> {
    let mut there = Statement::default();
    let name = there.bind(format!("{}.state", quoted(address)), Type::TEXT);
    there.push(&format!("SELECT to_regclass({name}) IS NOT NULL"));
    let there = there.first(client).await?.map(|row| row.try_get(0)).transpose()?;
    if there != Some(true) {
        return Ok(false);
    }
    let row = client.query_opt("SELECT application, version FROM state", &[]).await;
    let found = row.ok().flatten().and_then(|row| Some((row.try_get(0).ok()?, row.try_get(1).ok()?)));
    match found {
        Some((application, version)) if APPLICATION == String::as_str(&application) => {
            let path = address.to_string().into();
            if version > VERSION {
                Err(Error::Newer { path, found: version, known: VERSION }.into())
            } else {
                Ok(true)
            }
        }
        _ => {
            let reason = format!("its schema `{}` has tables of another program", address.schema);
            Err(Error::Foreign { path: address.to_string().into(), reason }.into())
        }
    }
}

async fn create(client: &mut Client, address: &Address) -> Attempt<()> {
    let schema = quoted(address);
    let tx = client.transaction().await?;
    // Until the transaction ends, other servers wait here, and then find the tables.
    tx.batch_execute("SELECT pg_advisory_xact_lock(hashtextextended('occlude', 0))").await?;
    tx.batch_execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public").await.map_err(|error| {
        let hint = "hint: install pgvector on the server, and let a role that may do so run `CREATE EXTENSION vector` in the \
                    database";
        server_error(address, format!("{}; {hint}", super::failure::told(&error, "pgvector")))
    })?;
    tx.batch_execute(&format!(
        "CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE IF NOT EXISTS {schema}.collections (
             uid bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             name text COLLATE \"C\" NOT NULL UNIQUE,
             dim integer NOT NULL,
             fingerprint text NOT NULL,
             identity text,
             model text NOT NULL,
             metric text NOT NULL,
             created bigint NOT NULL,
             count bigint NOT NULL DEFAULT 0
         );
         CREATE TABLE IF NOT EXISTS {schema}.state (
             one boolean PRIMARY KEY DEFAULT true CHECK (one),
             application text NOT NULL,
             version bigint NOT NULL,
             probed timestamptz NOT NULL DEFAULT now()
         );
         INSERT INTO {schema}.state (application, version) VALUES ('{APPLICATION}', {VERSION}) ON CONFLICT DO NOTHING;"
    ))
    .await?;
    tx.commit().await.map_err(Failure::Commit)
}

/// Half numbers came with 0.7, searches that go on until enough rows match with 0.8.
async fn check_extension(client: &Client, address: &Address) -> Attempt<()> {
    let found = client.query_opt("SELECT extversion FROM pg_extension WHERE extname = 'vector'", &[]).await?;
    let found: Option<String> = found.map(|row| row.try_get(0)).transpose()?;
    let mut parts =
        found.iter().flat_map(|version| version.split('.')).map_while(|part| part.parse::<u32>().ok());
    if (parts.next(), parts.next()) >= (Some(0), Some(8)) {
        return Ok(());
    }
    let found =
        found.map_or_else(|| "is not installed".to_owned(), |version| format!("has version `{version}`"));
    let reason = format!(
        "the extension pgvector {found}, 0.8 or later is needed; hint: install it, then run `CREATE EXTENSION vector`, or `ALTER \
         EXTENSION vector UPDATE`"
    );
    Err(server_error(address, reason).into())
}

pub(super) fn server_error(address: &Address, reason: String) -> Error {
    Error::Server { server: address.to_string(), reason }
}
