//! Where a saliency grid lies in a picture.
//!
//! An encoder sees the centre crop of a resized picture, so its grid covers a rectangle of the original, not all
//! of it; with unequal sides most of the long one is outside.

use crate::map::{Tap, bilinear};
use crate::{CellBox, Error, Map, Mask, Rect, rle};

/// A picture of `width` x `height` pixels and the rectangle of it that the grid covers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placement {
    /// Picture width in pixels.
    pub width: u32,
    /// Picture height in pixels.
    pub height: u32,
    /// What the encoder saw, in the same pixels.
    pub crop: Rect,
}

impl Placement {
    /// A grid that covers the whole picture.
    pub fn whole(width: u32, height: u32) -> Self {
        let crop = Rect { left: 0.0, top: 0.0, width: f64::from(width), height: f64::from(height) };
        Self { width, height, crop }
    }

    /// The same placement in the picture scaled to `width` x `height`.
    #[must_use]
    pub fn scaled(&self, width: u32, height: u32) -> Self {
        let x = f64::from(width) / f64::from(self.width.max(1));
        let y = f64::from(height) / f64::from(self.height.max(1));
        let c = self.crop;
        let crop = Rect { left: c.left * x, top: c.top * y, width: c.width * x, height: c.height * y };
        Self { width, height, crop }
    }

    /// A box of cells as a rectangle of the picture, cut at its edges.
    pub fn rect(&self, cells: CellBox, grid: &Mask) -> Rect {
        let inside = cells.scale(grid, self.crop.width, self.crop.height);
        let moved = Rect { left: inside.left + self.crop.left, top: inside.top + self.crop.top, ..inside };
        moved.clamp(f64::from(self.width), f64::from(self.height))
    }

    /// The position of pixel centres along x (in cells), `None` outside the crop.
    fn columns(&self, cells: usize) -> Vec<Option<f64>> {
        axis(self.width, self.crop.left, self.crop.width, cells)
    }

    fn rows(&self, cells: usize) -> Vec<Option<f64>> {
        axis(self.height, self.crop.top, self.crop.height, cells)
    }

    /// The grid's mask in the picture's pixels: a pixel takes the cell that its centre lies in, outside the crop it
    /// is background.
    pub fn mask(&self, grid: &Mask) -> Result<Mask, Error> {
        let cell = |p: Option<f64>| p.map(|p| p as usize);
        let columns: Vec<_> = self.columns(grid.width()).into_iter().map(cell).collect();
        let mut out = Vec::with_capacity(self.width as usize * self.height as usize);
        for row in self.rows(grid.height()).into_iter().map(cell) {
            out.extend(columns.iter().map(|c| row.zip(*c).is_some_and(|(row, c)| grid.get(row, c))));
        }
        Mask::new(self.height as usize, self.width as usize, out)
    }

    /// Runs of the picture's rows that share a row of the grid: `(row, how many)`.
    fn row_runs(&self, grid: &Mask) -> Vec<(Option<usize>, u64)> {
        let mut runs: Vec<(Option<usize>, u64)> = Vec::new();
        for row in self.rows(grid.height()) {
            let cell = row.map(|p| p as usize);
            match runs.last_mut() {
                Some((last, count)) if *last == cell => *count += 1,
                _ => runs.push((cell, 1)),
            }
        }
        runs
    }

    /// [`Self::mask`] as COCO's compressed run-length string, without making the pixels: the cost grows with the
    /// picture's width, not its area.
    pub fn rle(&self, grid: &Mask) -> String {
        let rows = self.row_runs(grid);
        let mut runs = vec![0u64];
        for column in self.columns(grid.width()) {
            for &(row, count) in &rows {
                let cell = row.zip(column).is_some_and(|(row, p)| grid.get(row, p as usize));
                // Runs alternate from background: an odd number of them means that the last is background.
                if cell == (runs.len() % 2 == 1) {
                    runs.push(0);
                }
                if let Some(last) = runs.last_mut() {
                    *last += count;
                }
            }
        }
        rle::compress(&runs)
    }

    /// [`Self::mask`] packed to one bit a pixel, most significant first, every row padded to a whole byte: the
    /// layout of a 1-bit PNG.
    pub fn bits(&self, grid: &Mask) -> Vec<u8> {
        let columns: Vec<_> = self.columns(grid.width()).into_iter().map(|p| p.map(|p| p as usize)).collect();
        let mut out = Vec::new();
        for (row, count) in self.row_runs(grid) {
            let bit = |c: &Option<usize>| u8::from(row.zip(*c).is_some_and(|(row, c)| grid.get(row, c)));
            let pack = |eight: &[Option<usize>]| {
                eight.iter().enumerate().fold(0, |byte, (i, c)| byte | bit(c) << (7 - i))
            };
            let line: Vec<u8> = columns.chunks(8).map(pack).collect();
            for _ in 0..count {
                out.extend_from_slice(&line);
            }
        }
        out
    }

    /// The grid's values in the picture's pixels, bilinear inside the crop and `None` outside it. Row-major.
    pub fn values(&self, map: Map<'_>) -> Vec<Option<f32>> {
        let tap = |cells: usize| move |p: Option<f64>| p.map(|p| Tap::new(p, cells));
        let columns: Vec<_> = self.columns(map.width()).into_iter().map(tap(map.width())).collect();
        let mut out = Vec::with_capacity(self.width as usize * self.height as usize);
        for row in self.rows(map.height()).into_iter().map(tap(map.height())) {
            out.extend(columns.iter().map(|c| row.zip(*c).map(|(row, c)| bilinear(map, row, c))));
        }
        out
    }
}

fn axis(pixels: u32, start: f64, length: f64, cells: usize) -> Vec<Option<f64>> {
    let position = |i| (f64::from(i) + 0.5 - start) / length * cells as f64;
    (0..pixels).map(position).map(|p| (p >= 0.0 && p < cells as f64).then_some(p)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upsample;
    use proptest::prelude::*;

    fn grid() -> Mask {
        Mask::new(2, 2, vec![true, false, false, true]).unwrap()
    }

    #[test]
    fn a_centred_crop_of_a_wide_picture() {
        // 8 x 4, the middle 4 x 4 was seen.
        let crop = Rect { left: 2.0, top: 0.0, width: 4.0, height: 4.0 };
        let place = Placement { width: 8, height: 4, crop };
        let mask = place.mask(&grid()).unwrap();
        let row = |y| (0..8).map(|x| if mask.get(y, x) { '#' } else { '.' }).collect::<String>();
        assert_eq!([row(0), row(1), row(2), row(3)], ["..##....", "..##....", "....##..", "....##.."]);
        let values = place.values(Map::new(2, 2, &[1.0, 1.0, 1.0, 1.0]).unwrap());
        assert_eq!(values.iter().filter(|v| v.is_some()).count(), 16);
    }

    #[test]
    fn boxes_move_with_the_crop_and_are_cut() {
        let crop = Rect { left: 2.0, top: -2.0, width: 4.0, height: 8.0 };
        let place = Placement { width: 8, height: 4, crop };
        let cells = CellBox { left: 1, top: 0, width: 1, height: 2 };
        assert_eq!(place.rect(cells, &grid()), Rect { left: 4.0, top: 0.0, width: 2.0, height: 4.0 });
        let half = place.scaled(4, 2);
        assert_eq!(half.rect(cells, &grid()), Rect { left: 2.0, top: 0.0, width: 1.0, height: 2.0 });
    }

    #[test]
    fn covering_all_is_plain_upsampling() {
        let values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0];
        let map = Map::new(2, 3, &values).unwrap();
        let placed: Vec<f32> = Placement::whole(12, 7).values(map).into_iter().flatten().collect();
        let plain = upsample(map, 7, 12);
        assert!(placed.iter().zip(&plain).all(|(a, b)| (a - b).abs() < 1e-5));
        assert_eq!(placed.len(), plain.len());
    }

    proptest! {
        #[test]
        fn the_box_bounds_the_mask(
            (w, h) in (1u32..60, 1u32..60), bits in 1u32..0x1ff, fraction in 0.2f64..1.0, shift in 0.0f64..1.0,
        ) {
            let (cw, ch) = (f64::from(w) * fraction, f64::from(h) * fraction);
            let crop = Rect {
                left: (f64::from(w) - cw) * shift, top: (f64::from(h) - ch) * shift, width: cw, height: ch,
            };
            let place = Placement { width: w, height: h, crop };
            let grid = Mask::new(3, 3, (0..9).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let rect = place.rect(grid.bounds().unwrap(), &grid);
            prop_assert!(rect.left >= 0.0 && rect.left + rect.width <= f64::from(w) + 1e-9);
            let mask = place.mask(&grid).unwrap();
            prop_assert_eq!(place.rle(&grid), rle::encode(&mask), "the short way to the runs is the long one's");
            let (bits, stride) = (place.bits(&grid), (w as usize).div_ceil(8));
            prop_assert_eq!(bits.len(), stride * h as usize);
            let bit = |y: usize, x: usize| bits[y * stride + x / 8] >> (7 - x % 8) & 1 == 1;
            prop_assert!((0..h as usize).all(|y| (0..w as usize).all(|x| bit(y, x) == mask.get(y, x))));
            if let Some(b) = mask.bounds() {
                prop_assert!(b.left as f64 + 0.5 >= rect.left - 1e-9 && b.top as f64 + 0.5 >= rect.top - 1e-9);
                prop_assert!((b.left + b.width) as f64 - 0.5 <= rect.left + rect.width + 1e-9);
                prop_assert!((b.top + b.height) as f64 - 0.5 <= rect.top + rect.height + 1e-9);
            }
        }
    }
}
