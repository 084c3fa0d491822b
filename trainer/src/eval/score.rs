//! How often a classifier is right, and how sure one can be of it.

use rand::Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::rng::{Domain, stream};

/// The standard normal distribution has 95 % of its mass within this many standard deviations.
const Z: f64 = 1.959_963_984_540_054;
/// Replicates of the bootstrap.
const REPLICATES: usize = 2000;
/// Pictures whose scores are compared at a time, which bounds memory.
const BLOCK: i64 = 4096;

/// Accuracies, 0 to 1, with intervals of 95 % confidence over the validation pictures. They say nothing about another
/// seed of the training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of the pictures whose class has the highest score.
    pub top1: f64,
    /// Wilson's interval of it.
    pub top1_ci: [f64; 2],
    /// Share of the pictures whose class is among the five highest.
    pub top5: f64,
    /// Wilson's interval of it.
    pub top5_ci: [f64; 2],
    /// Top-1 of each class that has pictures, averaged over these classes.
    pub mean_per_class: f64,
    /// Percentile interval of the bootstrap that draws each class's pictures anew.
    pub mean_per_class_ci: [f64; 2],
}

impl Scores {
    /// Scores of pictures whose class came at `ranks` (from 0; see `ranks`), of the classes `labels`.
    pub fn new(ranks: &[i64], labels: &[i64]) -> Self {
        let share = |limit: i64| {
            let hits = ranks.iter().filter(|&&r| r < limit).count();
            (hits as f64 / ranks.len().max(1) as f64, wilson(hits, ranks.len()))
        };
        let ((top1, top1_ci), (top5, top5_ci)) = (share(1), share(5));
        let classes = per_class(ranks, labels);
        let (mean_per_class, mean_per_class_ci) = (mean(&classes), bootstrap(&classes));
        Self { top1, top1_ci, top5, top5_ci, mean_per_class, mean_per_class_ci }
    }
}

/// Of every row of `scores` `(N, C)`, how many classes come before the one in `labels` `(N)`: those with a higher score,
/// and of equal ones those with a lower number. A class whose score is no finite number comes
/// nowhere: `i64::MAX`.
pub(super) fn ranks(scores: &Tensor, labels: &Tensor) -> Vec<i64> {
    let (n, classes) = (scores.size()[0], scores.size()[1]);
    let number = Tensor::arange(classes, (Kind::Int64, scores.device())).unsqueeze(0);
    let mut out = Vec::with_capacity(n as usize);
    for start in (0..n).step_by(BLOCK as usize) {
        let len = BLOCK.min(n - start);
        let rows = scores.narrow(0, start, len);
        let label = labels.narrow(0, start, len).to(scores.device()).unsqueeze(1);
        let own = rows.gather(1, &label, false); // (N, 1)
        let earlier = rows.eq_tensor(&own).logical_and(&number.lt_tensor(&label));
        let before = rows.gt_tensor(&own).logical_or(&earlier);
        let before = before.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
        let last = before.full_like(i64::MAX);
        let rank = before.where_self(&own.isfinite().squeeze_dim(1), &last);
        out.extend(Vec::<i64>::try_from(rank).unwrap_or_default());
    }
    out
}

/// (hits, pictures) of every class that has pictures.
fn per_class(ranks: &[i64], labels: &[i64]) -> Vec<(usize, usize)> {
    let mut classes = std::collections::BTreeMap::<i64, (usize, usize)>::new();
    for (&rank, &label) in ranks.iter().zip(labels) {
        let (hits, pictures) = classes.entry(label).or_default();
        *hits += usize::from(rank == 0);
        *pictures += 1;
    }
    classes.into_values().collect()
}

fn mean(classes: &[(usize, usize)]) -> f64 {
    let shares = classes.iter().map(|&(hits, n)| hits as f64 / n as f64);
    shares.sum::<f64>() / classes.len().max(1) as f64
}

/// Wilson's score interval of a share (<https://doi.org/10.1080/01621459.1927.10502953>); 0 to 1 where there is nothing.
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (p, n) = (hits as f64 / n as f64, n as f64);
    let scale = 1.0 + Z * Z / n;
    let centre = (p + Z * Z / (2.0 * n)) / scale;
    let half = Z / scale * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// Percentile interval of the mean over `classes` of (hits, pictures): every class's pictures are drawn anew, with
/// replacement, from themselves. The draws have a seed of their own, so that equal results have equal intervals.
fn bootstrap(classes: &[(usize, usize)]) -> [f64; 2] {
    let mut rng = stream(0, Domain::Bootstrap, 0, 0);
    let mut means: Vec<f64> = (0..REPLICATES)
        .map(|_| {
            let drawn: Vec<_> = classes
                .iter()
                .map(|&(hits, n)| {
                    // all or none hit whatever is drawn
                    let again = match hits {
                        0 => 0,
                        _ if hits == n => n,
                        _ => (0..n).filter(|_| rng.random_range(0..n) < hits).count(),
                    };
                    (again, n)
                })
                .collect();
            mean(&drawn)
        })
        .collect();
    means.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|q| means[(q * (REPLICATES - 1) as f64).round() as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first four rows are method 3 of Newcombe (1998), table I; the last is n / (n + z^2).
    #[test]
    fn wilson_equals_published_values() {
        for (hits, n, low, high) in [
            (81, 263, 0.255_3, 0.366_2),
            (15, 148, 0.062_4, 0.160_5),
            (0, 20, 0.0, 0.161_1),
            (1, 29, 0.006_1, 0.171_8),
            (29, 29, 0.883_0, 1.0),
        ] {
            let [l, h] = wilson(hits, n);
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{hits}/{n}: {l} {h}");
        }
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    /// The mean of C shares has the variance sum p (1 - p) / n / C^2; with this many pictures it is normal.
    #[test]
    fn the_bootstrap_finds_the_known_spread_of_a_stratified_mean() {
        let classes: Vec<_> = (1..=20).map(|i| (i * 9, 200)).collect();
        let variance: f64 =
            classes.iter().map(|&(h, n)| h as f64 / n as f64).map(|p| p * (1.0 - p) / 200.0).sum();
        let half = Z * variance.sqrt() / 20.0;
        let [low, high] = bootstrap(&classes);
        let centre = mean(&classes);
        // the ends of a percentile interval of 2,000 draws are known to about 4 % of its width
        assert!((low - (centre - half)).abs() < 0.12 * half, "{low} for {}", centre - half);
        assert!((high - (centre + half)).abs() < 0.12 * half, "{high} for {}", centre + half);
        assert_eq!(bootstrap(&[(5, 5), (0, 3)]), [0.5, 0.5], "nothing varies");
        assert_eq!(bootstrap(&classes), bootstrap(&classes));
    }

    #[test]
    fn ranks_and_scores() {
        let scores = Tensor::from_slice(&[
            0.1f32,
            0.9,
            0.0,
            0.5,
            0.6,
            0.7, // class 1: first
            0.1,
            0.9,
            0.0,
            0.5,
            0.6,
            0.7, // class 2: last of six
            0.2,
            0.2,
            0.2,
            0.2,
            0.2,
            0.2, // class 1: ties go to the lower number
            0.1,
            f32::NEG_INFINITY,
            0.0,
            0.5,
            f32::NAN,
            0.7, // no score is no rank
            0.1,
            0.0,
            0.0,
            0.5,
            f32::NAN,
            0.7,
        ])
        .view([5, 6]);
        let labels = [1, 2, 1, 1, 4];
        let ranks = ranks(&scores, &Tensor::from_slice(&labels));
        assert_eq!(ranks, [0, 5, 1, i64::MAX, i64::MAX]);
        let scored = Scores::new(&ranks, &labels);
        assert_eq!((scored.top1, scored.top5), (0.2, 0.4));
        assert!((scored.mean_per_class - (1.0 / 3.0) / 3.0).abs() < 1e-12, "{}", scored.mean_per_class);
        assert_eq!(scored.top1_ci, wilson(1, 5));
    }
}
