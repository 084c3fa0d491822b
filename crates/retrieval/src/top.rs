//! The best of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A candidate: of two the better one has the larger score, of equal scores the smaller id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) score: f32,
    pub(crate) id: &'a str,
    pub(crate) seq: i64,
    pub(crate) vector: &'a [f32],
}

impl Ord for Found<'_> {
    /// The better one is the smaller, so that the worst is on top of a heap.
    fn cmp(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then_with(|| self.id.cmp(other.id))
    }
}

impl PartialOrd for Found<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Found<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Found<'_> {}

/// Keeps the `k` best of what it is shown.
pub(crate) struct Top<'a> {
    k: usize,
    heap: BinaryHeap<Found<'a>>,
}

impl<'a> Top<'a> {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::new() }
    }

    pub(crate) fn show(&mut self, found: Found<'a>) {
        if self.heap.len() < self.k {
            self.heap.push(found);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && found < *worst
        {
            *worst = found;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Best first.
    pub(crate) fn sorted(self) -> Vec<Found<'a>> {
        self.heap.into_sorted_vec()
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
            let all = || scores.iter().zip(&ids).zip(0..).map(|((s, id), seq)| Found {
                score: f32::from(*s), id, seq, vector: &[],
            });
            let mut top = Top::new(k);
            all().for_each(|found| top.show(found));
            let mut expected: Vec<_> = all().collect();
            expected.sort_by(|a, b| b.score.partial_cmp(&a.score).unwrap().then(a.id.cmp(b.id)));
            expected.truncate(k);
            let seqs = |v: Vec<Found<'_>>| v.iter().map(|f| f.seq).collect::<Vec<_>>();
            prop_assert_eq!(seqs(top.sorted()), seqs(expected));
        }
    }
}
