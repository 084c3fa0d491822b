//! Models in ONNX Runtime: loaded, checked against what they say about themselves, warmed up, run.

mod error;
pub(crate) mod file_kind;
pub(crate) mod files;
mod golden;
mod io;
mod onnx;
mod outputs;
mod provider;
mod tensorrt;

pub use error::LoadError;
pub use onnx::{Loaded, OnnxEncoder, Options, load};
