//! Saliency-guided masking (arXiv 2309.12757): localise, choose cells, fill.
//!
//! Pure functions over batches; nothing here knows a network. A *cell* is one position of the
//! saliency map `(h, w)` and covers `(H / h, W / w)` pixels of the view.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::augment::FixedBlur;
use crate::config::{Guidance, Strategy};
use crate::device::upload;

/// A cell is foreground where its activation is at least the mean less this many standard deviations.
pub const FOREGROUND_SIGMAS: f64 = 0.6;
/// Largest share of foreground that the `hp` strategy counts with.
const HP_FOREGROUND_CAP: f64 = 0.55;
/// Share of images that the `hp` strategy masks around one square instead of by cells.
const FOCAL_P: f64 = 0.2;
/// Share of the others in which all channels lose the same cells.
const SPATIAL_P: f64 = 0.3;
/// Side of the square that a focal query keeps, as a share of the image (200 of 224 pixels).
const FOCAL_QUERY_SIDE: f64 = 200.0 / 224.0;
/// Side of the square that a focal hard negative loses (130 of 224 pixels).
const FOCAL_NEGATIVE_SIDE: f64 = 130.0 / 224.0;
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

/// Foreground of aggregation maps `(B, h, w)` as ones and zeros: cells that reach the map's mean
/// less 0.6 population standard deviations. A constant map is all foreground.
pub fn foreground(maps: &Tensor) -> Tensor {
    let dims = [1i64, 2];
    let mean = maps.mean_dim(dims.as_slice(), true, Kind::Float);
    let std = (maps - &mean).square().mean_dim(dims.as_slice(), true, Kind::Float).sqrt();
    maps.ge_tensor(&(mean - std * FOREGROUND_SIGMAS)).to_kind(Kind::Float)
}

/// How many cells each image of a batch loses in the foreground and in the background.
///
/// `foreground` `(B, cells)`, `ratio` `(B, 1)`; both answers `(B, 1)`. Foreground:
/// round(ratio * FG share * cells); background: floor(ratio * cells) less that, at least none.
fn counts(foreground: &Tensor, ratio: &Tensor, cap: f64) -> (Tensor, Tensor) {
    let cells = foreground.size()[1] as f64;
    let share = foreground.mean_dim([1i64].as_slice(), true, Kind::Float).clamp_max(cap);
    let fg = (ratio * share * cells).round();
    let bg = ((ratio * cells).floor() - &fg).clamp_min(0.0);
    (fg, bg)
}

/// Of the cells with a one in `eligible`, the `count` with the smallest `score`. `(B, ..., cells)`, count
/// broadcast; zeros and ones.
fn choose(eligible: &Tensor, score: &Tensor, count: &Tensor) -> Tensor {
    // scores are in 0..1, so this puts what is not eligible behind everything that is
    let behind: Tensor = score + (1.0 - eligible) * 2.0;
    let ranked = behind.argsort(-1, false).argsort(-1, false);
    ranked.to_kind(Kind::Float).lt_tensor(count).to_kind(Kind::Float) * eligible
}

/// Chooses cells for a batch: a mask of ones (masked) and zeros, `(B, G, h, w)`, where the G
/// groups (1, or one a channel) draw their own cells.
///
/// `foreground` is `(B, h, w)`; `ratio` `(B)`; the share of foreground counts for at most `cap`. With
/// a foreground of ones the choice is uniform: that is random guidance.
pub fn cells(foreground: &Tensor, ratio: &Tensor, groups: i64, purpose: Purpose, cap: f64) -> Tensor {
    let (b, h, w) = foreground.size3().unwrap_or_else(|e| panic!("a foreground is (B, h, w): {e}"));
    let fg = foreground.view([b, 1, h * w]);
    let ratio = ratio.view([b, 1, 1]);
    let score = || Tensor::rand([b, groups, h * w], (Kind::Float, foreground.device()));
    let (fg_count, bg_count) = counts(&fg.squeeze_dim(1), &ratio.squeeze_dim(1), cap);
    let (fg_count, bg_count) = (fg_count.unsqueeze(1), bg_count.unsqueeze(1)); // (B, 1, 1)
    let of_fg = choose(&fg, &score(), &fg_count);
    let mask = match purpose {
        Purpose::Positive => of_fg + choose(&(1.0 - &fg), &score(), &bg_count),
        Purpose::HardNegative => of_fg,
    };
    mask.view([b, groups, h, w])
}

/// Nearest-neighbour enlargement of `(B, G, h, w)` to `(B, G, size, size)`, for any h and w.
pub fn enlarge(mask: &Tensor, size: i64) -> Tensor {
    mask.upsample_nearest2d([size, size], None, None)
}

/// Masks views of one size with one strategy.
#[derive(Debug)]
pub struct Masker {
    strategy: Strategy,
    cap: f64,
    size: i64,
    blur: Option<FixedBlur>,
}

impl Masker {
    /// For views of side `size` pixels on `device`.
    pub fn new(strategy: Strategy, guidance: Guidance, size: usize, device: Device) -> Self {
        // random guidance comes with a foreground of ones, which is no share to cap
        let cap =
            if strategy == Strategy::Hp && guidance == Guidance::Saliency { HP_FOREGROUND_CAP } else { 1.0 };
        // 31x31 needs 15 pixels of reflection; the configuration checks it
        let blur = (strategy == Strategy::Blur).then(|| FixedBlur::new(size, 31, 10.0, device));
        Self { strategy, cap, size: size as i64, blur }
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
            _ => enlarge(&cells(foreground, &ratio, 1, purpose, self.cap), self.size),
        };
        let filled = view * (1.0 - &mask) + self.fill(view, purpose) * &mask;
        (filled, mask)
    }

    fn fill(&self, view: &Tensor, purpose: Purpose) -> Tensor {
        let noise = || view.randn_like() * if purpose == Purpose::Positive { NOISE.0 } else { NOISE.1 };
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
        let own = cells(foreground, ratio, 3, purpose, self.cap); // (B, 3, h, w)
        let shared = own.narrow(1, 0, 1).expand_as(&own);
        let flags = |p: f64, rng: &mut _| -> Tensor {
            let draw: Vec<bool> = (0..b).map(|_| Rng::random_bool(rng, p)).collect();
            upload(&Tensor::from_slice(&draw).view([-1, 1, 1, 1]), device)
        };
        let (spatial, focal) = (flags(SPATIAL_P, rng), flags(FOCAL_P, rng));
        let grid = enlarge(&shared.where_self(&spatial, &own), self.size);
        upload(&self.focal_mask(b, purpose, rng), device).where_self(&focal, &grid)
    }

    /// All but one random square (positive), or one random square (hard negative). `(B, 1, S, S)`.
    fn focal_mask(&self, b: usize, purpose: Purpose, rng: &mut impl Rng) -> Tensor {
        let share = if purpose == Purpose::Positive { FOCAL_QUERY_SIDE } else { FOCAL_NEGATIVE_SIDE };
        let side = (self.size as f64 * share).round() as i64;
        let start = |rng: &mut _| -> Vec<i64> {
            (0..b).map(|_| Rng::random_range(rng, 0..=self.size - side)).collect()
        };
        let within = |start: &[i64]| {
            let at = Tensor::arange(self.size, (Kind::Int64, Device::Cpu)).unsqueeze(0);
            let start = Tensor::from_slice(start).unsqueeze(1);
            at.ge_tensor(&start).logical_and(&at.lt_tensor(&(start + side))).to_kind(Kind::Float) // (B, S)
        };
        let (rows, columns) = (within(&start(rng)), within(&start(rng)));
        let square = (rows.unsqueeze(2) * columns.unsqueeze(1)).unsqueeze(1);
        if purpose == Purpose::Positive { 1.0 - square } else { square }
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
    use crate::rng::{Domain, stream};

    fn maps(values: &[f32], h: i64, w: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, h, w])
    }

    fn sums(mask: &Tensor) -> Vec<f64> {
        let per = mask.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        Vec::try_from(&per).expect("numbers")
    }

    #[test]
    fn foreground_is_where_the_map_says() {
        let _alone = crate::rng::alone();
        // mean 2.5, population std 3.76: threshold 0.25; the published code compared with sorted rows
        let map = maps(&[0.0, 9.0, 0.5, 0.5], 2, 2);
        let fg: Vec<f32> = Vec::try_from(foreground(&map).flatten(0, -1)).expect("numbers");
        assert_eq!(fg, [0.0, 1.0, 1.0, 1.0]);
        let flat = foreground(&maps(&[3.0; 4], 2, 2));
        assert_eq!(sums(&flat), [4.0]);
    }

    #[test]
    fn foreground_equals_a_naive_reference_at_every_position() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let map = Tensor::rand([5, 6, 7], (Kind::Float, Device::Cpu)).square();
        let fg = foreground(&map);
        for n in 0..5 {
            let values: Vec<f64> = (0..42).map(|i| map.double_value(&[n, i / 7, i % 7])).collect();
            let mean = values.iter().sum::<f64>() / 42.0;
            let std = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 42.0).sqrt();
            for (i, v) in (0..42).zip(values) {
                assert_eq!(fg.double_value(&[n, i / 7, i % 7]), f64::from(u8::from(v >= mean - 0.6 * std)));
            }
        }
    }

    /// Counts are exactly those of the paper, for every ratio.
    #[test]
    fn cell_counts_follow_the_rule() {
        let _alone = crate::rng::alone();
        tch::manual_seed(4);
        let fg = Tensor::from_slice(&[[1f32; 20].as_slice(), [0f32; 29].as_slice()].concat()).view([1, 7, 7]);
        for ratio in [0.05f64, 0.13, 0.25, 0.4, 0.55, 0.7] {
            let r = Tensor::from_slice(&[ratio as f32]);
            let fg_count = (ratio * 20.0).round_ties_even();
            let bg_count = ((ratio * 49.0).floor() - fg_count).max(0.0);
            let mask = cells(&fg, &r, 1, Purpose::Positive, 1.0);
            assert_eq!(sums(&(&mask * fg.unsqueeze(1))), [fg_count]);
            assert_eq!(sums(&mask), [fg_count + bg_count]);
            let negative = cells(&fg, &r, 1, Purpose::HardNegative, 1.0);
            assert_eq!(sums(&negative), [fg_count]);
            assert_eq!(sums(&(negative * (1.0 - fg.unsqueeze(1)))), [0.0], "background untouched");
            let random = cells(&fg.ones_like(), &r, 1, Purpose::Positive, 1.0);
            assert_eq!(sums(&random), [(ratio * 49.0).round_ties_even()]);
            let capped = cells(&fg.ones_like(), &r, 1, Purpose::HardNegative, 0.55);
            assert_eq!(sums(&capped), [(ratio * 0.55 * 49.0).round_ties_even()]);
        }
    }

    #[test]
    fn cells_are_chosen_uniformly() {
        let _alone = crate::rng::alone();
        tch::manual_seed(5);
        let n = 4000;
        let fg = Tensor::ones([n, 4, 4], (Kind::Float, Device::Cpu));
        let r = Tensor::full([n], 0.25, (Kind::Float, Device::Cpu));
        let share = cells(&fg, &r, 1, Purpose::Positive, 1.0).mean_dim([0i64].as_slice(), false, Kind::Float);
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
        let masker = Masker::new(strategy, Guidance::Saliency, 32, Device::Cpu);
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
