//! A map of cells at the size of a picture, with the picture's edges: what `refine` means in every tool.

use crate::{Error, Guide, Guided, Map, Mask, refine, unit, upsample, without_specks};

/// Longest side in pixels of the picture that a map is refined by: finer than any grid, and milliseconds of work.
const GUIDE: f64 = 256.0;

/// Cells along the longer side of a map that is refined. Finer maps follow the colours' edges already, and their holes, which
/// the filter keeps: of 502 street photos' masks the AP50 was higher by 3 points with cells of this size than with a
/// quarter of it.
const CELLS: usize = 28;

/// Parts and holes of a mask have at least one in so many of its pixels: smaller ones are the picture's texture,
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
    let cells = blocks(map);
    let map = Map::new(cells.0, cells.1, &cells.2)?;
    let coarse = upsample(map, height, width);
    let cell = (width as f64 / map.width() as f64).max(height as f64 / map.height() as f64);
    let colours = unit(rgb);
    refine(Map::new(height, width, &coarse)?, Guide::Colour(&colours), Guided::for_cells(cell))
}

/// Rows, columns and values of a map of no more than about [`CELLS`] cells along its longer side: means of square blocks of
/// cells, the last of which may be smaller.
fn blocks(map: Map<'_>) -> (usize, usize, Vec<f32>) {
    let (height, width) = (map.height(), map.width());
    let every = (height.max(width) / CELLS).max(1);
    let (rows, columns) = (height.div_ceil(every), width.div_ceil(every));
    let mean = |block: usize| {
        let range = |at: usize, length: usize| at * every..((at + 1) * every).min(length);
        let (ys, xs) = (range(block / columns, height), range(block % columns, width));
        let count = (ys.len() * xs.len()) as f64;
        let sum: f64 = ys.flat_map(|y| &map.values()[y * width..][xs.clone()]).map(|&v| f64::from(v)).sum();
        (sum / count) as f32
    };
    (rows, columns, (0..rows * columns).map(mean).collect())
}

/// A foreground without the picture's texture, which coarse maps (of fewer than twice as many cells as [`SPECK`]) have none of.
#[must_use]
pub fn without_texture(mask: &Mask) -> Mask {
    without_specks(mask, mask.cells().len() / SPECK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fine_maps_are_refined_as_coarser_ones() {
        let values: Vec<f32> = (0..57 * 3).map(|i| (i % 57) as f32).collect();
        let (rows, columns, blocks) = blocks(Map::new(3, 57, &values).unwrap());
        assert_eq!((rows, columns), (2, 29));
        assert_eq!([blocks[0], blocks[1], blocks[28], blocks[29]], [0.5, 2.5, 56.0, 0.5]);
        let few = Map::new(2, 2, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!(super::blocks(few), (2, 2, vec![1.0, 2.0, 3.0, 4.0]));
    }

    #[test]
    fn guides_keep_proportions_and_are_never_enlarged() {
        assert_eq!(guide_size(400.0, 600.0), (171, 256));
        assert_eq!(guide_size(40.0, 30.0), (40, 30));
        assert_eq!(guide_size(4096.0, 1.0), (256, 1));
    }
}
