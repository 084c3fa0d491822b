//! Collections in Milvus, 2.3 or later.
//!
//! Everything is in the cluster; this process keeps nothing that another one could contradict, so that several servers may
//! share one. Answers, scores and orders are those of the other engines. What Milvus cannot promise:
//!
//! * **All or none.** A change of one message (32 MB of points) is acknowledged as one, but other clients may see it in part
//!   while it is made; a larger one, or one whose connection broke, may have been made in part. Made again it is whole: an
//!   upsert of the same points changes nothing. A deletion by filter looks first and deletes then, in parts.
//! * **Counts of what was new.** They are asked for before the change; another server may write in between.
//! * **Exact search.** From 1,024 rows on a search asks an index; `exact` reads every vector from the cluster. Rows lie in the
//!   HNSW index once [`Engine::maintain`] or Milvus itself has sealed them; before that Milvus proposes from a coarse index
//!   of its own (`queryNode.segcore.interimIndex` in its configuration), which finds less. Collections that are made with
//!   `index=flat` in the address have no index: all is exact, and slower.
//! * **Payloads of any content.** One has 4,096 facts at most ([`facts`]), a number being nineteen.
//! * **A model that is noted once.** Of two servers that [adopt](Engine::adopt) a collection at the same time for different
//!   models, the later one counts; who drops and makes a collection again while another writes may find its points in it.

mod address;
mod client;
mod facts;
mod failure;
mod message;
mod read;
mod rows;
mod schema;
mod search;
mod write;

use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

pub use address::MilvusAddress;

use self::address::Index;
use self::client::{Client, Freshness};
use self::failure::{Attempt, Failure};
use self::message::{GetVersionRequest, GetVersionResponse};
use self::schema::Known;
use crate::check;
use crate::engine::{Engine, Hit, Info, Maintained, Page, Point, Query, Record, Spec, Upserted, With};
use crate::error::{Error, Kind, Result};
use crate::filter::Filter;

/// The oldest release with arrays of integers in expressions.
const OLDEST: [u32; 3] = [2, 3, 2];
/// Rows that lie in no index before they are put into one.
const UNSEALED: usize = 1 << 14;

/// Collections in a database of Milvus. Any number of servers may have them open at once.
///
/// Methods wait for the cluster: call them on a thread that may block, not within an async task. While it is gone they fail with
/// [`Kind::Unavailable`]; when it is back they work again.
pub struct Milvus {
    client: Client,
    /// Drives the connection; None once the engine is given up.
    runtime: Option<Runtime>,
}

impl Milvus {
    /// Opens the collections of a database, which must be there.
    pub fn open(address: &MilvusAddress) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| refused(address, error.to_string()))?;
        let client = {
            let _within = runtime.enter();
            Client::new(address)?
        };
        let engine = Self { client, runtime: Some(runtime) };
        let found: GetVersionResponse =
            engine.run(async || engine.client.call("GetVersion", GetVersionRequest {}).await)?;
        if is_too_old(&found.version) {
            let [major, minor, patch] = OLDEST;
            let reason =
                format!("it is Milvus {}, {major}.{minor}.{patch} or later is needed", found.version);
            return Err(refused(address, reason));
        }
        // The database is there, and may be read.
        engine.run(async || engine.names().await)?;
        Ok(engine)
    }

    fn run<T>(&self, work: impl AsyncFnOnce() -> Attempt<T>) -> Result<T> {
        let told = |failure: Failure| failure.told(&self.client.address.to_string());
        let gone = || refused(&self.client.address, "the engine was given up".to_owned());
        self.runtime.as_ref().ok_or_else(gone)?.block_on(work()).map_err(told)
    }

    /// [`Self::run`] on a collection, which may be dropped meanwhile; one that is not loaded is, once.
    fn run_on<T>(&self, name: &str, mut work: impl AsyncFnMut(&Known) -> Attempt<T>) -> Result<T> {
        check::name(name).map_err(|_| Error::no_collection(name))?;
        self.run(async || {
            let known = self.find(name).await?;
            match work(&known).await {
                Err(failure) if failure.is_of_what_is_not_loaded() => {
                    self.make_ready(&known).await?;
                    work(&known).await
                }
                Err(failure) if failure.is_of_a_missing_collection() => {
                    Err(Error::no_collection(name).into())
                }
                done => done,
            }
        })
    }

    /// Puts what lies in no index into one, where that is much, and waits for it.
    async fn index(&self, known: &Known, go_on: &(dyn Fn() -> bool + Sync)) -> Attempt<usize> {
        // Asked every few seconds: what was just written can wait.
        let count = self.number(known, None, Freshness::ANY).await?;
        let before = self.indexed(known).await?;
        if known.index == Index::Flat || count < before + UNSEALED {
            return Ok(0);
        }
        match self.seal(known).await {
            // Another server has had it done a moment ago.
            Err(failure) if failure.is_of_too_many_requests() => {}
            done => done?,
        }
        let (mut indexed, mut grew) = (before, Instant::now());
        // Rows of small segments are in none, and never will be: what does not grow is done.
        while indexed < count && go_on() && grew.elapsed() < Duration::from_secs(60) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = self.indexed(known).await?;
            if now > indexed {
                (indexed, grew) = (now, Instant::now());
            }
        }
        Ok(indexed.saturating_sub(before))
    }
}

impl Drop for Milvus {
    /// Waits for nothing: this may happen on a thread that must not.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn refused(address: &MilvusAddress, reason: String) -> Error {
    Error::Server { server: address.to_string(), reason }
}

/// Whether a release, as `v2.3.5-lite`, is known to be too old; what is written otherwise is taken.
fn is_too_old(version: &str) -> bool {
    let parts = version.trim_start_matches('v').split(['.', '-']);
    let numbers: Vec<u32> = parts.map_while(|part| part.parse().ok()).collect();
    numbers.len() >= 2 && numbers < OLDEST.to_vec()
}

impl Engine for Milvus {
    fn create_collection(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::name(name)?;
        check::spec(spec)?;
        self.run(async || self.create(name, spec).await)
    }

    fn adopt(&self, name: &str, spec: &Spec) -> Result<Info> {
        check::spec(spec)?;
        self.run_on(name, async |_| self.note_identity(name, spec).await)
    }

    fn collections(&self) -> Result<Vec<Info>> {
        self.run(async || self.all().await)
    }

    fn collection(&self, name: &str) -> Result<Info> {
        self.run_on(name, async |_| {
            let known = self.find(name).await?;
            self.info(&known).await
        })
    }

    fn drop_collection(&self, name: &str) -> Result<()> {
        self.run_on(name, async |_| self.drop_one(name).await)
    }

    fn upsert(&self, name: &str, maker: &str, points: &[Point]) -> Result<Upserted> {
        self.run_on(name, async |known| {
            known.spec.check_maker(&known.name, maker)?;
            self.put(known, points).await
        })
    }

    fn delete(&self, name: &str, ids: &[String]) -> Result<usize> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        self.run_on(name, async |known| self.remove(known, ids).await)
    }

    fn delete_where(&self, name: &str, filter: &Filter) -> Result<usize> {
        self.run_on(name, async |known| self.remove_where(known, filter).await)
    }

    fn get(&self, name: &str, ids: &[String], with: With) -> Result<Vec<Record>> {
        check::at_most("ids at once", ids.len(), check::MAX_BATCH)?;
        self.run_on(name, async |known| self.by_ids(known, ids, None, with, self.client.freshness()).await)
    }

    fn scroll(&self, name: &str, page: &Page) -> Result<Vec<Record>> {
        check::within("`limit`", page.limit, check::MAX_K)?;
        self.run_on(name, async |known| self.page(known, page).await)
    }

    fn count(&self, name: &str, filter: Option<&Filter>) -> Result<usize> {
        self.run_on(name, async |known| self.number(known, filter, self.client.freshness()).await)
    }

    fn search(&self, name: &str, maker: &str, query: &Query) -> Result<Vec<Hit>> {
        self.run_on(name, async |known| {
            known.spec.check_maker(&known.name, maker)?;
            self.nearest(known, query).await
        })
    }

    /// Whether the cluster answers; that a write would succeed is not known before one.
    fn probe(&self) -> Result<()> {
        self.run(async || self.names().await.map(drop))
    }

    fn maintain(&self, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Maintained> {
        let mut done = Maintained::default();
        for name in self.run(async || self.names().await)? {
            if !go_on() {
                break;
            }
            match self.run_on(&name, async |known| self.index(known, go_on).await) {
                Ok(indexed) => done.indexed += indexed,
                Err(Error::NoCollection { .. } | Error::Foreign { .. }) => {}
                Err(error) if error.kind() == Kind::Unavailable => return Err(error),
                Err(error) => done.failed.push(format!("collection `{name}`: {error}")),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_releases_are_known() {
        for old in ["v2.2.16", "2.3.1", "v1.1", "v2.3-dev"] {
            assert!(is_too_old(old), "{old}");
        }
        for new in ["v2.3.5-lite", "2.3.2", "v2.4.0-rc.1", "2.6.0", "v3.0", "a-build", ""] {
            assert!(!is_too_old(new), "{new}");
        }
    }
}
