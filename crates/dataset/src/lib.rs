//! Data sets of pictures: a folder, a list file or tar shards, on this machine or in a bucket, behind one index.
//!
//! [`Dataset`] tells how many pictures there are, of which class each is, and hands out the bytes of
//! any of them from any thread; what it holds in memory is the index. [`prepare`] unpacks, sorts,
//! selects, packs and checks data sets. Unix only: names are bytes and files are read by position.
//!
//! ```no_run
//! use occlude_dataset::{Dataset, Options};
//!
//! let data = Dataset::open("photos/train".as_ref(), &Options::default())?;
//! let mut bytes = Vec::new();
//! for sample in data.iter() {
//!     sample.read(&mut bytes)?;
//!     println!("{} {:?} {}", sample.name(), sample.class(), bytes.len());
//! }
//! # Ok::<(), occlude_dataset::Error>(())
//! ```

mod cache;
mod dataset;
mod error;
mod far;
mod folder;
mod identity;
mod index;
#[cfg(feature = "buckets")]
mod kept;
mod labels;
mod limits;
mod list;
mod options;
pub mod prepare;
mod progress;
#[cfg_attr(not(feature = "buckets"), path = "no_remote.rs")]
mod remote;
mod shards;
mod stamp;
mod tar_scan;

pub use cache::default_folder as default_cache_folder;
pub use dataset::{Dataset, Sample};
pub use error::Error;
pub use identity::Identity;
pub use limits::{MAX_PICTURE_BYTES, size};
pub use list::{ESCAPED as LIST_ESCAPED, Head as ListHead, ROOT as LIST_ROOT};
pub use options::{Cache, Options, is_address};
pub use progress::{Progress, with_workers};
pub use tar_scan::{Part, parts};

/// Parsers of foreign bytes, for the fuzz targets.
#[doc(hidden)]
pub mod parse {
    pub use crate::cache::fuzz as cache;
    pub use crate::list::fuzz as list;
    pub use crate::tar_scan::fuzz as shard;
}
