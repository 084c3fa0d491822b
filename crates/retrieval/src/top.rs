//! The best of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A candidate: of two the better one has the larger score, of equal scores the smaller id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<I, T> {
    pub(crate) score: f32,
    pub(crate) id: I,
    pub(crate) what: T,
}

impl<I: Ord, T> Ord for Found<I, T> {
    /// The better one is the smaller, so that the worst is on top of a heap.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then_with(|| self.id.cmp(&other.id))
    }
}

impl<I: Ord, T> PartialOrd for Found<I, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<I: Ord, T> PartialEq for Found<I, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<I: Ord, T> Eq for Found<I, T> {}

/// Keeps the `k` best of what it is shown.
pub(crate) struct Top<I, T> {
    k: usize,
    heap: BinaryHeap<Found<I, T>>,
}

impl<I: Ord, T> Top<I, T> {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    pub(crate) fn show(&mut self, found: Found<I, T>) {
        if self.heap.len() < self.k {
            self.heap.push(found);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && found < *worst
        {
            *worst = found;
        }
    }

    /// Score of the last one, once there are as many as are kept.
    #[cfg(any(feature = "milvus", feature = "postgres"))]
    pub(crate) fn worst(&self) -> Option<f32> {
        if self.heap.len() < self.k { None } else { self.heap.peek().map(|found| found.score) }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Best first, with scores that are cosines: rounding may leave their range.
    pub(crate) fn sorted(self) -> Vec<Found<I, T>> {
        let clamped = |found: Found<I, T>| Found { score: found.score.clamp(-1.0, 1.0), ..found };
        self.heap.into_sorted_vec().into_iter().map(clamped).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_best_are_kept(scores in prop::collection::vec(-3i8..3, 0..40), k in 0usize..12) {
            let ids: Vec<String> = (0..scores.len()).map(|i| format!("{}", i * 7 % 40)).collect();
            let all = || scores.iter().zip(&ids).enumerate().map(|(i, (s, id))| Found {
                score: f32::from(*s) / 4.0, id, what: i,
            });
            let mut top = Top::new(k);
            all().for_each(|found| top.show(found));
            let mut expected: Vec<_> = all().collect();
            expected.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.id.cmp(b.id)));
            expected.truncate(k);
            let places = |v: Vec<Found<_, usize>>| v.iter().map(|f| f.what).collect::<Vec<_>>();
            prop_assert_eq!(places(top.sorted()), places(expected));
        }
    }

    #[test]
    fn scores_are_cosines() {
        let mut top = Top::new(2);
        for score in [1.000_000_1, -1.000_000_1] {
            top.show(Found { score, id: 0, what: () });
        }
        assert_eq!(top.sorted().iter().map(|f| f.score).collect::<Vec<_>>(), [1.0, -1.0]);
    }
}
