//! What of a picture is foreground, as far as its colours and the centre tell: for crops that are to hold a share of it.

use occlude_preprocess::{CropBox, Interpolation, Rgb};
use occlude_saliency::prior;

/// Cells along a side of the grid on which a picture is judged.
const SIDE: usize = 16;

/// A bit for each cell of a 16x16 grid over the whole picture: whether it reaches the mean of the border-colour prior
/// ([`prior::border_colour`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreground([u16; SIDE]);

impl Foreground {
    /// Of a picture that nothing is known of: all of it.
    pub const ALL: Self = Self([u16::MAX; SIDE]);

    /// Of a whole picture, squeezed into `(3, side, side)` bytes.
    pub(super) fn of_planes(planes: &[u8], side: usize) -> Self {
        let plane = side * side;
        let data = (0..plane).flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]]).collect();
        let picture = Rgb { width: side as u32, height: side as u32, data };
        let small = occlude_preprocess::resize(&picture, SIDE as u32, SIDE as u32, Interpolation::Bilinear);
        // the size is right, so there is nothing to refuse
        prior::border_colour(&small.data, (SIDE, SIDE)).map_or(Self::ALL, |map| Self::of_map(&map))
    }

    fn of_map(map: &[f32]) -> Self {
        let mean = map.iter().map(|&v| f64::from(v)).sum::<f64>() / map.len() as f64;
        let bits = |row: &[f32]| {
            let bit = |(x, &v): (usize, &f32)| u16::from(f64::from(v) >= mean) << x;
            row.iter().enumerate().map(bit).fold(0, |row, bit| row | bit)
        };
        let mut rows = [0; SIDE];
        rows.iter_mut().zip(map.chunks_exact(SIDE)).for_each(|(to, row)| *to = bits(row));
        Self(rows)
    }

    /// The share of the foreground's area that a crop of a picture of `width` x `height` holds, 0 to 1.
    pub fn held(&self, crop: &CropBox, (width, height): (u32, u32)) -> f64 {
        let columns = covered(crop.left, crop.width, f64::from(width));
        let rows = covered(crop.top, crop.height, f64::from(height));
        let (mut held, mut all) = (0.0, 0.0);
        for (row, bits) in rows.iter().zip(self.0) {
            for column in (0..).zip(&columns).filter_map(|(x, share)| ((bits >> x) & 1 == 1).then_some(share))
            {
                held += row * column;
                all += 1.0;
            }
        }
        if all > 0.0 { held / all } else { 1.0 }
    }
}

/// The share of each cell along a side of `whole` pixels that lies between `start` and `start + length`.
fn covered(start: f64, length: f64, whole: f64) -> [f64; SIDE] {
    let cell = whole / SIDE as f64;
    std::array::from_fn(|i| {
        let (low, high) = (i as f64 * cell, (i + 1) as f64 * cell);
        ((high.min(start + length) - low.max(start)) / cell).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A red square on green, off the centre, in a picture of 96x96.
    fn picture(x: std::ops::Range<usize>, y: std::ops::Range<usize>) -> Vec<u8> {
        let side = 96;
        let inside = |i: usize| x.contains(&(i % side)) && y.contains(&(i / side));
        let plane =
            |a: u8, b: u8| (0..side * side).map(move |i| if inside(i) { a } else { b }).collect::<Vec<_>>();
        [plane(220, 40), plane(30, 160), plane(30, 50)].concat()
    }

    fn crop(left: f64, top: f64, width: f64, height: f64) -> CropBox {
        CropBox { left, top, width, height }
    }

    #[test]
    fn another_colour_is_the_foreground_and_crops_hold_what_they_cover_of_it() {
        // cells 5 to 9 across and 7 to 11 down, and where the reduced picture shows a little of it, one more
        let foreground = Foreground::of_planes(&picture(30..60, 42..72), 96);
        let size = (192, 960);
        assert_eq!(foreground.held(&crop(0.0, 0.0, 192.0, 960.0), size), 1.0);
        assert_eq!(foreground.held(&crop(48.0, 360.0, 84.0, 420.0), size), 1.0);
        assert_eq!(foreground.held(&crop(0.0, 0.0, 48.0, 960.0), size), 0.0);
        let half = foreground.held(&crop(90.0, 0.0, 102.0, 960.0), size);
        assert!((half - 0.5).abs() < 0.1, "{half}");
        let corner = foreground.held(&crop(90.0, 570.0, 102.0, 390.0), size);
        assert!((corner - 0.25).abs() < 0.1, "{corner}");
    }

    /// The share by counting pixels, for crops at whole pixels of a picture with 10 pixels a cell.
    #[test]
    fn shares_equal_counts_of_pixels() {
        let map: Vec<f32> = (0..SIDE * SIDE).map(|i| (i * i * 7 % 23) as f32).collect();
        let foreground = Foreground::of_map(&map);
        let mean = map.iter().sum::<f32>() / map.len() as f32;
        let is = |x: usize, y: usize| map[y / 10 * SIDE + x / 10] >= mean;
        let count = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
            y.map(|y| x.clone().filter(|&x| is(x, y)).count()).sum::<usize>() as f64
        };
        let all = count(0..160, 0..160);
        for (x, y) in [(0..7, 3..160), (33..94, 15..16), (159..160, 0..160), (12..140, 77..131)] {
            let box_ = crop(x.start as f64, y.start as f64, x.len() as f64, y.len() as f64);
            let found = foreground.held(&box_, (160, 160));
            assert!((found - count(x, y) / all).abs() < 1e-9, "{box_:?}");
        }
        let whole = crop(3.0, 4.0, 80.0, 40.0);
        assert!((Foreground::ALL.held(&whole, (160, 160)) - 80.0 * 40.0 / 25_600.0).abs() < 1e-9);
    }

    #[test]
    fn a_picture_of_one_colour_has_its_middle_as_foreground() {
        let grey = Foreground::of_planes(&[90; 3 * 32 * 32], 32);
        assert!(grey.held(&crop(8.0, 8.0, 16.0, 16.0), (32, 32)) > 0.5);
        assert_eq!(grey.held(&crop(0.0, 0.0, 4.0, 4.0), (32, 32)), 0.0);
    }
}
