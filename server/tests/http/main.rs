//! The server's tests, one binary: linking is what takes the time.

mod api;
mod binary;
mod browser;
mod bulk;
mod cached;
mod collections;
mod common;
mod compressed;
mod docs;
mod fake;
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
mod page;
mod page_maps;
mod repository;
mod requests;
mod sockets;
