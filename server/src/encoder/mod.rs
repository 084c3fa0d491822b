//! Encoders: ONNX Runtime, and a fake that tests can steer.

pub mod fake;
mod golden;
mod io;
mod onnx;

pub use occlude_onnxruntime::{LibraryError, environment};
pub use onnx::{LoadError, Loaded, OnnxEncoder, Options, load};
