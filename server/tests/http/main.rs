//! The server's tests, one binary: linking is what takes the time.

mod api;
mod binary;
mod browser;
#[cfg(feature = "object-store")]
mod buckets;
mod bulk;
mod cached;
#[cfg(feature = "milvus")]
#[allow(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../../../crates/retrieval/tests/milvus/mod.rs"]
mod cluster;
mod collections;
mod common;
mod compressed;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "the engine's own tests use the rest")]
#[path = "../../../crates/retrieval/tests/database/mod.rs"]
mod database;
mod docs;
mod duplicates;
mod evaluate;
mod fake;
mod full;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(all(feature = "http2", feature = "tls"))]
mod http2;
mod kserve;
mod maps;
mod models;
mod native;
mod network;
mod observed;
mod onnx;
mod openai;
mod openapi;
#[cfg(feature = "grpc")]
mod operated;
mod page;
mod page_maps;
mod page_views;
mod repository;
mod requests;
mod shards;
mod sockets;
mod tune;
