//! The approximate indexes: built beside searches and writes, by one server at a time.

use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{CancelToken, Client};

use super::failure::Attempt;
use super::schema::{self, Known};
use super::statement::Statement;
use super::{Postgres, pool};
use crate::ann::EXPANSION_ADD;
use crate::engine::{Info, Maintained};

/// Time between looks at whether building is to go on.
const LOOK: Duration = Duration::from_millis(200);

impl Postgres {
    pub(super) fn wants_index(&self, info: &Info) -> bool {
        let numbers = info.count.saturating_mul(info.spec.dim);
        info.indexed == 0 && numbers > self.exact_numbers && info.spec.dim <= schema::MAX_INDEXED
    }

    /// Builds the index of a collection, unless another server is at it.
    pub(super) async fn build(
        &self,
        client: &Client,
        name: &str,
        go_on: &(dyn Fn() -> bool + Sync),
        done: &mut Maintained,
    ) -> Attempt<()> {
        let row = schema::collections(Some(name), "").first(client).await?;
        let Some(row) = row else { return Ok(()) };
        let collection = schema::known(&row, &self.address)?;
        if collection.near || !self.lock(client, &collection, "pg_try_advisory_lock").await? {
            return Ok(());
        }
        let built = self.build_alone(client, &collection, go_on).await;
        // Given up with the connection, where that broke.
        let unlocked = self.lock(client, &collection, "pg_advisory_unlock").await;
        match built {
            Ok(true) => done.indexed += collection.count,
            Ok(false) => {}
            Err(failure) if failure.is_of_a_dropped_table() => {}
            Err(failure) => {
                let why = failure.told(&self.address.to_string());
                done.failed.push(format!("index of `{}`: {why}", collection.name));
            }
        }
        unlocked.map(drop)
    }

    /// A lock of this session's, of the collection's own.
    async fn lock(&self, client: &Client, collection: &Known, function: &str) -> Attempt<bool> {
        let mut select = Statement::default();
        let key = select.bind(format!("{}.{}", self.address.schema, collection.uid), Type::TEXT);
        select.push(&format!("SELECT {function}(hashtextextended('occlude index ' || {key}, 2))"));
        Ok(select.first(client).await?.map_or(Ok(false), |row| row.try_get(0))?)
    }

    /// Whether the index was built: it may have been stopped. It takes as long as it takes, whatever time statements of the
    /// role have.
    async fn build_alone(
        &self,
        client: &Client,
        collection: &Known,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Attempt<bool> {
        client.batch_execute("SET statement_timeout = 0").await?;
        let built = self.build_in_any_time(client, collection, go_on).await;
        // the connection is others' afterwards
        client.batch_execute("RESET statement_timeout").await?;
        built
    }

    async fn build_in_any_time(
        &self,
        client: &Client,
        collection: &Known,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Attempt<bool> {
        let (table, index, dim) = (collection.table(), schema::index(collection.uid), collection.spec.dim);
        // What a server left that was stopped while it built.
        let clear = format!("DROP INDEX CONCURRENTLY IF EXISTS {index}");
        client.batch_execute(&clear).await?;
        let build = format!(
            "CREATE INDEX CONCURRENTLY {index} ON {table} USING hnsw ((vector::halfvec({dim})) halfvec_ip_ops) \
             WITH (m = 16, ef_construction = {EXPANSION_ADD})"
        );
        let token = client.cancel_token();
        let mut building = std::pin::pin!(client.batch_execute(&build));
        let mut cancelled = false;
        let built = loop {
            tokio::select! {
                built = &mut building => break built,
                () = tokio::time::sleep(LOOK) => {
                    if !go_on() || self.is_waited_for(&table).await.unwrap_or(false) {
                        cancelled = true;
                        self.cancel(&token).await;
                    }
                }
            }
        };
        if let Err(error) = built {
            let stopped = cancelled && error.code() == Some(&tokio_postgres::error::SqlState::QUERY_CANCELED);
            client.batch_execute(&clear).await?;
            return if stopped { Ok(false) } else { Err(error.into()) };
        }
        client.batch_execute(&format!("ANALYZE {table}")).await?;
        Ok(true)
    }

    /// Whether somebody waits to drop the table: an index that is built makes them wait.
    async fn is_waited_for(&self, table: &str) -> Attempt<bool> {
        let client = pool::take(&self.pool, &self.address).await?;
        let mut select = Statement::default();
        let table = select.bind(table.to_owned(), Type::TEXT);
        select.push(&format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = to_regclass({table}) AND NOT granted \
             AND mode = 'AccessExclusiveLock')"
        ));
        Ok(select.first(&*client).await?.map_or(Ok(false), |row| row.try_get(0))?)
    }

    /// One that does not reach the server changes nothing: the next look sends another.
    async fn cancel(&self, token: &CancelToken) {
        let _ = token.cancel_query(self.pool.manager().tls.clone()).await;
    }
}
