//! What one tool of Occlude writes into a file and another one reads: names of inputs and outputs, keys of metadata,
//! columns of tables, the golden picture, and where an ONNX file has data in other files. Whoever reads or writes such a file takes the words from here, so that a
//! name stands in one place.
//!
//! How a picture becomes an input, which the files hold under [`key::PREPROCESS`], is [`occlude_preprocess::Preprocess`];
//! how a saliency map is made, under [`key::SALIENCY`], is `Making` of the crate `occlude-saliency`; the keys of checkpoints
//! are in `occlude_checkpoint::meta`.

pub mod external;
pub mod golden;
mod input;
pub mod key;
pub mod output;
pub mod table;

pub use golden::{Golden, GoldenError};
pub use input::InputKind;
