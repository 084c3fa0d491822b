//! Saliency-guided masking (arXiv 2309.12757): localise, choose cells, fill.
//!
//! Pure functions over batches; nothing here knows a network. A *cell* is one position of the
//! saliency map `(h, w)` and covers `(H / h, W / w)` pixels of the view.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::augment::FixedBlur;
use crate::config::{Fills, Kernel, Strategy};
use crate::device::upload;

/// The `hp` strategy's cap: a masked share that reaches the first counts as the second.
const HP_CAP: (f64, f64) = (0.56, 0.55);
/// Share of images that the `hp` strategy masks around one square instead of by cells.
const FOCAL_P: f64 = 0.2;
/// Share of the others in which all channels lose the same cells.
const SPATIAL_P: f64 = 0.3;
/// Side of the square that a focal query keeps, as a share of the image (200 of 224 pixels).
const FOCAL_QUERY_SIDE: f64 = 200.0 / 224.0;
/// Side of the square that a focal hard negative loses (130 of 224 pixels).
const FOCAL_NEGATIVE_SIDE: f64 = 130.0 / 224.0;

/// The sides in pixels of the squares that a focal query keeps and a focal hard negative loses, for views of side `size`.
pub fn focal_sides(size: usize) -> [i64; 2] {
    [FOCAL_QUERY_SIDE, FOCAL_NEGATIVE_SIDE].map(|share| (size as f64 * share).round() as i64)
}

/// Standard deviation of the noise in a query, and in a hard negative.
const NOISE: (f64, f64) = (0.18, 0.14);

/// What a masked view is for; it decides where cells are taken and how strong the noise is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Still the same picture: masks spread over foreground and background.
    Positive,
    /// No longer the picture: its foreground masked.
    HardNegative,
}

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
    maps.ge_tensor(&(mean + std * deviations)).to_kind(Kind::Float)
}

/// A masked share `(B, 1)` as it counts.
fn share(masked: &Tensor, capped: bool) -> Tensor {
    let (from, to) = HP_CAP;
    if capped { masked.masked_fill(&masked.ge(from), to) } else { masked.shallow_clone() }
}

/// How many cells each image of a batch loses in the foreground and in the background, `(B, 1)` both.
///
/// `foreground` `(B, cells)`, `ratio` `(B, 1)`. Foreground: round(ratio * FG share * cells), the masked share ratio * FG
/// share capped. Together with the background: round(ratio * cells), the ratio capped, whatever the foreground is, so
/// that saliency and random masks of one ratio hide equally much; the published floor hides half a cell less on
/// average. A hard negative loses its foreground alone.
fn counts(foreground: &Tensor, ratio: &Tensor, purpose: Purpose, capped: bool) -> (Tensor, Tensor) {
    let cells = foreground.size()[1] as f64;
    let there = foreground.sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let fg = (share(&(ratio * &there / cells), capped) * cells).round().minimum(&there);
    if purpose == Purpose::HardNegative {
        let none = fg.zeros_like();
        return (fg, none);
    }
    let total = (share(ratio, capped) * cells).round();
    // rounding may ask for a cell more of one kind than there is
    let least = (&total - (cells - &there)).clamp_min(0.0);
    let fg = fg.minimum(&total).maximum(&least);
    let bg = total - &fg;
    (fg, bg)
}

/// Chooses cells for a batch: a mask of ones (masked) and zeros, `(B, G, h, w)`, where the G
/// groups (1, or one a channel) draw their own cells.
///
/// `foreground` is `(B, h, w)`; `ratio` `(B)`; `capped` says whether the masked share is, as the `hp` strategy has it.
/// With a foreground of ones the choice is uniform: that is random guidance.
pub fn cells(foreground: &Tensor, ratio: &Tensor, groups: i64, purpose: Purpose, capped: bool) -> Tensor {
    let (b, h, w) = foreground.size3().unwrap_or_else(|e| panic!("a foreground is (B, h, w): {e}"));
    let fg = foreground.view([b, 1, h * w]);
    let ratio = ratio.view([b, 1]);
    let score = || Tensor::rand([b, groups, h * w], (Kind::Float, foreground.device()));
    let (fg_count, bg_count) = counts(&fg.squeeze_dim(1), &ratio, purpose, capped);
    let (fg_count, bg_count) = (fg_count.unsqueeze(1), bg_count.unsqueeze(1)); // (B, 1, 1)
    let is_fg = fg.gt(0.5);
    // scores are in 0..1, so the foreground's come first, in their own order, which taking one away does not change
    let of_fg = score().g_sub_scalar_(1.0);
    let of_bg = if purpose == Purpose::Positive { score() } else { of_fg.ones_like() };
    let ranked = of_fg.where_self(&is_fg, &of_bg).argsort(-1, false).argsort(-1, false);
    let limit = match purpose {
        Purpose::Positive => {
            let behind = fg.sum_dim_intlist([-1i64].as_slice(), true, Kind::Float);
            fg_count.where_self(&is_fg, &(behind + bg_count))
        }
        Purpose::HardNegative => fg_count * &fg,
    };
    ranked.lt_tensor(&limit).to_kind(Kind::Float).view([b, groups, h, w])
}

/// Nearest-neighbour enlargement of `(B, G, h, w)` to `(B, G, size, size)`, for any h and w.
pub fn enlarge(mask: &Tensor, size: i64) -> Tensor {
    mask.upsample_nearest2d([size, size], None, None)
}

/// Masks views of one size with one strategy.
#[derive(Debug)]
pub struct Masker {
    strategy: Strategy,
    size: i64,
    /// 0, 1, ... of pixels along a side.
    places: Tensor,
    blur: Option<FixedBlur>,
}

impl Masker {
    /// For views of side `size` pixels on `device`, filled as `fills` says.
    pub fn new(strategy: Strategy, fills: &Fills, size: usize, device: Device) -> Self {
        let Kernel { side, sigma } = fills.blur;
        let blur = (strategy == Strategy::Blur).then(|| FixedBlur::new(size, side, sigma, device));
        let places = Tensor::arange(size as i64, (Kind::Int64, Device::Cpu)).to(device);
        Self { strategy, size: size as i64, places, blur }
    }

    /// A masked copy of `view` `(B, 3, S, S)`, and the mask, `(B, 1 or 3, S, S)` of ones and zeros.
    ///
    /// `foreground` is `(B, h, w)`; the share of cells is uniform in `range`, drawn from `rng`.
    /// What is drawn on the device comes from libtorch's generator, which the engine seeds a step.
    pub fn apply(
        &self,
        view: &Tensor,
        foreground: &Tensor,
        range: [f64; 2],
        purpose: Purpose,
        rng: &mut impl Rng,
    ) -> (Tensor, Tensor) {
        let b = view.size()[0];
        let ratio = upload(&uniform(b, range, rng), view.device());
        let mask = match self.strategy {
            Strategy::Hp => self.high_pass_mask(foreground, &ratio, purpose, rng),
            _ => enlarge(&cells(foreground, &ratio, 1, purpose, false), self.size),
        };
        // exactly one of the two, as the mask is of ones and zeros
        (view.lerp_tensor(&self.fill(view, purpose), &mask), mask)
    }

    fn fill(&self, view: &Tensor, purpose: Purpose) -> Tensor {
        let strength = if purpose == Purpose::Positive { NOISE.0 } else { NOISE.1 };
        let noise = || view.randn_like().g_mul_scalar_(strength);
        match (self.strategy, &self.blur) {
            (Strategy::Blur, Some(blur)) => blur.apply(view),
            (Strategy::Mean, _) => view.mean_dim([2i64, 3].as_slice(), true, Kind::Float).expand_as(view),
            (Strategy::Zero, _) => view.zeros_like(),
            _ => noise(),
        }
    }

    /// The `hp` strategy's mixture a sample: focal, spatial or channel-wise. `(B, 3, S, S)`.
    fn high_pass_mask(
        &self,
        foreground: &Tensor,
        ratio: &Tensor,
        purpose: Purpose,
        rng: &mut impl Rng,
    ) -> Tensor {
        let b = foreground.size()[0] as usize;
        let device = foreground.device();
        let own = cells(foreground, ratio, 3, purpose, true); // (B, 3, h, w)
        let shared = own.narrow(1, 0, 1).expand_as(&own);
        let flags = |p: f64, rng: &mut _| (0..b).map(|_| i64::from(Rng::random_bool(rng, p))).collect();
        let (spatial, focal): (Vec<i64>, Vec<i64>) = (flags(SPATIAL_P, rng), flags(FOCAL_P, rng));
        let side = self.focal_side(purpose);
        let starts = |rng: &mut _| (0..b).map(|_| Rng::random_range(rng, 0..=self.size - side)).collect();
        let (rows, columns): (Vec<i64>, Vec<i64>) = (starts(rng), starts(rng));
        // one copy to the device for all of them
        let drawn = Tensor::from_slice(&[spatial, focal, rows, columns].concat()).view([4, -1, 1, 1, 1]);
        let drawn = upload(&drawn, device);
        let [spatial, focal, rows, columns] = [0, 1, 2, 3].map(|i| drawn.select(0, i)); // (B, 1, 1, 1) each
        let grid = enlarge(&shared.where_self(&spatial.gt(0), &own), self.size);
        self.focal_mask(&rows, &columns, purpose).where_self(&focal.gt(0), &grid)
    }

    fn focal_side(&self, purpose: Purpose) -> i64 {
        let [query, negative] = focal_sides(self.size as usize);
        if purpose == Purpose::Positive { query } else { negative }
    }

    /// All but one square (positive), or one square (hard negative), with the corners `(B, 1, 1, 1)`. `(B, 1, S, S)`.
    fn focal_mask(&self, rows: &Tensor, columns: &Tensor, purpose: Purpose) -> Tensor {
        let side = self.focal_side(purpose);
        let within = |start: &Tensor, shape: [i64; 4]| {
            let from = self.places.view(shape) - start;
            from.ge(0).logical_and_(&from.lt(side))
        };
        let (rows, columns) = (within(rows, [1, 1, -1, 1]), within(columns, [1, 1, 1, -1]));
        let square = rows.logical_and(&columns);
        if purpose == Purpose::Positive { square.logical_not() } else { square }.to_kind(Kind::Float)
    }
}

/// `b` numbers, uniform in the range.
fn uniform(b: i64, [low, high]: [f64; 2], rng: &mut impl Rng) -> Tensor {
    let draw: Vec<f32> = (0..b).map(|_| (low + (high - low) * rng.random::<f64>()) as f32).collect();
    Tensor::from_slice(&draw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FillScale;
    use crate::rng::{Domain, stream};

    fn maps(values: &[f32], h: i64, w: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, h, w])
    }

    fn sums(mask: &Tensor) -> Vec<f64> {
        let per = mask.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        Vec::try_from(&per).expect("numbers")
    }

    /// Of the cells with a one in `eligible`, the `count` with the smallest `score`, each kind of cell by itself.
    fn choose(eligible: &Tensor, score: &Tensor, count: &Tensor) -> Tensor {
        let behind: Tensor = score + (1.0 - eligible) * 2.0;
        let ranked = behind.argsort(-1, false).argsort(-1, false);
        ranked.to_kind(Kind::Float).lt_tensor(count).to_kind(Kind::Float) * eligible
    }

    /// Ranking all cells at once chooses the very cells that ranking foreground and background apart does.
    #[test]
    fn one_ranking_equals_one_of_each_kind() {
        let _alone = crate::rng::alone();
        for (seed, purpose) in (0..20).zip([Purpose::Positive, Purpose::HardNegative].into_iter().cycle()) {
            tch::manual_seed(seed);
            let fg = Tensor::rand([6, 5, 7], (Kind::Float, Device::Cpu)).gt(0.6).to_kind(Kind::Float);
            let ratio = Tensor::rand([6], (Kind::Float, Device::Cpu));
            tch::manual_seed(seed + 100);
            let ours = cells(&fg, &ratio, 3, purpose, true);
            tch::manual_seed(seed + 100);
            let flat = fg.view([6, 1, 35]);
            let (fg_count, bg_count) = counts(&fg.view([6, 35]), &ratio.view([6, 1]), purpose, true);
            let score = || Tensor::rand([6, 3, 35], (Kind::Float, Device::Cpu));
            let mut expected = choose(&flat, &score(), &fg_count.unsqueeze(1));
            if purpose == Purpose::Positive {
                expected += choose(&(1.0 - &flat), &score(), &bg_count.unsqueeze(1));
            }
            assert_eq!(ours, expected.view([6, 3, 5, 7]), "{seed}");
        }
    }

    #[test]
    fn foreground_is_where_the_map_says() {
        let _alone = crate::rng::alone();
        // mean 2.5, population std 3.76: threshold 0.25; the published code compared with sorted rows
        let map = maps(&[0.0, 9.0, 0.5, 0.5], 2, 2);
        let fg: Vec<f32> = Vec::try_from(foreground(&map, -0.6).flatten(0, -1)).expect("numbers");
        assert_eq!(fg, [0.0, 1.0, 1.0, 1.0]);
        let flat = foreground(&maps(&[3.0; 4], 2, 2), -0.6);
        assert_eq!(sums(&flat), [4.0]);
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

    /// The foreground's counts are exactly those of the paper, and the totals those of random masks, for every ratio.
    #[test]
    fn cell_counts_follow_the_rule() {
        let _alone = crate::rng::alone();
        tch::manual_seed(4);
        let fg = Tensor::from_slice(&[[1f32; 20].as_slice(), [0f32; 29].as_slice()].concat()).view([1, 7, 7]);
        for ratio in [0.05f64, 0.13, 0.25, 0.4, 0.55, 0.7] {
            let r = Tensor::from_slice(&[ratio as f32]);
            let fg_count = (ratio * 20.0).round_ties_even();
            let total = (ratio * 49.0).round_ties_even();
            let mask = cells(&fg, &r, 1, Purpose::Positive, false);
            assert_eq!(sums(&(&mask * fg.unsqueeze(1))), [fg_count]);
            assert_eq!(sums(&mask), [total]);
            let negative = cells(&fg, &r, 1, Purpose::HardNegative, false);
            assert_eq!(sums(&negative), [fg_count]);
            assert_eq!(sums(&(negative * (1.0 - fg.unsqueeze(1)))), [0.0], "background untouched");
            assert_eq!(sums(&cells(&fg.ones_like(), &r, 1, Purpose::Positive, false)), [total]);
            // the share that is masked is capped, not that of the foreground
            let capped = [0.05f64, 0.13, 0.25, 0.4, 0.55].contains(&ratio);
            let capped = if capped { total } else { 27.0 };
            for purpose in [Purpose::Positive, Purpose::HardNegative] {
                assert_eq!(sums(&cells(&fg.ones_like(), &r, 1, purpose, true)), [capped], "{ratio}");
            }
            assert_eq!(
                sums(&cells(&fg, &r, 1, Purpose::HardNegative, true)),
                [fg_count],
                "20 of 49 is below it"
            );
        }
        let twelve = cells(&fg.ones_like(), &Tensor::from_slice(&[0.25f32]), 3, Purpose::HardNegative, true);
        assert_eq!(sums(&twelve), [36.0], "12 cells in each of three channels");
    }

    /// Masks of one ratio hide as many cells whatever the foreground is, on every grid: foregrounds of every size, and
    /// random guidance, which is a foreground of ones.
    #[test]
    fn saliency_and_random_masks_hide_equally_much() {
        let _alone = crate::rng::alone();
        tch::manual_seed(7);
        let n = 40;
        for (side, [low, high]) in (2..=14i64)
            .flat_map(|s| [[0.05, 0.25], [0.4, 0.7], [0.0, 1.0], [0.15, 0.15]].map(|range| (s, range)))
        {
            let size = Tensor::rand([n, 1, 1], (Kind::Float, Device::Cpu));
            let fg = Tensor::rand([n, side, side], (Kind::Float, Device::Cpu))
                .lt_tensor(&size)
                .to_kind(Kind::Float);
            let ratio = Tensor::rand([n], (Kind::Float, Device::Cpu)) * (high - low) + low;
            for capped in [false, true] {
                let of = |fg: &Tensor| sums(&cells(fg, &ratio, 1, Purpose::Positive, capped));
                let random = of(&fg.ones_like());
                assert_eq!(of(&fg), random, "{side}x{side}, {low} to {high}");
                if !capped {
                    let asked = (&ratio * (side * side) as f64).mean(Kind::Double).double_value(&[]);
                    let mean = random.iter().sum::<f64>() / n as f64;
                    assert!((mean - asked).abs() <= 0.5, "{mean} cells for {asked}");
                }
            }
        }
        // 4x4 cells and the published ratios: 2.4 cells on average, which is 15 %
        let ratio = Tensor::linspace(0.05, 0.25, 2001, (Kind::Float, Device::Cpu));
        let half = Tensor::cat(
            &[
                Tensor::ones([2001, 2, 4], (Kind::Float, Device::Cpu)),
                Tensor::zeros([2001, 2, 4], (Kind::Float, Device::Cpu)),
            ],
            1,
        );
        let counts = sums(&cells(&half, &ratio, 1, Purpose::Positive, false));
        assert!((counts.iter().sum::<f64>() / 2001.0 - 2.406).abs() < 0.01);
    }

    #[test]
    fn cells_are_chosen_uniformly() {
        let _alone = crate::rng::alone();
        tch::manual_seed(5);
        let n = 4000;
        let fg = Tensor::ones([n, 4, 4], (Kind::Float, Device::Cpu));
        let r = Tensor::full([n], 0.25, (Kind::Float, Device::Cpu));
        let share =
            cells(&fg, &r, 1, Purpose::Positive, false).mean_dim([0i64].as_slice(), false, Kind::Float);
        // four standard errors of a share of a quarter
        let error = 4.0 * (0.25f64 * 0.75 / n as f64).sqrt();
        assert!((share - 0.25).abs().max().double_value(&[]) < error);
    }

    #[test]
    fn enlarging_covers_uneven_grids() {
        let _alone = crate::rng::alone();
        let mask = maps(&[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0], 3, 3).unsqueeze(1);
        let large = enlarge(&mask, 64);
        assert_eq!(large.size(), [1, 1, 64, 64]);
        for (y, x) in [(0, 0), (10, 40), (63, 63), (32, 0)] {
            let cell = mask.double_value(&[0, 0, y * 3 / 64, x * 3 / 64]);
            assert_eq!(large.double_value(&[0, 0, y, x]), cell);
        }
    }

    fn masked(strategy: Strategy, purpose: Purpose) -> (Tensor, Tensor, Tensor) {
        tch::manual_seed(6);
        let view = Tensor::rand([64, 3, 32, 32], (Kind::Float, Device::Cpu)) + 1.0;
        let fg = Tensor::ones([64, 4, 4], (Kind::Float, Device::Cpu));
        let masker = Masker::new(strategy, &Fills::new(FillScale::View, 32), 32, Device::Cpu);
        let mut rng = stream(0, Domain::Mask, 0, 0);
        let (out, mask) = masker.apply(&view, &fg, [0.25, 0.5], purpose, &mut rng);
        (view, out, mask.expand_as(&mask.ones_like().expand([64, 3, 32, 32], false)))
    }

    #[test]
    fn what_is_not_masked_is_untouched_and_what_is_masked_is_filled() {
        let _alone = crate::rng::alone();
        for strategy in [Strategy::Hp, Strategy::Blur, Strategy::Mean, Strategy::Zero, Strategy::Noise] {
            for purpose in [Purpose::Positive, Purpose::HardNegative] {
                let (view, out, mask) = masked(strategy, purpose);
                let outside: Tensor = 1.0 - &mask;
                let kept = ((&out - &view) * outside).abs().max().double_value(&[]);
                assert!(kept < 1e-6, "{strategy:?}");
                let changed = ((&out - &view) * &mask).abs().max().double_value(&[]);
                assert!(changed > 0.05, "{strategy:?}");
            }
        }
        let (_, out, mask) = masked(Strategy::Noise, Purpose::Positive);
        let noise = out.masked_select(&mask.to_kind(Kind::Bool));
        assert!((noise.std(false).double_value(&[]) - 0.18).abs() < 0.01);
        let (view, out, mask) = masked(Strategy::Mean, Purpose::Positive);
        let mean = view.mean_dim([2i64, 3].as_slice(), true, Kind::Float);
        assert!((((&out - mean) * mask).abs().max()).double_value(&[]) < 1e-6);
    }

    /// Focal masks in a fifth of the images; channel-wise ones differ between channels.
    #[test]
    fn the_high_pass_mixture_has_all_three_kinds() {
        let _alone = crate::rng::alone();
        let (_, _, mask) = masked(Strategy::Hp, Purpose::HardNegative);
        let differs =
            |n: i64| (mask.get(n).get(0) - mask.get(n).get(1)).abs().sum(Kind::Float).double_value(&[]) > 0.0;
        let channel_wise = (0..64).filter(|&n| differs(n)).count();
        assert!((20..52).contains(&channel_wise), "expected 0.8 * 0.7 of 64, got {channel_wise}");
        let side = (32.0f64 * 130.0 / 224.0).round();
        let squares =
            (0..64).filter(|&n| mask.get(n).get(0).sum(Kind::Float).double_value(&[]) == side * side).count();
        assert!((4..26).contains(&squares), "expected 0.2 of 64, got {squares}");
    }
}
