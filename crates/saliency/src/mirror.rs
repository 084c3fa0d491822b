//! The map of a picture beside that of its mirror image: what both say is more than what one says, and where they
//! disagree neither is worth much.

use crate::{Error, Map, Mask};

/// A map seen in a mirror: columns from right to left. Shape: `(h, w)`, row-major.
pub fn mirrored(map: Map<'_>) -> Vec<f32> {
    map.values().chunks_exact(map.width()).flat_map(|row| row.iter().rev().copied()).collect()
}

/// The mean of two maps of one size.
///
/// # Errors
/// [`Error::Length`] for maps of different sizes.
pub fn averaged(a: Map<'_>, b: Map<'_>) -> Result<Vec<f32>, Error> {
    same((a.height(), a.width()), (b.height(), b.width()))?;
    Ok(a.values().iter().zip(b.values()).map(|(a, b)| a / 2.0 + b / 2.0).collect())
}

/// Intersection over union of two masks of one size, 0..1. Two masks without foreground agree.
///
/// # Errors
/// [`Error::Length`] for masks of different sizes.
pub fn agreement(a: &Mask, b: &Mask) -> Result<f64, Error> {
    same((a.height(), a.width()), (b.height(), b.width()))?;
    let pairs = || a.cells().iter().zip(b.cells());
    let both = pairs().filter(|(a, b)| **a && **b).count();
    let either = pairs().filter(|(a, b)| **a || **b).count();
    Ok(if either == 0 { 1.0 } else { both as f64 / either as f64 })
}

fn same((height, width): (usize, usize), other: (usize, usize)) -> Result<(), Error> {
    if (height, width) == other {
        return Ok(());
    }
    let got = other.0.saturating_mul(other.1);
    Err(Error::Length { height, width, expected: height.saturating_mul(width), got })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_change_places_and_rows_stay() {
        let map = Map::new(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(mirrored(map), [3.0, 2.0, 1.0, 6.0, 5.0, 4.0]);
        let mean = averaged(map, Map::new(2, 3, &mirrored(map)).unwrap()).unwrap();
        assert_eq!(mean, [2.0, 2.0, 2.0, 5.0, 5.0, 5.0]);
        let largest = Map::new(1, 1, &[f32::MAX]).unwrap();
        assert_eq!(averaged(largest, largest).unwrap(), [f32::MAX], "no overflow");
    }

    #[test]
    fn agreement_is_intersection_over_union() {
        let mask = |cells: [u8; 4]| Mask::new(2, 2, cells.map(|c| c == 1).to_vec()).unwrap();
        let of = |a, b| agreement(&mask(a), &mask(b)).unwrap();
        assert_eq!(of([1, 1, 0, 0], [1, 0, 1, 0]), 1.0 / 3.0);
        assert_eq!(of([1, 0, 0, 0], [0, 1, 1, 1]), 0.0);
        assert_eq!(of([0; 4], [0; 4]), 1.0, "both say that there is nothing");
        assert_eq!(of([0; 4], [1; 4]), 0.0);
    }

    #[test]
    fn sizes_have_to_be_equal() {
        let (wide, tall) = (Mask::new(1, 2, vec![true; 2]).unwrap(), Mask::new(2, 1, vec![true; 2]).unwrap());
        assert!(matches!(agreement(&wide, &tall), Err(Error::Length { height: 1, width: 2, .. })));
        let (a, b) = (Map::new(1, 2, &[0.0; 2]).unwrap(), Map::new(1, 3, &[0.0; 3]).unwrap());
        assert!(matches!(averaged(a, b), Err(Error::Length { expected: 2, got: 3, .. })));
    }

    proptest! {
        #[test]
        fn twice_in_the_mirror_is_the_map(h in 1usize..6, w in 1usize..6, bits in any::<u64>()) {
            let values: Vec<f32> = (0..h * w).map(|i| (bits >> i & 3) as f32).collect();
            let map = Map::new(h, w, &values).unwrap();
            let once = mirrored(map);
            let once = Map::new(h, w, &once).unwrap();
            prop_assert_eq!(mirrored(once), values.clone());
            let mask = |m: Map<'_>| crate::foreground(m).unwrap();
            let (a, b) = (agreement(&mask(map), &mask(once)).unwrap(), agreement(&mask(once), &mask(map)).unwrap());
            prop_assert_eq!(a, b);
            prop_assert!((0.0..=1.0).contains(&a));
            prop_assert_eq!(agreement(&mask(map), &mask(map)).unwrap(), 1.0);
        }
    }
}
