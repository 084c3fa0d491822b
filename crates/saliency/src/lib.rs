//! Saliency maps to foreground masks, boxes, run-length encodings, polygons and pictures.
//!
//! A saliency map is a small grid of numbers, row-major `(height, width)`, made of an encoder's feature map by some
//! rule: its channel sum (SCDA, arXiv 1604.04994), say. Everything here is a pure function of such a grid; no image
//! codec, no HTTP, no tensor library.
//!
//! A grid has a few cells where the picture has thousands of pixels. [`upsample`] makes it as large as a picture, and
//! [`refine()`] then gives it the picture's edges; [`without_specks`] clears what such a mask has of dust. [`agreement`]
//! of a map with that of the mirror image says how far it can be trusted. [`score`] tells how
//! good a map is where the truth is known, beside the maps of [`prior`].
//!
//! ```
//! use occlude_saliency::{Map, foreground};
//! let map = Map::new(2, 2, &[1.0, 9.0, 1.0, 9.0])?;
//! let mask = foreground(map)?;
//! assert_eq!(mask.ratio(), 0.5);
//! assert_eq!(mask.largest_component().bounds().map(|b| (b.left, b.top, b.width, b.height)), Some((1, 0, 1, 2)));
//! # Ok::<(), occlude_saliency::Error>(())
//! ```

mod edges;
mod map;
mod mask;
mod mirror;
mod place;
pub mod polygon;
mod pool;
pub mod prior;
mod rect;
mod refine;
mod render;
pub mod rle;
pub mod rule;
pub mod score;
mod specks;

pub use edges::{SPECK, guide_size, with_edges, without_texture};
pub use map::{Map, normalise, spread, upsample};
pub use mask::{CellBox, DEVIATIONS, Mask, foreground, foreground_above, threshold, threshold_at};
pub use mirror::{agreement, averaged, mirrored};
pub use place::Placement;
pub use pool::foreground_pooled;
pub use rect::Rect;
pub use refine::{Guide, Guided, refine, unit};
pub use render::{colour, heat, overlay};
pub use rule::{Making, MapRule};
pub use specks::without_specks;

/// What can be wrong with a map, a mask or a picture handed to this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A grid without cells has no mean, no maximum and no foreground.
    #[error("a map of {height} x {width} cells is empty")]
    Empty {
        /// Rows asked for.
        height: usize,
        /// Columns asked for.
        width: usize,
    },
    /// The values do not fill the grid.
    #[error("a grid of {height} x {width} needs {expected} values, got {got}")]
    Length {
        /// Rows of the grid.
        height: usize,
        /// Columns of the grid.
        width: usize,
        /// Values that it needs.
        expected: usize,
        /// Values that were handed over.
        got: usize,
    },
    /// NaN or infinity: no threshold separates such a map.
    #[error("value {index} of the map is not finite")]
    NotFinite {
        /// Row-major index of the first such value.
        index: usize,
    },
    /// Two grids that belong together have different sizes.
    #[error("a map of {} x {} and a mask or map of {} x {}: expected the same size", .map.0, .map.1, .mask.0, .mask.1)]
    Sizes {
        /// Rows and columns of the first.
        map: (usize, usize),
        /// Rows and columns of the other.
        mask: (usize, usize),
    },
    /// A value that is to be judged lies outside of 0..1.
    #[error("value {index} of the map is not in 0..1; hint: scale the map first")]
    Range {
        /// Row-major index of the first such value.
        index: usize,
    },
    /// A truth without foreground: no map can find what is not there.
    #[error("the mask has no foreground")]
    NoObject,
    /// Likewise in the picture that a map is refined by.
    #[error("value {index} of the guide is not finite")]
    Guide {
        /// Index of the first such value, as the guide has them.
        index: usize,
    },
    /// A compressed run-length string that no encoder writes.
    #[error("run-length string is invalid at byte {at}: {what}")]
    Rle {
        /// Byte offset in the string.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
}

pub(crate) fn check_len(height: usize, width: usize, channels: usize, got: usize) -> Result<(), Error> {
    if height == 0 || width == 0 {
        return Err(Error::Empty { height, width });
    }
    let expected = height.saturating_mul(width).saturating_mul(channels);
    if expected != got {
        return Err(Error::Length { height, width, expected, got });
    }
    Ok(())
}
