//! The preprocessing contract: the same file gives the same tensor in the trainer, the exporter
//! and the server.
//!
//! [`decode()`] turns the bytes of a picture file into upright 8-bit RGB, [`resize()`] and
//! [`resize_crop`] resample as Pillow does, and [`Preprocess`] is the value that travels with the
//! weights: resize the short side, crop the centre, normalise, optionally high-pass.
//!
//! ```
//! use occlude_preprocess::{Preprocess, Rgb};
//!
//! let contract = Preprocess::imagenet(64);
//! let photo = Rgb::filled(120, 90, [200, 30, 30]);
//! let tensor = contract.apply(&photo); // (3, 64, 64)
//! assert_eq!(tensor.len(), 3 * 64 * 64);
//! ```

mod broken;
mod contract;
mod decode;
mod exif;
pub mod files;
mod foreign;
mod high_pass;
pub mod jpeg;
pub mod names;
mod processor;
mod resize;
mod rgb;
mod window;

pub use broken::{AllBroken, Broken, NAMED};
pub use contract::{Center, ContractError, Fit, Preprocess};
pub use decode::{DecodeError, Decoded, Format, Limits, LoadError, Note, decode, dimensions, load};
pub use foreign::ContractFileError;
pub use high_pass::HighPass;
pub use resize::{CropBox, Interpolation, resize, resize_crop};
pub use rgb::Rgb;
pub use window::whole;
