//! Collections in PostgreSQL with the extension pgvector.
//!
//! Everything is in the database; this process keeps nothing that another one could contradict, so that several servers may
//! share one. An exact search sorts in the database and is scored here, by the arithmetic of the other engine: both tell the
//! same scores in the same order. Large collections get an HNSW index over halves of the numbers, which proposes
//! candidates.

mod address;
mod facts;
mod failure;
mod index;
mod password;
mod pool;
mod read;
mod schema;
mod search;
mod statement;
mod tls;
mod write;

use deadpool::managed::Pool;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, GenericClient};

pub use address::Address;

use self::failure::Attempt;
use self::pool::Connector;
use self::schema::Known;
use crate::check;
use crate::engine::{Engine, Hit, Info, Maintained, Page, Point, Query, Record, Spec, Upserted, With};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::store::Options;

/// How often a piece of work is begun again that another server's got in the way of, or that found its connection broken.
const TRIES: usize = 5;

/// Collections in a database of PostgreSQL. Any number of servers may have them open at once.
///
/// Methods wait for the database: call them on a thread that may block, not within an async task. While the database is gone
/// they fail with [`Kind::Unavailable`](crate::Kind::Unavailable); when it is back they work again.
pub struct Postgres {
    pool: Pool<Connector>,
    /// Drives the connections; None once the engine is given up.
    runtime: Option<Runtime>,
    address: Address,
    /// As in [`Options`].
    exact_numbers: usize,
}

impl Postgres {
    /// Opens the collections of a database, and makes the tables where there are none. Of the options, `exact_numbers`
    /// counts: memory and disk are the database's.
    pub fn open(address: &Address, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| schema::server_error(address, error.to_string()))?;
        let (pool, exact_numbers) = (pool::pool(address)?, options.exact_numbers);
        let engine = Self { pool, runtime: Some(runtime), address: address.clone(), exact_numbers };
        engine.run(async |client| schema::set_up(client, address).await)?;
        Ok(engine)
    }

    /// Does `work` on a connection, again where it only was in another's way.
    fn run<T>(&self, work: impl AsyncFnMut(&mut Client) -> Attempt<T>) -> Result<T> {
        self.attempt(work).map_err(|failure| failure.told(&self.address.to_string()))
    }

    /// [`Self::run`] on a collection, which may be dropped meanwhile.
    fn run_on<T>(&self, name: &str, work: impl AsyncFnMut(&mut Client) -> Attempt<T>) -> Result<T> {
        self.attempt(work).map_err(|failure| match failure {
            failure if failure.is_of_a_dropped_table() => Error::no_collection(name),
            failure => failure.told(&self.address.to_string()),
        })
    }

    fn attempt<T>(&self, mut work: impl AsyncFnMut(&mut Client) -> Attempt<T>) -> Attempt<T> {
        let gone = || schema::server_error(&self.address, "the engine was given up".to_owned());
        let runtime = self.runtime.as_ref().ok_or_else(gone)?;
        runtime.block_on(async {
            for attempt in 1.. {
                let mut client = pool::take(&self.pool, &self.address).await?;
                match work(&mut client).await {
                    Err(failure) if attempt < TRIES && failure.passes() => {}
                    done => return done,
                }
            }
            Err(gone().into())
        })
    }

    /// A collection as it is now; `lock` is what its row is locked for.
    async fn find(&self, client: &impl GenericClient, name: &str, lock: &str) -> Attempt<Known> {
        let row = schema::collections(Some(name), lock).first(client).await?;
        schema::known(&row.ok_or_else(|| Error::no_collection(name))?, &self.address)
    }
}

impl Drop for Postgres {
    /// Waits for nothing: this may happen on a thread that must not.
    fn drop(&mut self) {
        self.pool.close();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Engine for Postgres {
    fn create_collection(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::name(name)?;
        check::spec(spec)?;
        write::fits(spec)?;
        self.run(async |client| self.create(client, name, spec).await)
    }

    fn adopt(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::spec(spec)?;
        write::fits(spec)?;
        self.run_on(name, async |client| self.note_identity(client, name, spec).await)
    }

    fn collections(&self) -> Result<Vec<Info>> {
        self.run(async |client| {
            let rows = schema::collections(None, "").query(client).await?;
            rows.iter().map(|row| schema::known(row, &self.address).map(Known::info)).collect()
        })
    }

    fn collection(&self, name: &str) -> Result<Info> {
        self.run_on(name, async |client| self.find(client, name, "").await.map(Known::info))
    }

    fn drop_collection(&self, name: &str) -> Result<()> {
        self.run_on(name, async |client| self.drop_one(client, name).await)
    }

    fn upsert(&self, name: &str, maker: &str, points: &[Point]) -> Result<Upserted> {
        self.run_on(name, async |client| self.put(client, name, maker, points).await)
    }

    fn delete(&self, name: &str, ids: &[String]) -> Result<usize> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        self.run_on(name, async |client| self.remove(client, name, &write::Which::Ids(ids)).await)
    }

    fn delete_where(&self, name: &str, filter: &Filter) -> Result<usize> {
        self.run_on(name, async |client| self.remove(client, name, &write::Which::Filter(filter)).await)
    }

    fn get(&self, name: &str, ids: &[String], with: With) -> Result<Vec<Record>> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        self.run_on(name, async |client| self.by_ids(client, name, ids, with).await)
    }

    fn scroll(&self, name: &str, page: &Page) -> Result<Vec<Record>> {
        check::within("`limit`", page.limit, check::MAX_K)?;
        self.run_on(name, async |client| self.page(client, name, page).await)
    }

    fn count(&self, name: &str, filter: Option<&Filter>) -> Result<usize> {
        self.run_on(name, async |client| self.number(client, name, filter).await)
    }

    fn search(&self, name: &str, maker: &str, query: &Query) -> Result<Vec<Hit>> {
        self.run_on(name, async |client| {
            let collection = self.find(client, name, "").await?;
            collection.spec.check_maker(&collection.name, maker)?;
            self.nearest(client, &collection, query).await
        })
    }

    fn probe(&self) -> Result<()> {
        self.run(async |client| {
            client.execute("UPDATE state SET probed = now()", &[]).await?;
            Ok(())
        })
    }

    fn maintain(&self, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Maintained> {
        let mut done = Maintained::default();
        for collection in self.collections()? {
            if go_on() && self.wants_index(&collection) {
                self.run(async |client| self.build(client, &collection.name, go_on, &mut done).await)?;
            }
        }
        Ok(done)
    }
}
