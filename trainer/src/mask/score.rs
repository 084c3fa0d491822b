//! Step one: scores of cells, and what of them is foreground.

use tch::{Kind, Tensor};

use super::to_float;

/// Smallest range of a map that counts as one.
const TINY: f64 = 1e-6;

/// SCDA aggregation of a feature map `(B, C, h, w)`: the sum over channels, `(B, h, w)`.
pub fn aggregate(features: &Tensor) -> Tensor {
    features.sum_dim_intlist([1i64].as_slice(), false, Kind::Float)
}

/// Foreground of aggregation maps `(B, h, w)` as ones and zeros: cells that reach the map's mean and this many population
/// standard deviations more (the published rule has 0.6 less). A constant map is all foreground.
pub fn foreground(maps: &Tensor, deviations: f64) -> Tensor {
    let dims = [1i64, 2];
    let mean = maps.mean_dim(dims.as_slice(), true, Kind::Float);
    let std = (maps - &mean).square().mean_dim(dims.as_slice(), true, Kind::Float).sqrt();
    to_float(&maps.ge_tensor(&(mean + std * deviations)))
}

/// Maps `(B, h, w)` on a grid of `cells` along both sides: a coarser one has the means, a finer one is interpolated
/// bilinearly between the middles of cells.
pub fn on_grid(maps: &Tensor, cells: i64) -> Tensor {
    let most = maps.size()[1..].iter().copied().max().unwrap_or_default();
    if maps.size()[1..] == [cells, cells] {
        return maps.shallow_clone();
    }
    let maps = maps.unsqueeze(1);
    let made = if most > cells {
        maps.adaptive_avg_pool2d([cells; 2])
    } else {
        maps.upsample_bilinear2d([cells; 2], false, None, None)
    };
    made.squeeze_dim(1)
}

/// Each of the maps `(B, h, w)` scaled to 0..1; ones where it is constant.
pub fn scaled(maps: &Tensor) -> Tensor {
    let (low, high) = (maps.amin([1i64, 2], true), maps.amax([1i64, 2], true));
    let range = high - &low;
    ((maps - low) / range.clamp_min(TINY)).where_self(&range.gt(TINY), &maps.ones_like())
}

/// For each picture what belongs to the one half a batch further on, `(B, ...)`: never its own, and a permutation, so that
/// the batch as a whole has what it had.
pub fn of_another(x: &Tensor) -> Tensor {
    x.roll([x.size()[0] / 2], [0i64])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn maps(values: &[f32], h: i64, w: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, h, w])
    }

    #[test]
    fn foreground_is_where_the_map_says() {
        let _alone = crate::rng::alone();
        // mean 2.5, population std 3.76: threshold 0.25; the published code compared with sorted rows
        let map = maps(&[0.0, 9.0, 0.5, 0.5], 2, 2);
        let fg: Vec<f32> = Vec::try_from(foreground(&map, -0.6).flatten(0, -1)).expect("numbers");
        assert_eq!(fg, [0.0, 1.0, 1.0, 1.0]);
        let flat = foreground(&maps(&[3.0; 4], 2, 2), -0.6);
        assert_eq!(flat.sum(Kind::Float).double_value(&[]), 4.0);
    }

    #[test]
    fn foreground_equals_a_naive_reference_at_every_position() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let map = Tensor::rand([5, 6, 7], (Kind::Float, Device::Cpu)).square();
        let fg = foreground(&map, -0.6);
        for n in 0..5 {
            let values: Vec<f64> = (0..42).map(|i| map.double_value(&[n, i / 7, i % 7])).collect();
            let mean = values.iter().sum::<f64>() / 42.0;
            let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 42.0).sqrt();
            for (i, v) in (0..42).zip(values) {
                assert_eq!(fg.double_value(&[n, i / 7, i % 7]), f64::from(u8::from(v >= mean - 0.6 * std)));
            }
        }
    }

    /// A finer grid has what lies between: the foreground is cut out of the interpolated map, not enlarged.
    #[test]
    fn a_finer_grid_is_interpolated_from_the_middles_of_cells() {
        let _alone = crate::rng::alone();
        let map = maps(&[0.0, 4.0, 8.0, 12.0], 2, 2);
        let fine = on_grid(&map, 4);
        for (y, x) in (0..4).flat_map(|y| (0..4).map(move |x| (y, x))) {
            // a quarter cell outside the middles the value is the last one
            let along = |i: i64| ((i as f64 + 0.5) / 2.0 - 0.5).clamp(0.0, 1.0);
            let expected = 8.0 * along(y) + 4.0 * along(x);
            assert!((fine.double_value(&[0, y, x]) - expected).abs() < 1e-5, "{y} {x}");
        }
        assert_eq!(on_grid(&map, 2), map);
        assert_eq!(on_grid(&map, 1).double_value(&[0, 0, 0]), 6.0, "a coarser one has the mean");
        let enlarged = foreground(&map, 0.0)
            .repeat_interleave_self_int(2, 1, None)
            .repeat_interleave_self_int(2, 2, None);
        assert_ne!(foreground(&on_grid(&map, 4), 0.3), enlarged);
    }

    #[test]
    fn maps_are_scaled_one_by_one() {
        let _alone = crate::rng::alone();
        let scaled = scaled(&maps(&[1.0, 2.0, 3.0, 5.0, 7.0, 7.0, 7.0, 7.0, -4.0, -4.0, 0.0, 4.0], 2, 2));
        let expected = [0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.5, 1.0];
        assert_eq!(Vec::<f32>::try_from(scaled.flatten(0, -1)).expect("numbers"), expected);
    }

    /// Nobody is guided by itself, and everybody's map guides somebody.
    #[test]
    fn the_map_of_another_is_never_ones_own() {
        let _alone = crate::rng::alone();
        for n in 2..10i64 {
            let own = Tensor::arange(n, (Kind::Int64, Device::Cpu));
            let other: Vec<i64> = Vec::try_from(&of_another(&own)).expect("numbers");
            assert!(other.iter().zip(0..).all(|(&other, own)| other != own), "{other:?}");
            let mut all = other.clone();
            all.sort_unstable();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
            let filled: Vec<i64> = Vec::try_from(&crate::mask::of_another_picture(&own)).expect("numbers");
            assert!(filled.iter().zip(0..).all(|(&from, own)| from != own));
            assert!(
                n < 4 || filled.iter().zip(&other).all(|(from, map)| from != map),
                "fills and maps are of two others"
            );
        }
    }
}
