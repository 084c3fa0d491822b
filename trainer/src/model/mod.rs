//! Networks as plain named tensors: the encoder that the graph describes, projection heads,
//! exponential moving averages, and the optimiser.

mod encoder;
mod head;
mod named;
mod optim;
mod statistics;

pub use encoder::{Encoder, Mode, Output};
pub use head::Head;
pub use named::{Named, ema, find, load};
pub use optim::Optimizer;
pub use statistics::Statistics;
