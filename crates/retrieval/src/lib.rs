//! Named collections of vectors with payloads, for a server's retrieval API.
//!
//! [`Store`] keeps collections in one SQLite file, which is the truth: what was acknowledged survives a crash at any
//! moment. Vectors also live in memory, once, as `f32` rows of length 1; an approximate index over 8-bit copies
//! (HNSW, <https://arxiv.org/abs/1603.09320>, by `usearch`) is a cache that is rebuilt when it is missing. Every score
//! that is told is the exact cosine: the approximate index only proposes candidates. [`Engine`] is what a server
//! needs of a store. `Postgres` is another one, for several servers at once: the same operations, answers and errors on a
//! PostgreSQL database with the extension pgvector. `Milvus` is a third, whose documentation says what that database cannot
//! promise. [`Location`] is any of them, as a user names it.
//!
//! A collection carries the identity of the model that made its vectors: a hash over all that changes its numbers.
//! Writes and searches state theirs, and another one is refused: vectors of different models do not compare, and nothing
//! else would tell.
//!
//! # Memory
//! A row takes `4 × dim` bytes in the matrix, `dim + 150` or so in the approximate index, and the id with 60 bytes
//! around it: a million vectors of 2048 numbers take 8.2 GB and 2.2 GB, of 512 numbers 2.0 GB and 0.7 GB. Payloads
//! stay on disk; the last filters' matches are kept as 8 bytes a match. [`Options::max_memory`] bounds the matrix.
//!
//! # Threads
//! All methods take `&self`. Writes happen one after the other; searches see memory, which is brought up to date
//! after a commit in microseconds, and never wait for the disk to sync. Nothing happens in the background:
//! [`Engine::maintain`] brings the approximate index up to date, on a thread of the caller's, and until it does,
//! rows that the index lacks are compared exactly.
//!
//! ```
//! use occlude_retrieval::{Engine, Filter, Metric, Options, Point, Query, Spec, Store};
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//!
//! let store = Store::open(dir, &Options::default())?;
//! let (dim, model, metric) = (3, "resnet50".into(), Metric::Cosine);
//! let spec = Spec { dim, fingerprint: "5eed".into(), identity: Some("1d".into()), model, metric };
//! store.create_collection("shop", &spec)?;
//! let payload = serde_json::from_str(r#"{"class": "dress", "price": 40}"#).unwrap();
//! store.upsert("shop", "1d", &[Point { id: "a".into(), vector: vec![0.0, 3.0, 4.0], payload }])?;
//! let filter: Filter = serde_json::from_str(r#"{"must": [{"key": "price", "range": {"lt": 50}}]}"#).unwrap();
//! let hits = store.search("shop", "1d", &Query { filter: Some(filter), ..Query::vector(vec![0.0, 0.0, 1.0], 10) })?;
//! assert_eq!((hits[0].id.as_str(), hits[0].score), ("a", 0.8));
//! # Ok::<(), occlude_retrieval::Error>(())
//! ```

mod ann;
mod candidates;
mod check;
mod collection;
mod database;
mod engine;
mod error;
#[cfg(any(feature = "milvus", feature = "postgres"))]
mod facts;
mod filter;
mod location;
mod lock;
mod maintain;
#[cfg(feature = "milvus")]
mod milvus;
mod operations;
#[cfg(feature = "postgres")]
mod postgres;
mod reserve;
mod rows;
mod search;
#[cfg(any(feature = "milvus", feature = "postgres"))]
mod secret;
mod store;
mod top;
mod vector;
mod vectors;

pub use check::{MAX_BATCH, MAX_DIM, MAX_ID_BYTES, MAX_K, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH};
pub use engine::{
    Engine, Hit, Info, Maintained, Metric, Page, Point, Query, Record, Spec, Target, Upserted, With,
};
pub use error::{Error, Kind, Result};
pub use filter::{Clause, Condition, Filter, MAX_CLAUSES, MAX_DEPTH, MAX_KEY_BYTES, MAX_VALUES, Range};
pub use location::Location;
#[cfg(feature = "milvus")]
pub use milvus::{Milvus, MilvusAddress};
#[cfg(feature = "postgres")]
pub use postgres::{Address, Postgres};
pub use store::{Options, Store};
pub use vectors::Vectors;
