//! Foreground masks: the threshold, connected components and bounding boxes.

use crate::{Error, Map, Rect, check_len};

/// The published SCDA rule: a cell is foreground when it reaches this many standard deviations from the mean, that
/// is 0.6 below it (arXiv 2309.12757).
pub const DEVIATIONS: f64 = -0.6;

/// A binary grid, row-major `(height, width)`; `true` is foreground.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    cells: Vec<bool>,
}

/// A box in cells of a grid; the right and bottom edges are `left + width` and `top + height`, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns, at least 1.
    pub width: usize,
    /// Rows, at least 1.
    pub height: usize,
}

impl CellBox {
    /// The box in a picture of `target_width` x `target_height` pixels that the whole grid covers.
    pub fn scale(&self, grid: &Mask, target_width: f64, target_height: f64) -> Rect {
        let (x, y) = (target_width / grid.width as f64, target_height / grid.height as f64);
        Rect {
            left: self.left as f64 * x,
            top: self.top as f64 * y,
            width: self.width as f64 * x,
            height: self.height as f64 * y,
        }
    }
}

/// `mean - 0.6 * std` of the map (population deviation): cells at or above it are foreground.
pub fn threshold(map: Map<'_>) -> f64 {
    threshold_at(map, DEVIATIONS)
}

/// The value `deviations` population standard deviations from the mean of the map; negative ones lie below it.
pub fn threshold_at(map: Map<'_>, deviations: f64) -> f64 {
    let (mean, std) = map.mean_std();
    mean + deviations * std
}

/// The foreground of a map by the published rule. Never empty (the maximum is at least the mean); all of a constant
/// map.
pub fn foreground(map: Map<'_>) -> Result<Mask, Error> {
    foreground_above(map, threshold(map))
}

/// The cells of a map at or above `threshold`; there may be none.
pub fn foreground_above(map: Map<'_>, threshold: f64) -> Result<Mask, Error> {
    let cells = map.values().iter().map(|&v| f64::from(v) >= threshold).collect();
    Mask::new(map.height(), map.width(), cells)
}

impl Mask {
    /// Checks that `cells` fill a non-empty grid.
    pub fn new(height: usize, width: usize, cells: Vec<bool>) -> Result<Self, Error> {
        check_len(height, width, 1, cells.len())?;
        Ok(Self { height, width, cells })
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The cells, row-major.
    pub fn cells(&self) -> &[bool] {
        &self.cells
    }

    /// Whether the cell is foreground; what lies outside the grid is not.
    pub fn get(&self, row: usize, column: usize) -> bool {
        column < self.width && self.cells.get(row * self.width + column).copied().unwrap_or(false)
    }

    /// Foreground cells.
    pub fn count(&self) -> usize {
        self.cells.iter().filter(|&&c| c).count()
    }

    /// Foreground cells over all cells, 0..1.
    pub fn ratio(&self) -> f64 {
        self.count() as f64 / self.cells.len() as f64
    }

    /// The largest 4-connected component alone; of equals the one whose first cell (row-major) comes first. An
    /// empty mask stays empty.
    pub fn largest_component(&self) -> Mask {
        let mut best = Vec::new();
        self.each_component(|component| {
            if component.len() > best.len() {
                best = component;
            }
        });
        self.only(&best)
    }

    /// The 4-connected components, the largest first; equals in the order of their first cells (row-major).
    pub fn components(&self) -> Vec<Mask> {
        let mut found = Vec::new();
        self.each_component(|component| found.push(component));
        found.sort_by_key(|component| std::cmp::Reverse(component.len()));
        found.iter().map(|component| self.only(component)).collect()
    }

    /// Indices of every component, in the order of their first cells.
    pub(crate) fn each_component(&self, mut give: impl FnMut(Vec<usize>)) {
        let mut seen = vec![false; self.cells.len()];
        for start in 0..self.cells.len() {
            if self.cells[start] && !seen[start] {
                give(self.component(start, &mut seen));
            }
        }
    }

    /// A mask of this size with other cells, as many as there are.
    pub(crate) fn with(&self, cells: Vec<bool>) -> Mask {
        Mask { height: self.height, width: self.width, cells }
    }

    /// A mask of this size with these cells alone.
    fn only(&self, indices: &[usize]) -> Mask {
        let mut cells = vec![false; self.cells.len()];
        for &index in indices {
            cells[index] = true;
        }
        Mask { height: self.height, width: self.width, cells }
    }

    /// The mask left of `column` and the rest of it, each of the whole size.
    pub(crate) fn cut(&self, column: usize) -> [Mask; 2] {
        [true, false].map(|left| {
            let keep = |(i, &cell): (usize, &bool)| cell && (i % self.width < column) == left;
            Mask {
                height: self.height,
                width: self.width,
                cells: self.cells.iter().enumerate().map(keep).collect(),
            }
        })
    }

    /// Indices of the component of `start`, by an explicit stack: a mask may have millions of cells.
    fn component(&self, start: usize, seen: &mut [bool]) -> Vec<usize> {
        let (mut found, mut stack) = (Vec::new(), vec![start]);
        seen[start] = true;
        while let Some(index) = stack.pop() {
            found.push(index);
            let (row, column) = (index / self.width, index % self.width);
            let neighbours = [
                (row > 0).then(|| index - self.width),
                (row + 1 < self.height).then(|| index + self.width),
                (column > 0).then(|| index - 1),
                (column + 1 < self.width).then(|| index + 1),
            ];
            for next in neighbours.into_iter().flatten() {
                if self.cells[next] && !seen[next] {
                    seen[next] = true;
                    stack.push(next);
                }
            }
        }
        found
    }

    /// The smallest box around the foreground, `None` when there is none.
    pub fn bounds(&self) -> Option<CellBox> {
        let rows = |row: &usize| (0..self.width).any(|column| self.get(*row, column));
        let columns = |column: &usize| (0..self.height).any(|row| self.get(row, *column));
        let (top, bottom) = ((0..self.height).find(rows)?, (0..self.height).rfind(rows)?);
        let (left, right) = ((0..self.width).find(columns)?, (0..self.width).rfind(columns)?);
        Some(CellBox { left, top, width: right - left + 1, height: bottom - top + 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(rows: &[&str]) -> Mask {
        let cells = rows.iter().flat_map(|r| r.chars().map(|c| c == '#')).collect();
        Mask::new(rows.len(), rows[0].len(), cells).unwrap()
    }

    #[test]
    fn threshold_by_hand() {
        // mean 4, population variance (9 + 1 + 1 + 9) / 4 = 5
        let values = [1.0, 3.0, 5.0, 7.0];
        let map = Map::new(2, 2, &values).unwrap();
        assert!((threshold(map) - (4.0 - 0.6 * 5f64.sqrt())).abs() < 1e-12);
        assert_eq!(foreground(map).unwrap().cells(), [false, true, true, true]);
    }

    #[test]
    fn other_thresholds() {
        let values = [1.0, 3.0, 5.0, 7.0];
        let map = Map::new(2, 2, &values).unwrap();
        assert_eq!(threshold_at(map, DEVIATIONS), threshold(map));
        assert_eq!(threshold_at(map, 0.0), 4.0);
        assert_eq!(foreground_above(map, 5.0).unwrap().cells(), [false, false, true, true]);
        let none = foreground_above(map, threshold_at(map, 3.0)).unwrap();
        assert_eq!((none.count(), none.components().len(), none.bounds()), (0, 0, None));
        let flat = Map::new(1, 3, &[2.5; 3]).unwrap();
        assert_eq!(foreground_above(flat, threshold_at(flat, 3.0)).unwrap().count(), 3, "no deviation");
    }

    #[test]
    fn components_come_largest_first() {
        let found = mask(&["#.##", "#...", "..##"]).components();
        let bounds: Vec<_> = found.iter().map(|c| c.bounds().unwrap()).map(|b| (b.left, b.top)).collect();
        assert_eq!(bounds, [(0, 0), (2, 0), (2, 2)], "of equals the first");
        assert_eq!(mask(&["#.", "##"]).components().len(), 1);
    }

    #[test]
    fn constant_maps_are_all_foreground() {
        for value in [0.0, 0.1, -3.3, 1e30, f32::MIN_POSITIVE] {
            let values = [value; 49];
            let found = foreground(Map::new(7, 7, &values).unwrap()).unwrap();
            assert_eq!(found.ratio(), 1.0, "of a constant {value}");
        }
    }

    #[test]
    fn mask_needs_its_cells() {
        assert!(matches!(Mask::new(2, 2, vec![true]), Err(Error::Length { expected: 4, got: 1, .. })));
        assert!(matches!(Mask::new(2, 0, vec![]), Err(Error::Empty { .. })));
    }

    #[test]
    fn diagonal_cells_are_not_connected() {
        let largest = mask(&["#..", ".#.", ".##"]).largest_component();
        assert_eq!(largest, mask(&["...", ".#.", ".##"]));
        assert_eq!(mask(&["#.", ".#"]).largest_component(), mask(&["#.", ".."]), "of equals the first");
        assert_eq!(mask(&["..", ".."]).largest_component().count(), 0);
    }

    #[test]
    fn a_component_may_wind() {
        let spiral = mask(&["#####", "....#", "###.#", "#...#", "#####"]);
        assert_eq!(spiral.largest_component(), spiral);
    }

    #[test]
    fn rows_do_not_wrap_around() {
        assert_eq!(mask(&["..#", "#.."]).largest_component(), mask(&["..#", "..."]));
        assert!(!mask(&["..#", "#.."]).get(0, 3));
        assert!(!mask(&["#"]).get(1, 0));
    }

    #[test]
    fn bounds_and_scaling() {
        let m = mask(&["....", ".##.", ".#..", "...."]);
        let found = m.bounds().unwrap();
        assert_eq!(found, CellBox { left: 1, top: 1, width: 2, height: 2 });
        let rect = found.scale(&m, 224.0, 112.0);
        assert_eq!((rect.left, rect.top, rect.width, rect.height), (56.0, 28.0, 112.0, 56.0));
        assert_eq!(mask(&["..", ".."]).bounds(), None);
    }

    /// Components the slow way: repeat the smallest label of the neighbourhood until nothing changes.
    fn naive_largest(m: &Mask) -> usize {
        let mut labels: Vec<usize> = (1..=m.cells().len()).collect();
        loop {
            let before = labels.clone();
            for row in 0..m.height() {
                for column in 0..m.width() {
                    let i = row * m.width() + column;
                    for (r, c) in [(row.wrapping_sub(1), column), (row, column.wrapping_sub(1))] {
                        if r < m.height() && c < m.width() && m.get(row, column) && m.get(r, c) {
                            let j = r * m.width() + c;
                            let low = labels[i].min(labels[j]);
                            (labels[i], labels[j]) = (low, low);
                        }
                    }
                }
            }
            if labels == before {
                break;
            }
        }
        let count = |l: usize| (0..labels.len()).filter(|&i| m.cells()[i] && labels[i] == l).count();
        (1..=labels.len()).map(count).max().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn largest_component_is_the_largest(h in 1usize..7, w in 1usize..7, bits in any::<u64>()) {
            let m = Mask::new(h, w, (0..h * w).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let largest = m.largest_component();
            prop_assert_eq!(largest.count(), naive_largest(&m));
            prop_assert!(largest.cells().iter().zip(m.cells()).all(|(&l, &c)| c || !l));
            let all = m.components();
            prop_assert_eq!(all.first().map_or(0, Mask::count), largest.count());
            prop_assert!(all.windows(2).all(|two| two[0].count() >= two[1].count()), "largest first");
            let together: Vec<bool> = (0..h * w).map(|i| all.iter().any(|c| c.cells()[i])).collect();
            prop_assert_eq!(&together[..], m.cells());
            prop_assert_eq!(all.iter().map(Mask::count).sum::<usize>(), m.count(), "no cell is in two");
            prop_assert!(all.iter().all(|c| &c.largest_component() == c), "each is connected");
            if let Some(b) = largest.bounds() {
                prop_assert!(b.left + b.width <= w && b.top + b.height <= h);
                prop_assert!(b.width * b.height >= largest.count());
            }
        }

        #[test]
        fn foreground_does_not_depend_on_scale_or_order(values in prop::collection::vec(0u16..1000, 12)) {
            let at = |scale: f32| {
                let v: Vec<f32> = values.iter().map(|&v| f32::from(v) * scale).collect();
                foreground(Map::new(3, 4, &v).unwrap()).unwrap()
            };
            prop_assert_eq!(at(1.0), at(4.0));
            prop_assert!(at(1.0).count() > 0);
            let reversed: Vec<f32> = values.iter().rev().map(|&v| f32::from(v)).collect();
            let back = foreground(Map::new(3, 4, &reversed).unwrap()).unwrap();
            let forward = at(1.0);
            prop_assert!(forward.cells().iter().eq(back.cells().iter().rev()));
        }
    }
}
