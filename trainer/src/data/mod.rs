//! From files to batches of cropped views: listing, sampling, decoding on threads.

mod crop;
mod feed;
mod foreground;
mod loader;
mod pictures;
mod speed;
mod store;
mod views;

use std::path::Path;

use occlude_dataset::{Dataset, Error, Options};

pub use crop::{Geometry, Photometric, Placed, ViewSpec};
pub use feed::{Fed, Feed};
pub use foreground::Foreground;
pub use loader::{Batch, Loader, LoaderSpec, View};
pub use pictures::Pictures;
pub use speed::Speed;
pub use store::Store;

/// Opens a data set, and tells what of it is left out.
///
/// # Errors
/// As [`Dataset::open`].
pub fn open(path: &Path) -> Result<Dataset, Error> {
    let data = Dataset::open(path, &options())?;
    tell_left_out(&data);
    Ok(data)
}

/// How data sets are opened: what takes long is told.
pub fn options() -> Options {
    Options { tell: |line| tell!("{line}"), ..Options::default() }
}

/// Tells what of a data set is left out, if anything.
pub fn tell_left_out(data: &Dataset) {
    if !data.left_out().is_empty() {
        tell!("note: `{}`: {}", data.root().display(), data.left_out());
    }
}
