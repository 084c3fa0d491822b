//! The server's tests, one binary: linking is what takes the time.

mod api;
mod binary;
mod browser;
mod collections;
mod common;
mod docs;
mod models;
mod native;
mod network;
mod onnx;
mod page;
mod sockets;
