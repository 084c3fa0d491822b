//! Preparing data sets: unpacking ImageNet, subsets, shards, checks.
//!
//! What is written is whole or absent: it grows under a hidden name, which listings skip, and is
//! renamed at the end.

mod check;
mod imagenet;
mod output;
mod pack;
mod subset;
mod truth;
mod validation;

pub use check::{
    Against, BrokenPicture, CheckOptions, ClassCount, Duplicates, Report, Shared, SmallPicture, Spread, check,
};
pub use imagenet::{Unpacked, imagenet_train};
pub use output::Link;
pub use pack::{PackOptions, Packed, pack};
pub use subset::{Amount, Selection, link_subset, read_classes, select, write_list};
pub use truth::Truth;
pub use validation::{Sorted, imagenet_val};
