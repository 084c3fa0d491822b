//! The grid of values, and its bilinear interpolation.

use crate::{Error, Rect, check_len};

/// A checked view of a saliency map: `(height, width)`, row-major, every value finite.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    height: usize,
    width: usize,
    values: &'a [f32],
}

impl<'a> Map<'a> {
    /// Checks that `values` fill a non-empty grid and are finite.
    pub fn new(height: usize, width: usize, values: &'a [f32]) -> Result<Self, Error> {
        check_len(height, width, 1, values.len())?;
        match values.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(Error::NotFinite { index }),
            None => Ok(Self { height, width, values }),
        }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, row-major.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Population mean and standard deviation, in double precision: a constant map has exactly 0 deviation.
    pub fn mean_std(&self) -> (f64, f64) {
        let n = self.values.len() as f64;
        let mean = self.values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let variance = self.values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt())
    }

    /// Smallest and largest value.
    pub fn range(&self) -> (f32, f32) {
        self.values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(lo, hi), &v| (lo.min(v), hi.max(v)))
    }

    pub(crate) fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row * self.width + column]
    }
}

/// One axis of a bilinear interpolation: the two neighbours and the weight of the second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tap {
    pub(crate) low: usize,
    pub(crate) high: usize,
    pub(crate) weight: f32,
}

impl Tap {
    /// The tap at `position` cells from the grid's edge (cell `i` has its centre at `i + 0.5`), clamped to the grid.
    pub(crate) fn new(position: f64, cells: usize) -> Self {
        let last = cells - 1;
        let centre = (position - 0.5).clamp(0.0, last as f64);
        let low = (centre.floor() as usize).min(last);
        Self { low, high: (low + 1).min(last), weight: (centre - low as f64) as f32 }
    }
}

pub(crate) fn bilinear(map: Map<'_>, row: Tap, column: Tap) -> f32 {
    let mix = |a: f32, b: f32, w: f32| a + (b - a) * w;
    let top = mix(map.at(row.low, column.low), map.at(row.low, column.high), column.weight);
    let bottom = mix(map.at(row.high, column.low), map.at(row.high, column.high), column.weight);
    mix(top, bottom, row.weight)
}

/// The map scaled linearly to 0..1; a constant map becomes all ones (everything is equally salient).
pub fn normalise(map: Map<'_>) -> Vec<f32> {
    let (low, high) = map.range();
    let span = f64::from(high) - f64::from(low);
    if span <= 0.0 {
        return vec![1.0; map.values().len()];
    }
    map.values().iter().map(|&v| ((f64::from(v) - f64::from(low)) / span) as f32).collect()
}

/// Bilinear interpolation to `height` x `width`, edges clamped, pixel centres at half integers: what PyTorch calls
/// `interpolate(mode="bilinear", align_corners=False)`. Shape: `(height, width)`, row-major.
pub fn upsample(map: Map<'_>, height: usize, width: usize) -> Vec<f32> {
    let tap =
        |i: usize, of: usize, cells: usize| Tap::new((i as f64 + 0.5) * cells as f64 / of as f64, cells);
    let columns: Vec<Tap> = (0..width).map(|x| tap(x, width, map.width())).collect();
    let mut out = Vec::with_capacity(height.saturating_mul(width));
    for y in 0..height {
        let row = tap(y, height, map.height());
        out.extend(columns.iter().map(|&column| bilinear(map, row, column)));
    }
    out
}

/// [`upsample`] of a map that covers `rect` of a picture of `height` x `width` pixels, not necessarily all of it: outside,
/// the values of the nearest edge go on. Shape: `(height, width)`, row-major.
pub fn spread(map: Map<'_>, rect: &Rect, height: usize, width: usize) -> Vec<f32> {
    let tap = |i: usize, start: f64, length: f64, cells: usize| {
        Tap::new((i as f64 + 0.5 - start) / length * cells as f64, cells)
    };
    let columns: Vec<Tap> = (0..width).map(|x| tap(x, rect.left, rect.width, map.width())).collect();
    let mut out = Vec::with_capacity(height.saturating_mul(width));
    for y in 0..height {
        let row = tap(y, rect.top, rect.height, map.height());
        out.extend(columns.iter().map(|&column| bilinear(map, row, column)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreading_is_upsampling_in_a_part_of_the_picture() {
        let map = Map::new(2, 2, &[0.0, 4.0, 8.0, 12.0]).unwrap();
        let whole = Rect { left: 0.0, top: 0.0, width: 4.0, height: 4.0 };
        assert_eq!(spread(map, &whole, 4, 4), upsample(map, 4, 4));
        // two columns to the left of the map, one to the right of it
        let part = Rect { left: 2.0, top: 0.0, width: 2.0, height: 2.0 };
        assert_eq!(spread(map, &part, 2, 5), [0.0, 0.0, 0.0, 4.0, 4.0, 8.0, 8.0, 8.0, 12.0, 12.0]);
    }

    #[test]
    fn rejects_what_is_no_map() {
        assert_eq!(Map::new(0, 3, &[]).err(), Some(Error::Empty { height: 0, width: 3 }));
        assert_eq!(
            Map::new(2, 2, &[0.0; 3]).err(),
            Some(Error::Length { height: 2, width: 2, expected: 4, got: 3 })
        );
        assert_eq!(Map::new(1, 2, &[0.0, f32::NAN]).err(), Some(Error::NotFinite { index: 1 }));
        assert_eq!(Map::new(1, 2, &[f32::INFINITY, 0.0]).err(), Some(Error::NotFinite { index: 0 }));
        assert!(matches!(Map::new(usize::MAX, 2, &[0.0]), Err(Error::Length { .. })));
    }

    #[test]
    fn mean_and_population_deviation() {
        let map = Map::new(1, 4, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let (mean, std) = map.mean_std();
        assert_eq!(mean, 2.5);
        assert!((std - 1.25f64.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn normalises_to_the_unit_range() {
        let map = Map::new(1, 3, &[-2.0, 0.0, 6.0]).unwrap();
        assert_eq!(normalise(map), [0.0, 0.25, 1.0]);
        assert_eq!(normalise(Map::new(1, 2, &[7.0, 7.0]).unwrap()), [1.0, 1.0]);
        let wide = [f32::MIN, f32::MAX];
        assert_eq!(normalise(Map::new(1, 2, &wide).unwrap()), [0.0, 1.0]);
    }

    /// Values of `torch.nn.functional.interpolate` for the same grid (align_corners=False).
    #[test]
    fn upsamples_as_torch_does() {
        let map = Map::new(2, 2, &[0.0, 4.0, 8.0, 12.0]).unwrap();
        #[rustfmt::skip]
        let expected = [
            0.0, 1.0, 3.0, 4.0,
            2.0, 3.0, 5.0, 6.0,
            6.0, 7.0, 9.0, 10.0,
            8.0, 9.0, 11.0, 12.0,
        ];
        assert_eq!(upsample(map, 4, 4), expected);
    }

    #[test]
    fn upsampling_to_the_same_size_is_the_identity_and_stays_in_range() {
        let values = [3.0, -1.0, 2.0, 5.0, 0.5, 4.0];
        let map = Map::new(2, 3, &values).unwrap();
        assert_eq!(upsample(map, 2, 3), values);
        assert!(upsample(map, 13, 17).iter().all(|v| (-1.0..=5.0).contains(v)));
        assert!(upsample(map, 0, 5).is_empty());
        assert_eq!(upsample(Map::new(1, 1, &[2.5]).unwrap(), 3, 2), [2.5; 6]);
    }
}
