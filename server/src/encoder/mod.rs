//! Encoders: ONNX Runtime, and a fake that tests can steer.

mod error;
pub mod fake;
pub(crate) mod file_kind;
pub(crate) mod files;
mod golden;
mod io;
mod onnx;
mod outputs;

pub use error::LoadError;
pub use occlude_onnxruntime::{LibraryError, environment};
pub use onnx::{Loaded, OnnxEncoder, Options, load};
