//! From files to batches of cropped views: listing, sampling, decoding on threads.

mod crop;
mod loader;
mod store;

pub use crop::{Geometry, Photometric, ViewSpec};
pub use loader::{Batch, Loader, LoaderSpec, View};
pub use store::Store;
