//! Outlines of masks as polygons on the corners of the cells.

use std::collections::BTreeMap;

use crate::Mask;

/// A closed outline; the last point joins the first. Points are corners of cells, `(x, y)`, so a mask of one cell
/// has the corners (0, 0), (1, 0), (1, 1), (0, 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Corners where the outline turns, clockwise (y down) around foreground, anticlockwise around a hole.
    pub points: Vec<(usize, usize)>,
}

impl Ring {
    /// Twice the signed area in cells: positive around foreground, negative around a hole.
    pub fn double_area(&self) -> i128 {
        let next = self.points.iter().cycle().skip(1);
        let cross = |(a, b): (&(usize, usize), &(usize, usize))| {
            a.0 as i128 * b.1 as i128 - b.0 as i128 * a.1 as i128
        };
        self.points.iter().zip(next).map(cross).sum()
    }

    /// Whether this outline is that of a hole.
    pub fn is_hole(&self) -> bool {
        self.double_area() < 0
    }
}

type Corner = (usize, usize);
type Direction = (i8, i8);

/// The outlines of a mask: one ring for every 4-connected component and one for every hole in it. Filling the
/// rings by the even-odd rule gives the mask back. Ordered by their leftmost, then topmost corner.
pub fn rings(mask: &Mask) -> Vec<Ring> {
    let mut edges = edges(mask);
    let mut found = Vec::new();
    while let Some((&start, directions)) = edges.iter().next() {
        let Some(&first) = directions.first() else {
            edges.remove(&start);
            continue;
        };
        found.push(follow(&mut edges, start, first));
    }
    found
}

/// Directed unit edges by their start, with the foreground on their right hand (y down).
fn edges(mask: &Mask) -> BTreeMap<Corner, Vec<Direction>> {
    let mut out: BTreeMap<Corner, Vec<Direction>> = BTreeMap::new();
    let mut add = |at: Corner, direction: Direction| out.entry(at).or_default().push(direction);
    for row in 0..mask.height() {
        for column in 0..mask.width() {
            if !mask.get(row, column) {
                continue;
            }
            if row == 0 || !mask.get(row - 1, column) {
                add((column, row), (1, 0));
            }
            if !mask.get(row, column + 1) {
                add((column + 1, row), (0, 1));
            }
            if !mask.get(row + 1, column) {
                add((column + 1, row + 1), (-1, 0));
            }
            if column == 0 || !mask.get(row, column - 1) {
                add((column, row + 1), (0, -1));
            }
        }
    }
    out
}

/// Walks one outline from `start`, taking its edges out of the map.
fn follow(edges: &mut BTreeMap<Corner, Vec<Direction>>, start: Corner, first: Direction) -> Ring {
    let mut points = vec![start];
    let (mut at, mut direction) = (start, first);
    loop {
        take(edges, at, direction);
        at = (at.0.wrapping_add_signed(direction.0.into()), at.1.wrapping_add_signed(direction.1.into()));
        // Where two cells touch at a corner only, turning right keeps to the cell that the walk goes around.
        let right = (-direction.1, direction.0);
        let left = (direction.1, -direction.0);
        let here = edges.get(&at).map_or(&[][..], Vec::as_slice);
        let home = |d: &Direction| at == start && *d == first;
        let next = [right, direction, left].into_iter().find(|d| home(d) || here.contains(d));
        match next.filter(|d| !home(d)) {
            Some(next) => {
                if next != direction {
                    points.push(at);
                }
                direction = next;
            }
            None => return close(points, first, direction),
        }
    }
}

/// Drops the start when the outline runs straight through it.
fn close(mut points: Vec<Corner>, first: Direction, last: Direction) -> Ring {
    if first == last {
        points.remove(0);
    }
    Ring { points }
}

fn take(edges: &mut BTreeMap<Corner, Vec<Direction>>, at: Corner, direction: Direction) {
    if let Some(directions) = edges.get_mut(&at) {
        directions.retain(|d| *d != direction);
        if directions.is_empty() {
            edges.remove(&at);
        }
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
    fn one_cell_and_a_bar() {
        assert_eq!(rings(&mask(&["#"]))[0].points, [(0, 0), (1, 0), (1, 1), (0, 1)]);
        assert_eq!(rings(&mask(&[".##"]))[0].points, [(1, 0), (3, 0), (3, 1), (1, 1)]);
        assert!(rings(&mask(&["..", ".."])).is_empty());
    }

    #[test]
    fn a_hole_is_its_own_ring() {
        let found = rings(&mask(&["###", "#.#", "###"]));
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].double_area(), found[0].is_hole()), (18, false));
        assert_eq!((found[1].double_area(), found[1].is_hole()), (-2, true));
    }

    #[test]
    fn cells_that_touch_at_a_corner_are_two() {
        let found = rings(&mask(&["#.", ".#"]));
        assert_eq!(found.iter().map(|r| r.points.len()).collect::<Vec<_>>(), [4, 4]);
        assert!(found.iter().all(|r| r.double_area() == 2));
    }

    /// Even-odd fill by counting the vertical edges to the left of every cell's centre.
    fn fill(found: &[Ring], height: usize, width: usize) -> Vec<bool> {
        let mut out = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let crossings =
                    found.iter().flat_map(|r| r.points.iter().zip(r.points.iter().cycle().skip(1)));
                let left = crossings
                    .filter(|(a, b)| a.0 == b.0 && a.0 <= x && a.1.min(b.1) <= y && y < a.1.max(b.1));
                out.push(left.count() % 2 == 1);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn rings_fill_back_to_the_mask(h in 1usize..8, w in 1usize..8, bits in any::<u64>()) {
            let m = Mask::new(h, w, (0..h * w).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let found = rings(&m);
            prop_assert_eq!(fill(&found, h, w), m.cells());
            let area: i128 = found.iter().map(Ring::double_area).sum();
            prop_assert_eq!(area, 2 * m.count() as i128);
            for ring in &found {
                let around = || ring.points.iter().zip(ring.points.iter().cycle().skip(1));
                prop_assert!(around().all(|(a, b)| (a.0 == b.0) != (a.1 == b.1)), "every edge is straight");
                let turns = around().zip(around().skip(1));
                prop_assert!(turns.clone().all(|((a, b), (_, c))| (a.0 == b.0) != (b.0 == c.0)), "no idle point");
            }
        }
    }
}
