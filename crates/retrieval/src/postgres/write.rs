//! What changes the database: each change is one transaction.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use super::Postgres;
use super::facts::facts;
use super::failure::{Attempt, Failure};
use super::schema::{self, Known};
use super::statement::Statement;
use crate::check::{self, Checked};
use crate::engine::{Info, Point, Spec, Upserted};
use crate::error::{Error, Result};
use crate::filter::Filter;

/// Numbers of vectors that go into one statement: 16 MB.
const NUMBERS: usize = 4 << 20;

/// The row stays as it is until the transaction ends; others may write points meanwhile.
const SHARED: &str = "FOR KEY SHARE";
/// Nobody else writes to the collection until the transaction ends.
const ALONE: &str = "FOR UPDATE";

/// Points that are to go.
pub(super) enum Which<'a> {
    Ids(&'a [String]),
    Filter(&'a Filter),
}

/// What the tables cannot hold, of a collection that is well formed.
pub(super) fn fits(spec: &Spec) -> Result<()> {
    let labels = [
        ("`fingerprint`", Some(&spec.fingerprint)),
        ("`model`", Some(&spec.model)),
        ("`identity`", spec.identity.as_ref()),
    ];
    for (what, label) in labels {
        if label.is_some_and(|label| label.contains('\0')) {
            return Err(Error::value(what, "text without the character U+0000", "one with it"));
        }
    }
    if spec.dim > schema::MAX_DIM {
        let expected = format!("1 to {} in PostgreSQL", schema::MAX_DIM);
        return Err(Error::value("`dim`", expected, spec.dim.to_string()));
    }
    Ok(())
}

async fn begin(client: &mut Client) -> Attempt<Transaction<'_>> {
    Ok(client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await?)
}

async fn commit(tx: Transaction<'_>) -> Attempt<()> {
    tx.commit().await.map_err(Failure::Commit)
}

/// Points by id; the last of each, in the order of ids, so that transactions that write the same do not wait for each other in
/// a circle. Each with its facts.
fn sorted(points: &[Point], dim: usize) -> Result<Vec<(Checked<'_>, String)>> {
    let mut checked = check::points(points, dim)?;
    checked.sort_by_key(|point| point.id);
    let with_facts = checked.into_iter().map(|point| {
        let payload: Map<String, Value> = serde_json::from_str(&point.payload).unwrap_or_default();
        (point, facts(&payload))
    });
    Ok(with_facts.collect())
}

impl Postgres {
    pub(super) async fn create(&self, client: &mut Client, name: &str, spec: &Spec) -> Attempt<Info> {
        let tx = begin(client).await?;
        // One after the other: the number of collections is bounded.
        let mut lock = Statement::default();
        let schema = lock.bind(self.address.schema.clone(), Type::TEXT);
        lock.push(&format!("SELECT pg_advisory_xact_lock(hashtextextended('occlude.' || {schema}, 1))"));
        lock.query(&tx).await?;
        let known: i64 = tx.query_one("SELECT count(*) FROM collections", &[]).await?.try_get(0)?;
        let mut insert = Statement::default();
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let values = [
            insert.bind(name.to_owned(), Type::TEXT),
            insert.bind(i32::try_from(spec.dim).unwrap_or(i32::MAX), Type::INT4),
            insert.bind(spec.fingerprint.clone(), Type::TEXT),
            insert.bind(spec.identity.clone(), Type::TEXT),
            insert.bind(spec.model.clone(), Type::TEXT),
            insert.bind(schema::metric_name(spec.metric).to_owned(), Type::TEXT),
            insert.bind(i64::try_from(created).unwrap_or(i64::MAX), Type::INT8),
        ];
        insert.push(&format!(
            "INSERT INTO collections (name, dim, fingerprint, identity, model, metric, created) VALUES ({}) \
             ON CONFLICT (name) DO NOTHING RETURNING uid",
            values.join(", ")
        ));
        let Some(row) = insert.first(&tx).await? else {
            return Err(Error::Exists { name: name.to_owned() }.into());
        };
        if usize::try_from(known).unwrap_or(usize::MAX) >= check::MAX_COLLECTIONS {
            return Err(
                Error::Full { reason: format!("{} collections at most", check::MAX_COLLECTIONS) }.into()
            );
        }
        tx.batch_execute(&schema::table_of(row.try_get(0)?, spec.dim)).await?;
        let info = self.find(&tx, name, "").await?.info();
        commit(tx).await?;
        Ok(info)
    }

    pub(super) async fn note_identity(&self, client: &mut Client, name: &str, spec: &Spec) -> Attempt<Info> {
        let tx = begin(client).await?;
        let mut there = self.find(&tx, name, ALONE).await?;
        let Some(identity) = &spec.identity else { return Ok(there.info()) };
        let same = (&there.spec.fingerprint, there.spec.dim) == (&spec.fingerprint, spec.dim);
        if there.spec.identity.is_none() && same {
            let mut update = Statement::default();
            let (uid, noted) =
                (update.bind(there.uid, Type::INT8), update.bind(identity.clone(), Type::TEXT));
            update.push(&format!("UPDATE collections SET identity = {noted} WHERE uid = {uid}"));
            update.query(&tx).await?;
            commit(tx).await?;
            there.spec.identity = Some(identity.clone());
        } else if there.spec.maker() != identity {
            let (expected, found) = (there.spec.maker().to_owned(), identity.clone());
            return Err(Error::Fingerprint { collection: name.to_owned(), expected, found }.into());
        }
        Ok(there.info())
    }

    pub(super) async fn drop_one(&self, client: &mut Client, name: &str) -> Attempt<()> {
        let tx = begin(client).await?;
        let mut delete = Statement::default();
        let bound = delete.bind(name.to_owned(), Type::TEXT);
        delete.push(&format!("DELETE FROM collections WHERE name = {bound} RETURNING uid"));
        let row = delete.first(&tx).await?.ok_or_else(|| Error::no_collection(name))?;
        tx.batch_execute(&format!("DROP TABLE {}", schema::table(row.try_get(0)?))).await?;
        commit(tx).await
    }

    pub(super) async fn put(
        &self,
        client: &mut Client,
        name: &str,
        maker: &str,
        points: &[Point],
    ) -> Attempt<Upserted> {
        let tx = begin(client).await?;
        let collection = self.find(&tx, name, SHARED).await?;
        collection.spec.check_maker(&collection.name, maker)?;
        let points = sorted(points, collection.spec.dim)?;
        let mut added = 0;
        for some in points.chunks((NUMBERS / collection.spec.dim.max(1)).max(1)) {
            added += insert(&tx, &collection, some).await?;
        }
        grow(&tx, &collection, i64::try_from(added).unwrap_or(i64::MAX)).await?;
        commit(tx).await?;
        Ok(Upserted { added, replaced: points.len() - added })
    }

    pub(super) async fn remove(&self, client: &mut Client, name: &str, which: &Which<'_>) -> Attempt<usize> {
        let tx = begin(client).await?;
        let collection = self.find(&tx, name, SHARED).await?;
        let mut delete = Statement::default();
        let condition = match which {
            Which::Ids(ids) => format!("id = ANY ({})", delete.bind_ids(ids.iter().map(String::as_str))),
            Which::Filter(filter) => delete.filter(filter),
        };
        delete.push(&format!(
            "WITH gone AS (DELETE FROM {} WHERE {condition} RETURNING 1) SELECT count(*) FROM gone",
            collection.table()
        ));
        let gone: i64 = delete.first(&tx).await?.map_or(Ok(0), |row| row.try_get(0))?;
        grow(&tx, &collection, -gone).await?;
        commit(tx).await?;
        Ok(usize::try_from(gone).unwrap_or(0))
    }
}

/// Puts points into a collection, each id at most once; tells how many were not there.
async fn insert(
    tx: &Transaction<'_>,
    collection: &Known,
    points: &[(Checked<'_>, String)],
) -> Attempt<usize> {
    let (table, dim) = (collection.table(), collection.spec.dim);
    let mut insert = Statement::default();
    let ids = insert.bind_ids(points.iter().map(|(point, _)| point.id));
    let payloads: Vec<String> = points.iter().map(|(point, _)| point.payload.clone()).collect();
    let facts: Vec<String> = points.iter().map(|(_, facts)| facts.clone()).collect();
    let (payloads, facts) = (insert.bind(payloads, Type::TEXT_ARRAY), insert.bind(facts, Type::TEXT_ARRAY));
    let numbers: Vec<f32> = points.iter().flat_map(|(point, _)| point.vector.iter().copied()).collect();
    let numbers = insert.bind_numbers(&numbers);
    // `xmax` tells a row that took another's place: it is locked first.
    insert.push(&format!(
        "WITH done AS (INSERT INTO {table} (id, payload, facts, vector) \
             SELECT id, payload, facts::jsonb, ({numbers})[(n::int - 1) * {dim} + 1 : n::int * {dim}]::vector \
             FROM unnest({ids}, {payloads}, {facts}) WITH ORDINALITY AS given (id, payload, facts, n) ORDER BY id \
             ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, facts = excluded.facts, vector = excluded.vector \
             RETURNING xmax = 0 AS new) \
         SELECT count(*) FILTER (WHERE new) FROM done"
    ));
    let added: i64 = insert.first(tx).await?.map_or(Ok(0), |row| row.try_get(0))?;
    Ok(usize::try_from(added).unwrap_or(0))
}

/// Keeps the number of points. Last in a transaction: others that change it wait from here on.
async fn grow(tx: &Transaction<'_>, collection: &Known, more: i64) -> Attempt<()> {
    if more != 0 {
        let mut update = Statement::default();
        let (uid, more) = (update.bind(collection.uid, Type::INT8), update.bind(more, Type::INT8));
        update.push(&format!("UPDATE collections SET count = count + {more} WHERE uid = {uid}"));
        update.query(tx).await?;
    }
    Ok(())
}
