//! From files to batches of cropped views: listing, sampling, decoding on threads.

mod crop;
mod feed;
mod loader;
mod pictures;
mod speed;
mod store;
mod views;

pub use crop::{Geometry, Photometric, ViewSpec};
pub use feed::{Fed, Feed};
pub use loader::{Batch, Loader, LoaderSpec, View};
pub use pictures::Pictures;
pub use speed::Speed;
pub use store::Store;
