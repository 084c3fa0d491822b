//! Losses: pure functions of embeddings. Here those that contrast, [`distillation`] has those of prototypes, [`dense`] that of
//! patches, [`relational`] that of similarities, [`cells`] that of a teacher's cells.

pub mod cells;
pub mod dense;
pub mod distillation;
pub mod relational;

use tch::{Kind, Tensor};

/// Unit length along the last axis; a zero vector stays zero.
pub fn normalize(x: &Tensor) -> Tensor {
    let norm = x.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true).clamp_min(1e-12);
    x / norm
}

/// The negatives of a batch of queries.
#[derive(Debug, Default, Clone, Copy)]
pub struct Negatives<'a> {
    /// Shared by all queries of a batch: `(.., D, K)`, normalised columns.
    pub queue: Option<&'a Tensor>,
    /// Whether the keys of the other queries are negatives.
    pub in_batch: bool,
    /// Where the batch is a part of a larger one, the keys of all of that, `(.., A, D)`, and the place of the first of the batch
    /// among them: then those are meant by [`Self::in_batch`].
    pub all: Option<(&'a Tensor, i64)>,
    /// Each query's own: `(B, n, D)`, and the factor on their similarity.
    pub hard: Option<(&'a Tensor, f64)>,
}

/// Logits of InfoNCE and the column of the positive in each row.
#[derive(Debug)]
pub struct Logits {
    /// `(B, 1 + negatives)`, or `(B, B + negatives)` with in-batch negatives; divided by the temperature.
    pub values: Tensor,
    /// `(B)`.
    pub target: Tensor,
}

/// Logits of queries `(B, D)` against their keys `(B, D)` and negatives, all normalised
/// (arXiv 1911.05722; hard negatives: arXiv 2309.12757). Of `(n, B, D)` each of the n batches has a queue of its own, and
/// the rows of all are below each other.
pub fn logits(query: &Tensor, key: &Tensor, negatives: &Negatives<'_>, temperature: f64) -> Logits {
    let size = query.size();
    let (several, last) = size.split_at(size.len() - 2);
    let (b, several) = (last[0], several.iter().product::<i64>());
    let mut columns = Vec::with_capacity(3);
    let options = (Kind::Int64, query.device());
    let target = if negatives.in_batch {
        let (all, first) = negatives.all.unwrap_or((key, 0));
        columns.push(query.matmul(&all.transpose(-2, -1))); // (B, B), positives on the diagonal; (B, A) of a part
        Tensor::arange_start(first, first + b, options).repeat([several])
    } else {
        columns.push((query * key).sum_dim_intlist([-1i64].as_slice(), true, Kind::Float)); // (B, 1)
        Tensor::zeros([several * b], options)
    };
    if let Some(queue) = negatives.queue {
        columns.push(query.matmul(queue)); // (B, K)
    }
    if let Some((hard, alpha)) = negatives.hard {
        let similarity = hard.matmul(&query.unsqueeze(2)).squeeze_dim(2); // (B, n)
        columns.push(similarity * alpha);
    }
    let values = Tensor::cat(&columns, -1).flatten(0, -2) / temperature;
    Logits { values, target }
}

impl Logits {
    /// Cross-entropy of each query, `(B)`.
    pub fn losses(&self) -> Tensor {
        self.values.cross_entropy_loss::<Tensor>(&self.target, None, tch::Reduction::None, -100, 0.0)
    }

    /// Mean cross-entropy.
    pub fn loss(&self) -> Tensor {
        self.values.cross_entropy_loss::<Tensor>(&self.target, None, tch::Reduction::Mean, -100, 0.0)
    }

    /// Share of queries whose positive has the largest logit.
    pub fn accuracy(&self) -> Tensor {
        let best = self.values.argmax(1, false);
        best.eq_tensor(&self.target).to_kind(Kind::Float).mean(Kind::Float)
    }
}

/// NT-Xent (arXiv 2002.05709, equation 1) over the 2B projections of pairs `a`, `b`, `(B, D)` each, normalised: every
/// projection against its partner, all others being negatives. `hard`: negatives `(B, n, D)` of the `a` alone,
/// and the factor on their similarity (arXiv 2309.12757). The logits are `(2B, 2B + n)`, those of `a` first.
pub fn nt_xent(a: &Tensor, b: &Tensor, hard: Option<(&Tensor, f64)>, temperature: f64) -> Logits {
    let n = a.size()[0];
    let z = Tensor::cat(&[a, b], 0); // (2B, D)
    let itself = Tensor::eye(2 * n, (Kind::Bool, z.device()));
    let similarity = z.matmul(&z.transpose(0, 1)).masked_fill(&itself, f64::NEG_INFINITY); // (2B, 2B)
    let mut columns = vec![similarity];
    if let Some((hard, alpha)) = hard {
        let own = hard.matmul(&a.unsqueeze(2)).squeeze_dim(2) * alpha; // (B, n)
        let none = own.full_like(f64::NEG_INFINITY);
        columns.push(Tensor::cat(&[own, none], 0)); // (2B, n)
    }
    let index = Tensor::arange(n, (Kind::Int64, z.device()));
    let target = Tensor::cat(&[&index + n, index], 0);
    Logits { values: Tensor::cat(&columns, 1) / temperature, target }
}

/// Mean cosine of normalised pairs, `(B, D)` each, and mean cosine between different ones.
pub fn similarities(query: &Tensor, key: &Tensor) -> (Tensor, Tensor) {
    let b = query.size()[0] as f64;
    let positive = (query * key).sum(Kind::Float);
    let all = query.sum_dim_intlist([0i64].as_slice(), false, Kind::Float)
        * key.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
    let other = (all.sum(Kind::Float) - &positive) / (b * (b - 1.0)).max(1.0);
    (positive / b, other)
}

/// Share of queries `(B, D)` whose own key is the most similar one among the keys of the batch.
pub fn pair_accuracy(query: &Tensor, key: &Tensor) -> Tensor {
    let best = query.matmul(&key.transpose(0, 1)).argmax(1, false);
    best.eq_tensor(&Tensor::arange(query.size()[0], (Kind::Int64, query.device())))
        .to_kind(Kind::Float)
        .mean(Kind::Float)
}

/// How spread embeddings `(B, D)` are: the mean over dimensions of the standard deviation over the batch, after
/// normalisation, times sqrt(D): 1 for directions drawn uniformly, 0 for a collapsed encoder.
pub fn spread(embedding: &Tensor) -> Tensor {
    let z = normalize(embedding);
    let d = z.size()[1] as f64;
    z.std_dim(Some([0i64].as_slice()), false, false).mean(Kind::Float) * d.sqrt()
}

/// Two less twice the cosine of predictions and targets along the last axis, of every pair (arXiv 2006.07733, equation 2).
/// Shape: `(.., D)` both to `(..)`; neither needs to be normalised.
pub fn distances(prediction: &Tensor, target: &Tensor) -> Tensor {
    let cosine =
        (normalize(prediction) * normalize(target)).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
    2.0 - 2.0 * cosine
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn unit(shape: &[i64], seed: i64) -> Tensor {
        tch::manual_seed(seed);
        normalize(&Tensor::randn(shape, (Kind::Float, Device::Cpu)))
    }

    fn row(t: &Tensor, i: i64) -> Vec<f64> {
        Vec::try_from(t.get(i).to_kind(Kind::Double).contiguous()).expect("numbers")
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(x, y)| x * y).sum()
    }

    /// Every query against its key, the queue, the other keys and its own hard negatives, in loops.
    #[test]
    fn loss_equals_a_naive_reference() {
        let _alone = crate::rng::alone();
        let (b, d, k, n, t, alpha) = (6, 8, 10, 3, 0.2, 2.0);
        let (q, key) = (unit(&[b, d], 1), unit(&[b, d], 2));
        let queue = unit(&[k, d], 3).transpose(0, 1);
        let hard = unit(&[b, n, d], 4);
        for in_batch in [false, true] {
            let negatives =
                Negatives { queue: Some(&queue), in_batch, hard: Some((&hard, alpha)), all: None };
            let ours = logits(&q, &key, &negatives, t);
            let (mut sum, mut hits) = (0.0, 0.0);
            for i in 0..b {
                let query = row(&q, i);
                let positive = dot(&query, &row(&key, i)) / t;
                let mut others: Vec<f64> =
                    (0..k).map(|j| dot(&query, &row(&queue.transpose(0, 1), j)) / t).collect();
                if in_batch {
                    others.extend((0..b).filter(|&j| j != i).map(|j| dot(&query, &row(&key, j)) / t));
                }
                let own = hard.get(i);
                others.extend((0..n).map(|j| alpha * dot(&query, &row(&own, j)) / t));
                let total: f64 = others.iter().chain([&positive]).map(|x| x.exp()).sum();
                sum += total.ln() - positive;
                hits += f64::from(u8::from(others.iter().all(|&x| x < positive)));
            }
            assert!((ours.loss().double_value(&[]) - sum / b as f64).abs() < 1e-5);
            assert!((ours.accuracy().double_value(&[]) - hits / b as f64).abs() < 1e-6);
        }
    }

    /// Equation 1 of the paper, with each a's own hard negatives, in loops.
    #[test]
    fn nt_xent_equals_a_naive_reference() {
        let _alone = crate::rng::alone();
        let (b, d, n, t, alpha) = (5, 8, 2, 0.1, 2.0);
        let (a, other, hard) = (unit(&[b, d], 1), unit(&[b, d], 2), unit(&[b, n, d], 3));
        let z: Vec<Vec<f64>> = (0..b).map(|i| row(&a, i)).chain((0..b).map(|i| row(&other, i))).collect();
        for with_hard in [false, true] {
            let ours = nt_xent(&a, &other, with_hard.then_some((&hard, alpha)), t);
            let (mut sum, mut hits) = (0.0, 0.0);
            for i in 0..2 * b as usize {
                let partner = (i + b as usize) % (2 * b as usize);
                let positive = dot(&z[i], &z[partner]) / t;
                let mut others: Vec<f64> =
                    (0..z.len()).filter(|&j| j != i && j != partner).map(|j| dot(&z[i], &z[j]) / t).collect();
                if with_hard && i < b as usize {
                    others.extend((0..n).map(|j| alpha * dot(&z[i], &row(&hard.get(i as i64), j)) / t));
                }
                let total: f64 = others.iter().chain([&positive]).map(|x| x.exp()).sum();
                sum += total.ln() - positive;
                hits += f64::from(u8::from(others.iter().all(|&x| x < positive)));
            }
            assert!((ours.loss().double_value(&[]) - sum / (2 * b) as f64).abs() < 1e-5);
            assert!((ours.accuracy().double_value(&[]) - hits / (2 * b) as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn similarities_and_accuracy_of_pairs() {
        let _alone = crate::rng::alone();
        let (q, k) = (unit(&[6, 16], 8), unit(&[6, 16], 9));
        let (mut positive, mut other, mut hits) = (0.0, 0.0, 0.0);
        for i in 0..6 {
            let all: Vec<f64> = (0..6).map(|j| dot(&row(&q, i), &row(&k, j))).collect();
            positive += all[i as usize] / 6.0;
            other += (all.iter().sum::<f64>() - all[i as usize]) / 30.0;
            hits += f64::from(u8::from(all.iter().all(|&s| s <= all[i as usize]))) / 6.0;
        }
        let ours = similarities(&q, &k);
        assert!((ours.0.double_value(&[]) - positive).abs() < 1e-6);
        assert!((ours.1.double_value(&[]) - other).abs() < 1e-6);
        assert!((pair_accuracy(&q, &k).double_value(&[]) - hits).abs() < 1e-6);
        assert_eq!(pair_accuracy(&q, &q).double_value(&[]), 1.0);
    }

    /// Batches with queues of their own give the rows that each gives alone.
    #[test]
    fn several_batches_are_contrasted_apart() {
        let _alone = crate::rng::alone();
        let (q, k, queue) = (unit(&[3, 5, 8], 1), unit(&[3, 5, 8], 2), unit(&[3, 7, 8], 3).transpose(1, 2));
        for in_batch in [false, true] {
            let of = |queue: &Tensor, q: &Tensor, k: &Tensor| {
                logits(q, k, &Negatives { queue: Some(queue), in_batch, ..Negatives::default() }, 0.2)
            };
            let together = of(&queue, &q, &k);
            let apart: Vec<Logits> = (0..3).map(|i| of(&queue.get(i), &q.get(i), &k.get(i))).collect();
            for (i, one) in (0i64..).zip(&apart) {
                let rows = together.values.narrow(0, 5 * i, 5);
                assert!((rows - &one.values).abs().max().double_value(&[]) < 1e-6);
                assert_eq!(together.target.narrow(0, 5 * i, 5), one.target);
            }
            let mean = apart.iter().map(|l| l.loss().double_value(&[])).sum::<f64>() / 3.0;
            assert!((together.loss().double_value(&[]) - mean).abs() < 1e-6);
        }
    }

    /// The rows of a part of a batch are those that the whole batch gives.
    #[test]
    fn a_part_of_a_batch_is_contrasted_with_all_of_it() {
        let _alone = crate::rng::alone();
        let (q, k) = (unit(&[2, 6, 8], 1), unit(&[2, 6, 8], 2));
        let whole = logits(&q, &k, &Negatives { in_batch: true, ..Negatives::default() }, 0.2);
        let (own, keys) = (q.narrow(1, 2, 2), k.narrow(1, 2, 2));
        let negatives = Negatives { in_batch: true, all: Some((&k, 2)), ..Negatives::default() };
        let part = logits(&own, &keys, &negatives, 0.2);
        let rows = |x: &Tensor| Tensor::cat(&[x.narrow(0, 2, 2), x.narrow(0, 8, 2)], 0);
        assert!((rows(&whole.values) - &part.values).abs().max().double_value(&[]) < 1e-6);
        assert_eq!(rows(&whole.target), part.target);
    }

    #[test]
    fn identical_keys_are_certain_and_hard_negatives_belong_to_one_query() {
        let _alone = crate::rng::alone();
        let q = unit(&[4, 64], 5);
        let certain = logits(&q, &q, &Negatives { in_batch: true, ..Negatives::default() }, 0.02);
        assert!(certain.loss().double_value(&[]) < 1e-3);
        // a negative equal to query 0 raises the loss of query 0 alone
        let hard = unit(&[4, 1, 64], 6);
        hard.get(0).copy_(&q.get(0).unsqueeze(0));
        let values =
            logits(&q, &q, &Negatives { hard: Some((&hard, 1.0)), ..Negatives::default() }, 1.0).values;
        assert!((values.double_value(&[0, 1]) - 1.0).abs() < 1e-5);
        assert!((1..4).all(|i| values.double_value(&[i, 1]) < 0.9));
    }

    #[test]
    fn spread_tells_collapse_from_uniform() {
        let _alone = crate::rng::alone();
        let uniform = unit(&[2000, 32], 7);
        assert!((spread(&uniform).double_value(&[]) - 1.0).abs() < 0.02);
        let collapsed = uniform.get(0).unsqueeze(0).expand([100, 32], false);
        assert!(spread(&collapsed).double_value(&[]) < 1e-3);
    }
}
