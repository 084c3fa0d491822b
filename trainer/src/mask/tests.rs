//! Tests of whole masks: what is hidden, and what it is filled with.

use super::*;
use crate::config::{Choice, Config, FillScale, Recipe};
use crate::rng::{Domain, stream};

fn maps(values: &[f32], h: i64, w: i64) -> Tensor {
    Tensor::from_slice(values).view([-1, h, w])
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

/// Every picture.
const ALL: Extent = Extent { ratio: [0.25, 0.5], views: 1.0, focal: 1.0 };

fn masking(strategy: Strategy) -> Masking {
    let mut masking = Config::new(Recipe::SaliencyMoco).masking.expect("masked");
    (masking.strategy, masking.fills) = (strategy, FillScale::View);
    masking
}

fn masked(strategy: Strategy, purpose: Purpose) -> (Tensor, Tensor, Tensor) {
    masked_where(strategy, purpose, false)
}

/// `half`: where convolutions compute in half precision.
fn masked_where(strategy: Strategy, purpose: Purpose, half: bool) -> (Tensor, Tensor, Tensor) {
    tch::manual_seed(6);
    let view = Tensor::rand([64, 3, 32, 32], (Kind::Float, Device::Cpu)) + 1.0;
    let fg = Tensor::ones([64, 4, 4], (Kind::Float, Device::Cpu));
    let masker = Masker::new(&masking(strategy), 32, Device::Cpu);
    let mut rng = stream(0, Domain::Mask, 0, 0);
    let (out, mask) = {
        let _half = Autocast::bf16(Device::Cpu, half);
        masker.apply(&view, &fg, ALL, purpose, &mut rng)
    };
    (view, out, mask.expand_as(&mask.ones_like().expand([64, 3, 32, 32], false)))
}

#[test]
fn what_is_not_masked_is_untouched_and_what_is_masked_is_filled() {
    let _alone = crate::rng::alone();
    for &strategy in <Strategy as clap::ValueEnum>::value_variants() {
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

/// Masked pixels are those of the same place in the picture before it in the batch, pixel by pixel.
#[test]
fn another_picture_shows_through() {
    let _alone = crate::rng::alone();
    let (view, out, mask) = masked(Strategy::OtherPicture, Purpose::Positive);
    for n in 0..64i64 {
        let (own, other) = (view.get(n), view.get((n + 63) % 64));
        for (c, y, x) in [(0, 0, 0), (1, 9, 30), (2, 17, 5), (0, 31, 31), (1, 12, 12)] {
            let from = if mask.double_value(&[n, c, y, x]) > 0.5 { &other } else { &own };
            assert_eq!(out.double_value(&[n, c, y, x]), from.double_value(&[c, y, x]), "{n}");
        }
    }
    assert!(mask.sum(Kind::Double).double_value(&[]) > 0.0);
}

/// Half of the pictures go without masks; the others have the very masks that they had.
#[test]
fn a_share_of_the_pictures_is_masked_as_all_would_be() {
    let _alone = crate::rng::alone();
    for (strategy, choice) in [
        (Strategy::Mean, Choice::Spread),
        (Strategy::Hp, Choice::Spread),
        (Strategy::Mean, Choice::Background),
    ] {
        let with = |views| {
            tch::manual_seed(7);
            let view = Tensor::rand([400, 3, 32, 32], (Kind::Float, Device::Cpu));
            let fg = Tensor::rand([400, 4, 4], (Kind::Float, Device::Cpu)).gt(0.5).to_kind(Kind::Float);
            let masker = Masker::new(&Masking { choice, ..masking(strategy) }, 32, Device::Cpu);
            let extent = Extent { views, ..ALL };
            masker.apply(&view, &fg, extent, Purpose::Positive, &mut stream(0, Domain::Mask, 0, 0)).1
        };
        let (all, some) = (with(1.0), with(0.5));
        let counts = |mask: &Tensor| -> Vec<f64> {
            let sums = mask.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
            Vec::try_from(&sums).expect("numbers")
        };
        let pairs: Vec<(f64, f64)> = counts(&all).into_iter().zip(counts(&some)).collect();
        assert!(pairs.iter().all(|&(all, some)| some == all || some == 0.0), "{strategy:?} {choice:?}");
        let without = pairs.iter().filter(|p| p.1 == 0.0).count();
        // four standard errors of a half
        assert!((160..=240).contains(&without), "{strategy:?} {choice:?}: {without} of 400");
        assert_eq!(some.ne(0.0).logical_and(&some.ne_tensor(&all)).any().int64_value(&[]), 0);
    }
}

/// `--negative-ratio 1 1`: nothing of the foreground is left. With `hp` a mask of more than 0.56 of the cells is cut to
/// 0.55, as published.
#[test]
fn a_negative_ratio_of_one_leaves_no_foreground() {
    let _alone = crate::rng::alone();
    tch::manual_seed(8);
    let view = Tensor::rand([32, 3, 32, 32], (Kind::Float, Device::Cpu));
    let sizes = Tensor::linspace(0.05, 0.95, 32, (Kind::Float, Device::Cpu)).view([32, 1, 1]);
    let fg = Tensor::rand([32, 8, 8], (Kind::Float, Device::Cpu)).lt_tensor(&sizes).to_kind(Kind::Float);
    let whole = Extent { ratio: [1.0, 1.0], views: 1.0, focal: 1.0 };
    let of = |strategy| {
        let masker = Masker::new(&masking(strategy), 32, Device::Cpu);
        masker.apply(&view, &fg, whole, Purpose::HardNegative, &mut stream(0, Domain::Mask, 0, 0)).1
    };
    let expected = enlarge(&fg.unsqueeze(1), 32);
    for strategy in [Strategy::Mean, Strategy::Blur, Strategy::OtherPicture] {
        assert_eq!(of(strategy), expected, "{strategy:?}");
    }
    assert!((of(Strategy::Hp) - expected).clamp_max(0.0).abs().sum(Kind::Double).double_value(&[]) > 0.0);
}

/// The squares of `hp` know no ratio of cells.
#[test]
fn nothing_of_nothing_is_masked_around_a_square() {
    let _alone = crate::rng::alone();
    let view = Tensor::ones([32, 3, 32, 32], (Kind::Float, Device::Cpu));
    let fg = Tensor::ones([32, 8, 8], (Kind::Float, Device::Cpu));
    let masker = Masker::new(&masking(Strategy::Hp), 32, Device::Cpu);
    let share = |focal| {
        let extent = Extent { ratio: [0.0; 2], views: 1.0, focal };
        let mask = masker.apply(&view, &fg, extent, Purpose::Positive, &mut stream(0, Domain::Mask, 0, 0)).1;
        mask.amax([1i64, 2, 3], false).mean(Kind::Double).double_value(&[])
    };
    assert_eq!(share(0.0), 0.0);
    assert!(share(0.5) > 0.0 && share(0.5) <= share(1.0) && share(1.0) < 0.5);
}

#[test]
fn pixels_are_filled_alike_where_networks_compute_in_half_precision() {
    let _alone = crate::rng::alone();
    let strategies = [Strategy::Hp, Strategy::Blur, Strategy::Mean, Strategy::Noise, Strategy::OtherPicture];
    for strategy in strategies {
        let (_, plain, _) = masked(strategy, Purpose::Positive);
        let (_, half, _) = masked_where(strategy, Purpose::Positive, true);
        assert_eq!(half.kind(), Kind::Float, "{strategy:?}");
        assert_eq!(half, plain, "{strategy:?}");
    }
}
