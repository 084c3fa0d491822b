//! Networks as plain named tensors: the encoder that the graph describes, the heads behind it, branches of both that
//! learn or follow, and the optimiser.

mod attention;
mod branch;
mod encoder;
mod mlp;
mod mode;
mod named;
mod ops;
mod optim;
mod prototypes;
mod running;
mod statistics;

pub use branch::{Aligned, Branch, ENCODERS, Follower, Head, Projected, load_branches};
pub use encoder::{Encoder, Hidden, Output, map_of};
pub use mlp::{Init, Mlp};
pub use mode::Mode;
pub use named::{Named, ema, find, load};
pub use optim::{Optimizer, Rate};
pub use prototypes::Prototypes;
pub use statistics::Statistics;
