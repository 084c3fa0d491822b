//! Outlines of masks as polygons on the corners of the cells.

use std::collections::BTreeMap;

use crate::{Mask, Placement};

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

/// The mask of a grid as COCO's `segmentation`: one `[x1, y1, x2, y2, ..]` for each polygon, in pixels of the picture
/// that the grid lies in, largest first, cut at the picture's edges.
///
/// A COCO polygon has no holes, so a part with holes is cut along the left edge of each hole into pieces without: the
/// pieces do not overlap, share edges, and together they are the mask.
pub fn polygons(grid: &Mask, place: &Placement) -> Vec<Vec<f64>> {
    let point = |&(x, y): &Corner| {
        let (x, y) = (x as f64 / grid.width() as f64, y as f64 / grid.height() as f64);
        let x = (place.crop.left + x * place.crop.width).clamp(0.0, f64::from(place.width));
        let y = (place.crop.top + y * place.crop.height).clamp(0.0, f64::from(place.height));
        (x, y)
    };
    let outline = |ring: Ring| {
        let mut points: Vec<(f64, f64)> = ring.points.iter().map(point).collect();
        points.dedup();
        points
    };
    let inside = |points: &Vec<(f64, f64)>| area(points) > 0.0;
    let flat = |points: Vec<(f64, f64)>| points.into_iter().flat_map(|(x, y)| [x, y]).collect();
    pieces(grid).into_iter().map(outline).filter(inside).map(flat).collect()
}

fn area(points: &[(f64, f64)]) -> f64 {
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum::<f64>() / 2.0
}

/// Outlines without holes of parts that make up the mask, largest first.
fn pieces(mask: &Mask) -> Vec<Ring> {
    let mut waiting = mask.components();
    let mut found = Vec::new();
    while let Some(part) = waiting.pop() {
        let outlines = rings(&part);
        let hole = outlines.iter().find(|r| r.is_hole());
        // Cut there, the hole lies open to the left: every round has one hole less.
        match hole.and_then(|h| h.points.iter().map(|p| p.0).min()) {
            Some(column) => waiting.extend(part.cut(column).iter().flat_map(Mask::components)),
            None => found.extend(outlines),
        }
    }
    found.sort_by_key(|r| (std::cmp::Reverse(r.double_area()), r.points.first().copied()));
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
    use crate::Rect;
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

    #[test]
    fn polygons_are_in_the_pictures_pixels() {
        let place = Placement::whole(20, 10);
        assert_eq!(polygons(&mask(&["#.", ".."]), &place), [[0.0, 0.0, 10.0, 0.0, 10.0, 5.0, 0.0, 5.0]]);
        assert!(polygons(&mask(&["..", ".."]), &place).is_empty());
        let two = polygons(&mask(&["#...", "..##"]), &place);
        assert_eq!(two.iter().map(|p| p[0]).collect::<Vec<_>>(), [10.0, 0.0], "largest first");
        let crop = Rect { left: -10.0, top: 0.0, width: 20.0, height: 10.0 };
        let padded = Placement { width: 10, height: 10, crop };
        assert!(polygons(&mask(&["#."]), &padded).is_empty(), "outside the picture");
    }

    #[test]
    fn a_hole_is_cut_open() {
        let ring = mask(&["###", "#.#", "###"]);
        let found = pieces(&ring);
        assert!(found.len() > 1 && found.iter().all(|r| !r.is_hole()), "{found:?}");
        assert_eq!(fill(&found, 3, 3), ring.cells());
    }

    /// Whether a point is in the polygon: crossings of a ray to the left, by arithmetic on its flat list.
    fn covers(polygon: &[f64], (x, y): (f64, f64)) -> bool {
        let n = polygon.len() / 2;
        let edge = |i: usize| {
            let j = (i + 1) % n;
            (polygon[2 * i], polygon[2 * i + 1], polygon[2 * j], polygon[2 * j + 1])
        };
        let crosses = |(ax, ay, bx, by): (f64, f64, f64, f64)| {
            (ay > y) != (by > y) && ax + (y - ay) / (by - ay) * (bx - ax) < x
        };
        (0..n).map(edge).filter(|e| crosses(*e)).count() % 2 == 1
    }

    proptest! {
        #[test]
        fn polygons_rasterise_back_to_the_mask(
            h in 1usize..8, w in 1usize..8, bits in any::<u64>(), size in (1u32..50, 1u32..50),
            fraction in 0.2f64..1.0, shift in 0.0f64..1.0,
        ) {
            let m = Mask::new(h, w, (0..h * w).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let (pw, ph) = (f64::from(size.0), f64::from(size.1));
            let (cw, ch) = (pw * fraction, ph * fraction);
            let crop = Rect { left: (pw - cw) * shift, top: (ph - ch) * shift, width: cw, height: ch };
            let place = Placement { width: size.0, height: size.1, crop };
            let found = polygons(&m, &place);
            // In how many polygons a point is.
            let within = |x: f64, y: f64| found.iter().filter(|p| covers(p, (x, y))).count();
            for (i, &cell) in m.cells().iter().enumerate() {
                let x = crop.left + (i % w) as f64 * cw / w as f64 + cw / w as f64 / 2.0;
                let y = crop.top + (i / w) as f64 * ch / h as f64 + ch / h as f64 / 2.0;
                prop_assert_eq!(within(x, y), usize::from(cell), "cell {} of {}x{}", i, w, h);
            }
            let pixels = place.mask(&m).unwrap();
            for y in 0..size.1 {
                for x in 0..size.0 {
                    let (cx, cy) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
                    // On an edge between cells rounding decides.
                    let near = |c: f64, start: f64, length: f64, cells: usize| {
                        let p = (c - start) / length * cells as f64;
                        (p - p.round()).abs() < 1e-6
                    };
                    if !near(cx, crop.left, cw, w) && !near(cy, crop.top, ch, h) {
                        let expected = usize::from(pixels.get(y as usize, x as usize));
                        prop_assert_eq!(within(cx, cy), expected, "pixel {},{}", x, y);
                    }
                }
            }
        }

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
