//! Specks and pinholes, which a mask of pixels has and one of cells has not.

use crate::Mask;

/// The mask without foreground parts and without holes of fewer than `cells` cells (both 4-connected). Where all
/// parts are small, the largest alone stays; of equals the first.
#[must_use]
pub fn without_specks(mask: &Mask, cells: usize) -> Mask {
    let mut parts = Vec::new();
    mask.each_component(|part| parts.push(part));
    // Of equals `max_by_key` has the last, so they come from behind.
    let largest = parts.iter().enumerate().rev().max_by_key(|(_, part)| part.len()).map(|(at, _)| at);
    let mut kept = vec![false; mask.cells().len()];
    for (at, part) in parts.iter().enumerate() {
        if part.len() >= cells || Some(at) == largest {
            part.iter().for_each(|&index| kept[index] = true);
        }
    }
    let (height, width) = (mask.height(), mask.width());
    let edge = |i: &usize| {
        let (row, column) = (i / width, i % width);
        row == 0 || column == 0 || row + 1 == height || column + 1 == width
    };
    let mut holes = Vec::new();
    mask.with(kept.iter().map(|cell| !cell).collect()).each_component(|part| {
        if part.len() < cells && !part.iter().any(edge) {
            holes.extend(part);
        }
    });
    for index in holes {
        kept[index] = true;
    }
    mask.with(kept)
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
    fn small_parts_go_and_small_holes_close() {
        let found = without_specks(&mask(&["####..#", "#.##...", "####.##", "....##."]), 3);
        assert_eq!(found, mask(&["####...", "####...", "####.##", "....##."]));
        let open = mask(&["####", "#..#", "####", "##.#"]);
        assert_eq!(without_specks(&open, 2), open, "a hole of two stays, and so does a notch of the edge");
        assert_eq!(without_specks(&open, 3), mask(&["####", "####", "####", "##.#"]));
    }

    #[test]
    fn the_largest_part_stays() {
        assert_eq!(without_specks(&mask(&["#..", "..#"]), 9), mask(&["#..", "..."]), "of equals the first");
        assert_eq!(without_specks(&mask(&["##.", "..#"]), 9), mask(&["##.", "..."]));
        assert_eq!(without_specks(&mask(&["..."]), 9).count(), 0);
        let whole = mask(&["#.", ".#"]);
        assert_eq!(without_specks(&whole, 0), whole);
    }

    proptest! {
        #[test]
        fn nothing_small_is_left(h in 1usize..8, w in 1usize..8, bits in any::<u64>(), cells in 0usize..9) {
            let m = Mask::new(h, w, (0..h * w).map(|i| bits >> i & 1 == 1).collect()).unwrap();
            let clean = without_specks(&m, cells);
            let parts = clean.components();
            prop_assert!(parts.len() <= 1 || parts.iter().all(|p| p.count() >= cells));
            prop_assert_eq!(clean.count() == 0, m.count() == 0);
            prop_assert_eq!(&without_specks(&clean, cells), &clean, "once is enough");
        }
    }
}
