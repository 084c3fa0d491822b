//! Image encoders as data.
//!
//! A [`Graph`] is the one definition of an encoder: an ordered list of operations with the
//! names of the modules they belong to. The trainer interprets it with libtorch, the exporter
//! writes it as ONNX, the checkpoint reader holds files against [`Graph::params`], and
//! [`layout`] and [`detectron`] rename its parameters to what other projects call them.
//! Nothing in here computes, and nothing in here depends on another crate.

mod arch;
pub mod detectron;
mod graph;
pub mod layout;
mod mlp;
pub mod transformers;
mod vit;

pub use arch::{Arch, ResNet, Stem, UnknownArch};
pub use graph::{Graph, Node, NodeId, Op, Param, ParamKind, Tap, TapId, TapKind};
pub use mlp::{Mlp, MlpLayer};
pub use vit::Vit;
