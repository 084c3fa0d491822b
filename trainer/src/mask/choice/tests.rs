//! Tests of the choice of cells against rules, counts and loops.

use tch::Device;

use super::*;
use crate::config::{BACKGROUND_BIASED, Config, Recipe};

fn float() -> (Kind, Device) {
    (Kind::Float, Device::Cpu)
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
        let fg = Tensor::rand([6, 5, 7], float()).gt(0.6).to_kind(Kind::Float);
        let ratio = Tensor::rand([6], float());
        tch::manual_seed(seed + 100);
        let ours = cells(&fg, &ratio, 3, purpose, true);
        tch::manual_seed(seed + 100);
        let flat = fg.view([6, 1, 35]);
        let (fg_count, bg_count) = counts(&fg.view([6, 35]), &ratio.view([6, 1]), purpose, true);
        let score = || Tensor::rand([6, 3, 35], float());
        let mut expected = choose(&flat, &score(), &fg_count.unsqueeze(1));
        if purpose == Purpose::Positive {
            expected += choose(&(1.0 - &flat), &score(), &bg_count.unsqueeze(1));
        }
        assert_eq!(ours, expected.view([6, 3, 5, 7]), "{seed}");
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
        assert_eq!(sums(&cells(&fg, &r, 1, Purpose::HardNegative, true)), [fg_count], "20 of 49 is below it");
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
    for (side, [low, high]) in
        (2..=14i64).flat_map(|s| [[0.05, 0.25], [0.4, 0.7], [0.0, 1.0], [0.15, 0.15]].map(|range| (s, range)))
    {
        let size = Tensor::rand([n, 1, 1], float());
        let fg = Tensor::rand([n, side, side], float()).lt_tensor(&size).to_kind(Kind::Float);
        let ratio = Tensor::rand([n], float()) * (high - low) + low;
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
    let ratio = Tensor::linspace(0.05, 0.25, 2001, float());
    let half = Tensor::cat(&[Tensor::ones([2001, 2, 4], float()), Tensor::zeros([2001, 2, 4], float())], 1);
    let counts = sums(&cells(&half, &ratio, 1, Purpose::Positive, false));
    assert!((counts.iter().sum::<f64>() / 2001.0 - 2.406).abs() < 0.01);
}

#[test]
fn cells_are_chosen_uniformly() {
    let _alone = crate::rng::alone();
    tch::manual_seed(5);
    let n = 4000;
    let fg = Tensor::ones([n, 4, 4], float());
    let r = Tensor::full([n], 0.25, float());
    let share = cells(&fg, &r, 1, Purpose::Positive, false).mean_dim([0i64].as_slice(), false, Kind::Float);
    // four standard errors of a share of a quarter
    let error = 4.0 * (0.25f64 * 0.75 / n as f64).sqrt();
    assert!((share - 0.25).abs().max().double_value(&[]) < error);
}

/// Foregrounds of every size, `(n, 6, 5)`.
fn foregrounds(n: i64) -> Tensor {
    let size = Tensor::rand([n, 1, 1], float());
    to_float(&Tensor::rand([n, 6, 5], float()).lt_tensor(&size))
}

fn chooser(guidance: Guidance) -> Chooser {
    let mut masking = Config::new(Recipe::SaliencyMoco).masking.expect("masked");
    (masking.guidance, masking.choice) = (guidance, Choice::Background);
    Chooser::new(&masking)
}

/// The shares of 4,000 masks of one picture, cell by cell: the two probabilities, and where the foreground does not say
/// where, their mean by its size. Within five standard errors.
#[test]
fn independent_cells_have_their_probabilities() {
    let _alone = crate::rng::alone();
    tch::manual_seed(11);
    let n = 4000;
    let fg: Vec<f32> = (0..30).map(|i| f32::from(u8::from(i % 5 < 2))).collect();
    let foreground = Tensor::from_slice(&fg).view([1, 6, 5]).expand([n, 6, 5], false);
    let ratio = Tensor::zeros([n], float());
    let [inside, outside] = BACKGROUND_BIASED;
    for (guidance, expected) in [
        (Guidance::Saliency, [inside, outside]),
        (Guidance::Other, [inside, outside]),
        (Guidance::Random, [0.4 * inside + 0.6 * outside; 2]),
    ] {
        let mask = chooser(guidance).cells(&foreground, &ratio, 1, Purpose::Positive, false);
        let share = mask.mean_dim([0i64, 1].as_slice(), false, Kind::Double);
        for (i, fg) in (0..30).zip(&fg) {
            let p = if *fg > 0.0 { expected[0] } else { expected[1] };
            let found = share.double_value(&[i / 5, i % 5]);
            assert!((found - p).abs() < 5.0 * (p * (1.0 - p) / n as f64).sqrt(), "{guidance:?} {i}: {found}");
        }
        // each cell by itself: the number of cells varies as that of independent ones does
        let counts = mask.flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
        let variance = 12.0 * expected[0] * (1.0 - expected[0]) + 18.0 * expected[1] * (1.0 - expected[1]);
        let found = counts.std(true).double_value(&[]).powi(2);
        assert!((found / variance - 1.0).abs() < 0.15, "{guidance:?}: {found} {variance}");
    }
}

/// Of the picture itself, of another one, or of nobody: over a batch, as many cells are to be masked, exactly.
#[test]
fn all_guidances_expect_equally_many_cells() {
    let _alone = crate::rng::alone();
    tch::manual_seed(12);
    let (fg, n) = (foregrounds(64), 64.0);
    let [inside, outside] = BACKGROUND_BIASED;
    let expected = |fg: &Tensor| -> f64 {
        let there = fg.sum(Kind::Double).double_value(&[]);
        inside * there + outside * (n * 30.0 - there)
    };
    let other = crate::mask::of_another(&fg);
    assert_ne!(fg, other);
    assert!((expected(&fg) - expected(&other)).abs() < 1e-9);
    // the mean of many masks: within five standard errors of a sum of independent cells
    let rounds = 300;
    let of = |fg: &Tensor, guidance| -> f64 {
        let ratio = Tensor::zeros([64], float());
        let one = |_| {
            chooser(guidance)
                .cells(fg, &ratio, 1, Purpose::Positive, false)
                .sum(Kind::Double)
                .double_value(&[])
        };
        (0..rounds).map(one).sum::<f64>() / f64::from(rounds)
    };
    let error = 5.0 * (n * 30.0 * 0.25 / f64::from(rounds)).sqrt();
    for (fg, guidance) in [(&fg, Guidance::Saliency), (&other, Guidance::Other), (&fg, Guidance::Random)] {
        let found = of(fg, guidance);
        assert!((found - expected(fg)).abs() < error, "{guidance:?}: {found} {}", expected(fg));
    }
}

/// Each group draws its own cells, and hard negatives lose their foreground whatever the choice.
#[test]
fn groups_draw_apart_and_hard_negatives_lose_their_foreground() {
    let _alone = crate::rng::alone();
    tch::manual_seed(13);
    let (fg, ratio) = (foregrounds(8), Tensor::ones([8], float()));
    let mask = chooser(Guidance::Saliency).cells(&fg, &ratio, 3, Purpose::Positive, true);
    assert_eq!(mask.size(), [8, 3, 6, 5]);
    assert_ne!(mask.select(1, 0), mask.select(1, 1));
    let negative = chooser(Guidance::Saliency).cells(&fg, &ratio, 1, Purpose::HardNegative, false);
    assert_eq!(negative.squeeze_dim(1), fg, "at a ratio of 1 all of the foreground, and nothing else");
    let anywhere = chooser(Guidance::Random).cells(&fg, &ratio, 1, Purpose::HardNegative, false);
    assert_eq!(sums(&anywhere), [30.0; 8], "random guidance knows no foreground");
}
