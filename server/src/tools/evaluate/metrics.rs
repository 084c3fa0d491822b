//! Figures of a ranking, as the field computes them: recall at k, and the mean of average precisions.

/// What one query's ranking is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    /// Place of the first relevant picture, from 1.
    pub(super) first: usize,
    /// Average precision over the whole ranking: the mean, over all relevant pictures, of the share of relevant ones
    /// down to each one's place. Not interpolated.
    pub(super) precision: f64,
}

/// Judges the ranking by `scores`, larger ones first and of equals the one that comes first. `relevant` are places in
/// `scores`, ascending; `except` is the query itself, which no ranking has. `None` where nothing is relevant.
///
/// Nothing is sorted but the relevant pictures: each of the others only has to know how many of them are ahead of it.
pub(super) fn judge(scores: &[f32], relevant: &[usize], except: Option<usize>) -> Option<Judged> {
    let mut wanted: Vec<(f32, usize)> = relevant
        .iter()
        .filter(|&&at| Some(at) != except)
        .filter_map(|&at| Some((*scores.get(at)?, at)))
        .collect();
    wanted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    // `others[i]`: how many of the others have exactly `i` relevant pictures ahead of them.
    let mut others = vec![0_usize; wanted.len() + 1];
    for (at, score) in scores.iter().enumerate() {
        if Some(at) == except || relevant.binary_search(&at).is_ok() {
            continue;
        }
        let ahead = wanted.partition_point(|(s, i)| s.total_cmp(score).then(at.cmp(i)).is_gt());
        others[ahead] += 1;
    }
    let mut rank = 0;
    let places: Vec<usize> = others
        .iter()
        .take(wanted.len())
        .map(|between| {
            rank += between + 1;
            rank
        })
        .collect();
    let precision = places.iter().enumerate().map(|(i, place)| (i + 1) as f64 / *place as f64).sum::<f64>();
    Some(Judged { first: *places.first()?, precision: precision / places.len() as f64 })
}

/// A mean over queries, and half of its 95 % interval; in per cent.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub(super) struct Figure {
    pub(super) percent: f64,
    pub(super) interval: f64,
}

impl Figure {
    /// Of values from 0 to 1; the interval is the normal approximation's over queries.
    pub(super) fn of(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.clone().sum::<f64>() / n;
        let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        Self { percent: 100.0 * mean, interval: 196.0 * (variance / n).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By sorting everything.
    fn naive(scores: &[f32], relevant: &[usize], except: Option<usize>) -> Option<Judged> {
        let mut order: Vec<usize> = (0..scores.len()).filter(|&i| Some(i) != except).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let places: Vec<usize> =
            (0..order.len()).filter(|&p| relevant.contains(&order[p])).map(|p| p + 1).collect();
        let hits = places.iter().enumerate().map(|(i, &p)| (i + 1) as f64 / p as f64);
        Some(Judged { first: *places.first()?, precision: hits.sum::<f64>() / places.len() as f64 })
    }

    proptest! {
        #[test]
        fn judging_is_the_same_as_sorting_everything(
            rows in prop::collection::vec((-3i8..3, any::<bool>()), 1..40),
            except in prop::option::of(0usize..40),
        ) {
            let scores: Vec<f32> = rows.iter().map(|(s, _)| f32::from(*s) / 4.0).collect();
            let relevant: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].1).collect();
            prop_assert_eq!(judge(&scores, &relevant, except), naive(&scores, &relevant, except));
        }
    }

    #[test]
    fn by_hand() {
        // Ranking: 2, 0, 3, 1; relevant on places 2 and 4.
        let judged = judge(&[0.5, 0.1, 0.9, 0.4], &[0, 1], None);
        assert_eq!(judged, Some(Judged { first: 2, precision: 0.5 }));
        // Without 2 they are on places 1 and 3.
        let judged = judge(&[0.5, 0.1, 0.9, 0.4], &[0, 1], Some(2)).unwrap();
        assert_eq!(judged.first, 1);
        assert!((judged.precision - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(judge(&[0.5, 0.1], &[1], Some(1)), None);
    }

    #[test]
    fn a_figure_has_the_interval_of_its_mean() {
        let figure = Figure::of([1.0, 0.0, 1.0, 1.0].into_iter());
        assert!((figure.percent - 75.0).abs() < 1e-12 && (figure.interval - 49.0).abs() < 1e-9, "{figure:?}");
        let one = Figure::of([1.0].into_iter());
        assert_eq!((one.percent, one.interval), (100.0, 0.0));
    }
}
