//! Weighted nearest-neighbour classification (arXiv 1805.01978), the cheap test of an encoder.

use anyhow::{Result, ensure};
use occlude_distributed::World;
use tch::{Kind, Tensor};

use super::features::FeatureSet;
use super::score::{Scores, ranks};
use crate::loss::normalize;
use crate::ranks::agreed;
use crate::share::Share;

/// Temperature of the votes.
const TEMPERATURE: f64 = 0.07;
/// Queries at a time, which bounds memory.
const BLOCK: i64 = 512;

/// What the vote of a neighbour counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Votes {
    /// exp(cosine / 0.07)
    Weighted,
    /// 1
    Equal,
}

/// Share of `val` whose class gets the most votes of its `k` nearest neighbours in `train`, by cosine, each vote
/// weighted exp(cosine / 0.07): (k, top-1).
///
/// # Errors
/// As [`knn_scores`].
pub fn knn(train: &FeatureSet, val: &FeatureSet, ks: &[i64]) -> Result<Vec<(i64, f64)>> {
    let scores = knn_scores(train, val, ks, Votes::Weighted)?;
    Ok(scores.into_iter().map(|(k, s)| (k, s.top1)).collect())
}

/// The accuracies of nearest-neighbour classification for each number of neighbours. A class without a vote is never
/// among the first five; of equal votes the class of the lower number wins.
///
/// # Errors
/// Where a set is empty or has pictures without a class, or `k` exceeds the training set.
pub fn knn_scores(
    train: &FeatureSet,
    val: &FeatureSet,
    ks: &[i64],
    votes: Votes,
) -> Result<Vec<(i64, Scores)>> {
    let found = knn_ranks(train, val, ks, votes)?;
    let labels = Vec::<i64>::try_from(&val.labels)?;
    Ok(found.into_iter().map(|(k, ranks)| (k, Scores::new(&ranks, &labels))).collect())
}

/// For each number of neighbours, of every picture how many classes come before its own (0: it is classified rightly).
///
/// # Errors
/// As [`knn_scores`].
pub fn knn_ranks(
    train: &FeatureSet,
    val: &FeatureSet,
    ks: &[i64],
    votes: Votes,
) -> Result<Vec<(i64, Vec<i64>)>> {
    let n = train.labels.size()[0];
    for (name, set) in [("training", train), ("validation", val)] {
        let unlabelled = set.labels.lt(0).sum(Kind::Int64).int64_value(&[]);
        ensure!(
            unlabelled == 0,
            "{unlabelled} pictures of the {name} set are in no class folder; hint: one sub-folder per class"
        );
    }
    let classes = train.labels.max().int64_value(&[]).max(val.labels.max().int64_value(&[])) + 1;
    let largest = ks.iter().copied().max().unwrap_or(1);
    ensure!(ks.iter().all(|&k| k >= 1), "`--k` must be at least 1");
    ensure!(largest <= n, "`--k {largest}` exceeds the {n} pictures of the training set");
    let bank = normalize(&train.features).transpose(0, 1); // (D, N)
    let queries = normalize(&val.features);
    let total = queries.size()[0];
    let mut found = vec![Vec::with_capacity(total as usize); ks.len()];
    for start in (0..total).step_by(BLOCK as usize) {
        let len = BLOCK.min(total - start);
        let labels = val.labels.narrow(0, start, len);
        let (similarity, index) = queries.narrow(0, start, len).matmul(&bank).topk(largest, 1, true, true);
        let neighbours = train.labels.index_select(0, &index.flatten(0, -1)).view([len, largest]);
        let votes = match votes {
            Votes::Weighted => (similarity / TEMPERATURE).exp(),
            Votes::Equal => similarity.ones_like(),
        };
        for (found, &k) in found.iter_mut().zip(ks) {
            let mut tally = Tensor::zeros([len, classes], (Kind::Float, votes.device()));
            let _ = tally.scatter_add_(1, &neighbours.narrow(1, 0, k), &votes.narrow(1, 0, k));
            let tally = tally.masked_fill(&tally.eq(0.0), f64::NEG_INFINITY);
            found.extend(ranks(&tally, &labels));
        }
    }
    Ok(ks.iter().copied().zip(found).collect())
}

/// As [`knn_ranks`], of which each rank of `world` finds a part: all of it on every rank, to the bit what one process finds.
///
/// # Errors
/// As [`knn_scores`]; where the ranks cannot be reached.
pub fn knn_ranks_together(
    train: &FeatureSet,
    val: &FeatureSet,
    (ks, votes): (&[i64], Votes),
    world: &World,
) -> Result<Vec<(i64, Vec<i64>)>> {
    if world.is_single() {
        return knn_ranks(train, val, ks, votes);
    }
    let total = val.labels.size()[0];
    // whole blocks, because a product of other rows may be rounded otherwise
    let blocks = Share::of(world).range(total.div_euclid(BLOCK) as usize + 1);
    let [start, end] = [blocks.start, blocks.end].map(|block| (block as i64 * BLOCK).min(total));
    let rows = |of: &Tensor| of.narrow(0, start, end - start);
    let part = FeatureSet { features: rows(&val.features), labels: rows(&val.labels), samples: Vec::new() };
    let own = if start == end {
        Ok(ks.iter().map(|&k| (k, Vec::new())).collect())
    } else {
        knn_ranks(train, &part, ks, votes)
    };
    let own = agreed(world, own, "nearest neighbours")?;
    let all = |(k, ranks): (i64, Vec<i64>)| {
        let ranks = world.gather_uneven(&Tensor::from_slice(&ranks), "nearest neighbours")?;
        Ok((k, Vec::try_from(ranks)?))
    };
    own.into_iter().map(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn set(features: &[[f32; 2]], labels: &[i64]) -> FeatureSet {
        let features = Tensor::from_slice(&features.concat()).view([-1, 2]);
        FeatureSet { features, labels: Tensor::from_slice(labels), samples: vec![] }
    }

    #[test]
    fn votes_are_weighted_by_similarity() {
        let _alone = crate::rng::alone();
        // one neighbour in the query's direction, two of another class far off
        let train = set(&[[1.0, 0.0], [-1.0, 0.2], [-1.0, -0.2]], &[0, 1, 1]);
        let val = set(&[[2.0, 0.1]], &[0]);
        assert_eq!(knn(&train, &val, &[1, 3]).expect("scored"), [(1, 1.0), (3, 1.0)]);
        // equally near: the majority wins
        let train = set(&[[1.0, 0.1], [1.0, -0.1], [1.0, 0.1]], &[0, 1, 1]);
        assert_eq!(knn(&train, &val, &[3]).expect("scored"), [(3, 0.0)]);
    }

    #[test]
    fn equal_votes_count_heads_and_top_5_asks_for_a_vote() {
        let _alone = crate::rng::alone();
        let train = set(&[[1.0, 0.0], [-1.0, 0.2], [-1.0, -0.2]], &[0, 1, 1]);
        let val = set(&[[2.0, 0.1]], &[0]);
        let score = |train: &FeatureSet, k| {
            let scores = knn_scores(train, &val, &[k], Votes::Equal).expect("scored");
            (scores[0].1.top1, scores[0].1.top5)
        };
        assert_eq!(score(&train, 1), (1.0, 1.0));
        assert_eq!(score(&train, 3), (0.0, 1.0), "two of three say otherwise");
        let none = set(&[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0]], &[1, 2, 0]);
        assert_eq!(score(&none, 2), (0.0, 0.0), "nobody voted for it, though there are only three classes");
    }

    #[test]
    fn equals_a_naive_reference_on_random_features() {
        let _alone = crate::rng::alone();
        tch::manual_seed(2);
        let random = |n: i64| Tensor::randn([n, 8], (Kind::Float, Device::Cpu));
        let labels = |n: i64| Tensor::randint(5, [n], (Kind::Int64, Device::Cpu));
        let train = FeatureSet { features: random(60), labels: labels(60), samples: vec![] };
        let val = FeatureSet { features: random(600), labels: labels(600), samples: vec![] };
        let rows = |t: &Tensor| -> Vec<Vec<f64>> {
            let t = normalize(t);
            (0..t.size()[0])
                .map(|i| Vec::try_from(t.get(i).to_kind(Kind::Double)).expect("numbers"))
                .collect()
        };
        let (bank, queries) = (rows(&train.features), rows(&val.features));
        let mut hits = 0;
        for (i, q) in queries.iter().enumerate() {
            let mut near: Vec<(f64, i64)> = bank
                .iter()
                .enumerate()
                .map(|(j, b)| {
                    (b.iter().zip(q).map(|(x, y)| x * y).sum(), train.labels.int64_value(&[j as i64]))
                })
                .collect();
            near.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut tally = [0.0; 5];
            near[..7].iter().for_each(|(s, l)| tally[*l as usize] += (s / TEMPERATURE).exp());
            let best = (0..5).max_by(|&a, &b| tally[a].total_cmp(&tally[b])).expect("classes");
            hits += usize::from(best as i64 == val.labels.int64_value(&[i as i64]));
        }
        assert_eq!(knn(&train, &val, &[7]).expect("scored"), [(7, hits as f64 / 600.0)]);
    }

    #[test]
    fn wrong_input_is_named() {
        let _alone = crate::rng::alone();
        let a = set(&[[1.0, 0.0]], &[0]);
        assert!(knn(&a, &a, &[2]).expect_err("too many").to_string().contains("--k 2"));
        assert!(knn(&a, &a, &[0]).expect_err("none").to_string().contains("--k"));
        let unlabelled = set(&[[1.0, 0.0]], &[-1]);
        assert!(knn(&unlabelled, &a, &[1]).expect_err("no class").to_string().contains("class folder"));
    }
}
