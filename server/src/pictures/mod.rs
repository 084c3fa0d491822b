//! Pictures: fetching and decoding them, where in them the model looks, and what is drawn and told of its answer.

pub(crate) mod cache;
pub(crate) mod decoding;
pub(crate) mod encoding;
pub(crate) mod facts;
pub(crate) mod fetch;
pub(crate) mod maps;
pub(crate) mod npy;
pub(crate) mod pooling;
pub(crate) mod render;
pub(crate) mod window;
