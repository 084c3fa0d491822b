//! The store from outside: what it does, what it refuses, what survives.

mod approximate;
#[cfg(feature = "milvus")]
#[path = "../milvus/mod.rs"]
mod cluster;
#[cfg(any(feature = "milvus", feature = "postgres"))]
mod compared;
#[cfg(feature = "postgres")]
#[path = "../database/mod.rs"]
mod database;
#[cfg(feature = "postgres")]
mod databases;
mod folder;
mod full_disk;
mod hostile;
mod killed;
#[cfg(feature = "milvus")]
mod milvus;
mod model;
mod operations;
mod threads;
#[cfg(feature = "postgres")]
mod tls;
mod tools;
