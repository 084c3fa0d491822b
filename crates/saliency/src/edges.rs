//! A map of cells at the size of a picture, with the picture's edges: what `refine` means in every tool.

use crate::{Error, Guide, Guided, Map, Mask, refine, unit, upsample, without_specks};

/// Longest side in pixels of the picture that a map is refined by: finer than any grid, and milliseconds of work.
const GUIDE: f64 = 256.0;

/// Parts and holes of a refined mask have at least one in so many of its pixels: smaller ones are the picture's texture,
/// and their number is bounded by this.
pub const SPECK: usize = 512;

/// Width and height of the guide for a part of a picture of that size, which keeps its proportions and is never enlarged.
pub fn guide_size(width: f64, height: f64) -> (u32, u32) {
    let scale = (GUIDE / width.max(height)).min(1.0);
    let side = |length: f64| (length * scale).round().max(1.0) as u32;
    (side(width), side(height))
}

/// The map at the size of the guide, `(height, width, 3)` bytes of RGB, with its edges. Shape: `(height, width)`.
///
/// # Errors
/// [`Error`] where the guide is not of that size.
pub fn with_edges(map: Map<'_>, rgb: &[u8], (height, width): (usize, usize)) -> Result<Vec<f32>, Error> {
    let coarse = upsample(map, height, width);
    let cell = (width as f64 / map.width() as f64).max(height as f64 / map.height() as f64);
    let colours = unit(rgb);
    refine(Map::new(height, width, &coarse)?, Guide::Colour(&colours), Guided::for_cells(cell))
}

/// A refined map's foreground without its texture.
#[must_use]
pub fn without_texture(mask: &Mask) -> Mask {
    without_specks(mask, mask.cells().len() / SPECK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guides_keep_proportions_and_are_never_enlarged() {
        assert_eq!(guide_size(400.0, 600.0), (171, 256));
        assert_eq!(guide_size(40.0, 30.0), (40, 30));
        assert_eq!(guide_size(4096.0, 1.0), (256, 1));
    }
}
