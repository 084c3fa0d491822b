//! Encoders: ONNX Runtime, and a fake that tests can steer.

pub mod fake;
mod library;
mod onnx;

pub use library::{LibraryError, environment};
pub use onnx::{LoadError, Loaded, OnnxEncoder, Options, load};
