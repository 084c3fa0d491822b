//! Networks as plain named tensors: the encoder that the graph describes, projection heads,
//! exponential moving averages, and the optimiser.

mod encoder;
mod head;
mod named;
mod optim;

pub use encoder::{Encoder, Mode, Output};
pub use head::Head;
pub use named::{Named, ema, find, load};
pub use optim::Optimizer;
