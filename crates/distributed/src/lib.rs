//! Training on many processes: who the others are ([`Place`]), and what is done together ([`World`], [`Reducer`]), over
//! PyTorch's c10d with Gloo on the CPU and NCCL on CUDA. A process that is alone pays nothing: its [`World::single`] has no
//! group, and every operation gives back what it was given.

mod error;
mod ffi;
mod place;
mod reducer;
mod world;

pub use error::{Error, Result};
pub use place::Place;
pub use reducer::{Compression, Gradients, Reducer};
pub use world::{BatchNorm, World, leave};
