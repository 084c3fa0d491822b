//! Models: loading and replacing them, the queue in front of each, and ONNX Runtime behind it.

pub(crate) mod batcher;
pub(crate) mod bulk;
pub(crate) mod encode;
pub mod encoder;
pub(crate) mod loader;
pub(crate) mod model;
pub(crate) mod rule;
