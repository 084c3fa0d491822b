//! A picture in blocks, and what is known of blocks put back to pixels.

use super::boxes::Lines;

/// How a picture is cut into square blocks; those at its right and lower edges may be smaller.
pub(super) struct Reduced {
    height: usize,
    width: usize,
    every: usize,
}

impl Reduced {
    /// Of a picture `(height, width)`, in blocks of `every` pixels along a side; 0 counts as 1.
    pub(super) fn new((height, width): (usize, usize), every: usize) -> Self {
        Self { height, width, every: every.max(1) }
    }

    /// Pixels along a side of a block.
    pub(super) fn every(&self) -> usize {
        self.every
    }

    /// Rows and columns of blocks.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.height.div_ceil(self.every), self.width.div_ceil(self.every))
    }

    /// The mean of each block.
    pub(super) fn blocks(&self, plane: &[f32]) -> Vec<f32> {
        if self.every == 1 {
            return plane.to_vec();
        }
        let (rows, columns) = self.size();
        let mut means = vec![0.0; rows * columns];
        for (y, row) in plane.chunks_exact(self.width).enumerate() {
            let sums = &mut means[y / self.every * columns..][..columns];
            for (sum, block) in sums.iter_mut().zip(row.chunks(self.every)) {
                *sum += block.iter().sum::<f32>();
            }
        }
        let count = |block: usize, length: usize| self.every.min(length - block * self.every);
        for (i, mean) in means.iter_mut().enumerate() {
            *mean /= (count(i / columns, self.height) * count(i % columns, self.width)) as f32;
        }
        means
    }

    /// The value of each pixel: by the lines of blocks, interpolated, at the guide's colour there.
    pub(super) fn apply<const C: usize>(&self, lines: &Lines<C>, guide: &[Vec<f32>; C]) -> Vec<f32> {
        let (rows, columns) = self.size();
        let (down, along) = (self.between(self.height, rows), self.between(self.width, columns));
        let mut out = vec![0.0; self.height * self.width];
        // offsets and slopes of one row of pixels, still in columns of blocks
        let mut row = [(); C].map(|()| vec![0.0; columns]);
        let mut offsets = vec![0.0; columns];
        for ((y, place), out) in down.iter().enumerate().zip(out.chunks_exact_mut(self.width)) {
            place.rows(&lines.offset, &mut offsets);
            for (slope, row) in lines.slopes.iter().zip(&mut row) {
                place.rows(slope, row);
            }
            for (at, (out, place)) in out.iter_mut().zip(&along).enumerate() {
                let coloured = |c: usize| place.between(&row[c]) * guide[c][y * self.width + at];
                *out = place.between(&offsets) + (0..C).map(coloured).sum::<f32>();
            }
        }
        out
    }

    /// Between which blocks, of `blocks`, the middles of pixels lie.
    fn between(&self, pixels: usize, blocks: usize) -> Vec<Place> {
        let every = self.every as f32;
        // the last block may be smaller, and its middle nearer
        let middle = |block: usize| {
            let from = block * self.every;
            (from + (from + self.every).min(pixels)) as f32 / 2.0
        };
        let place = |pixel: usize| {
            let at = pixel as f32 + 0.5;
            let first = ((at / every - 0.5).max(0.0) as usize).min(blocks - 1);
            let second = (first + 1).min(blocks - 1);
            let apart = middle(second) - middle(first);
            let share = if apart > 0.0 { ((at - middle(first)) / apart).clamp(0.0, 1.0) } else { 0.0 };
            Place { first, second, share }
        };
        (0..pixels).map(place).collect()
    }
}

/// A place between two blocks.
struct Place {
    first: usize,
    second: usize,
    /// Of the second one.
    share: f32,
}

impl Place {
    fn between(&self, values: &[f32]) -> f32 {
        values[self.first] + (values[self.second] - values[self.first]) * self.share
    }

    /// The row between two rows of a plane.
    fn rows(&self, plane: &[f32], out: &mut [f32]) {
        let row = |at: usize| plane[at * out.len()..].iter();
        let (first, second) = (row(self.first), row(self.second));
        let share = self.share;
        let both = first.zip(second).map(|(a, b)| a + (b - a) * share).take(out.len());
        let values: Vec<f32> = both.collect();
        out.copy_from_slice(&values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_pixel_are_the_pixels() {
        let reduced = Reduced::new((2, 3), 1);
        let plane = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        assert_eq!(reduced.blocks(&plane), plane);
        let lines = Lines { slopes: [vec![2.0; 6]], offset: plane.to_vec() };
        assert_eq!(reduced.apply(&lines, &[vec![0.5; 6]]), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn blocks_at_the_edges_are_what_is_there() {
        let reduced = Reduced::new((3, 5), 2);
        let plane: Vec<f32> = (0..15).map(|i| i as f32).collect();
        assert_eq!(reduced.size(), (2, 3));
        assert_eq!(reduced.blocks(&plane), [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]);
    }

    /// What is linear over a picture is so again, up to the middles of the outermost blocks.
    #[test]
    fn planes_are_put_back() {
        for (every, height, width) in [(2, 8, 10), (3, 10, 7), (4, 9, 17), (5, 4, 3)] {
            let reduced = Reduced::new((height, width), every);
            let plane: Vec<f32> =
                (0..height * width).map(|i| (i / width) as f32 + 2.0 * (i % width) as f32).collect();
            let lines =
                Lines { slopes: [vec![0.0; reduced.blocks(&plane).len()]], offset: reduced.blocks(&plane) };
            let back = reduced.apply(&lines, &[vec![1.0; plane.len()]]);
            let (rows, columns) = reduced.size();
            let inside = |at: usize, length: usize, blocks: usize| {
                let middle = every.min(length) as f32 / 2.0;
                let from = (blocks - 1) * every;
                let last = (from + length) as f32 / 2.0;
                (middle..=last).contains(&(at as f32 + 0.5))
            };
            for (i, (a, b)) in plane.iter().zip(&back).enumerate() {
                let (y, x) = (i / width, i % width);
                if inside(y, height, rows) && inside(x, width, columns) {
                    assert!((a - b).abs() < 1e-4, "{every}: {y}, {x}: {a} {b}");
                }
            }
        }
    }
}
