//! The vectors of a collection in memory, in the order in which they came.

use crate::top::{Found, Top};
use crate::vector::dot;

/// Numbers in a block: 4 MB, so that clearing one of deleted rows takes a millisecond.
const BLOCK_NUMBERS: usize = 1 << 20;

/// Rows in blocks. `seq` is a row's number in the database: it is never used twice, grows from row to row, and what
/// has it never changes; a point that is replaced gets another.
pub(crate) struct Rows {
    dim: usize,
    per_block: usize,
    blocks: Vec<Block>,
    live: usize,
}

#[derive(Default)]
struct Block {
    seqs: Vec<i64>,
    ids: Vec<Box<str>>,
    live: Vec<bool>,
    dead: usize,
    /// (rows, dim)
    vectors: Vec<f32>,
}

/// A row that is there.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) seq: i64,
    pub(crate) id: &'a str,
    pub(crate) vector: &'a [f32],
}

/// The best rows of a search.
pub(crate) type TopRows<'a> = Top<&'a str, Row<'a>>;

impl Rows {
    pub(crate) fn new(dim: usize) -> Self {
        Self { dim, per_block: (BLOCK_NUMBERS / dim.max(1)).max(1), blocks: Vec::new(), live: 0 }
    }

    /// Rows that are not deleted.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Appends a row; `seq` is larger than all before.
    pub(crate) fn push(&mut self, seq: i64, id: &str, vector: &[f32]) {
        debug_assert!(vector.len() == self.dim && self.last_seq() < seq);
        let full = |block: &Block| block.seqs.len() >= self.per_block;
        if self.blocks.last().is_none_or(full) {
            self.blocks.push(Block::default());
        }
        if let Some(block) = self.blocks.last_mut() {
            block.seqs.push(seq);
            block.ids.push(id.into());
            block.live.push(true);
            block.vectors.extend_from_slice(vector);
            self.live += 1;
        }
    }

    /// Number of the last row, deleted or not; 0 before the first.
    pub(crate) fn last_seq(&self) -> i64 {
        self.blocks.last().and_then(|b| b.seqs.last()).copied().unwrap_or(0)
    }

    /// Deletes a row, if it is there.
    pub(crate) fn remove(&mut self, seq: i64) {
        let Some(at) = self.block_of(seq) else { return };
        let last = at + 1 == self.blocks.len();
        let Some(block) = self.blocks.get_mut(at) else { return };
        if !block.kill(seq) {
            return;
        }
        self.live -= 1;
        // the last block stays, so that the last number is known
        if !last && block.dead * 2 > block.seqs.len() {
            block.clear(self.dim);
            self.merge(at);
        }
    }

    /// Joins a block with the one before or drops it, where little is in them.
    fn merge(&mut self, at: usize) {
        let len = |i: usize| self.blocks.get(i).map_or(0, |b| b.seqs.len());
        if len(at) == 0 {
            self.blocks.remove(at);
        } else if at > 0 && len(at - 1) + len(at) <= self.per_block {
            let mut next = self.blocks.remove(at);
            if let Some(block) = self.blocks.get_mut(at - 1) {
                block.append(&mut next);
            }
        }
    }

    /// The row, if it is there.
    pub(crate) fn get(&self, seq: i64) -> Option<Row<'_>> {
        let block = self.blocks.get(self.block_of(seq)?)?;
        block.row(block.seqs.binary_search(&seq).ok()?, self.dim)
    }

    /// The only block that can hold a row.
    fn block_of(&self, seq: i64) -> Option<usize> {
        self.blocks.partition_point(|b| b.seqs.first().is_some_and(|first| *first <= seq)).checked_sub(1)
    }

    /// The rows behind `seq`.
    pub(crate) fn after(&self, seq: i64) -> impl Iterator<Item = Row<'_>> {
        let first = self.block_of(seq).unwrap_or(0);
        self.blocks.get(first..).unwrap_or_default().iter().flat_map(move |block| {
            let start = block.seqs.partition_point(|s| *s <= seq);
            (start..block.seqs.len()).filter_map(move |i| block.row(i, self.dim))
        })
    }

    /// Of the sorted numbers, the rows that are there.
    pub(crate) fn among<'a, 's>(&'a self, seqs: &'s [i64]) -> impl Iterator<Item = Row<'a>> + use<'a, 's> {
        self.blocks.iter().flat_map(move |block| {
            let (first, last) = (block.seqs.first().copied(), block.seqs.last().copied());
            let start = seqs.partition_point(|s| first.is_none_or(|f| *s < f));
            let end = seqs.partition_point(|s| last.is_some_and(|l| *s <= l));
            let mut at = 0;
            seqs.get(start..end).unwrap_or_default().iter().filter_map(move |seq| {
                at += block.seqs.get(at..)?.iter().position(|s| s >= seq)?;
                (block.seqs.get(at) == Some(seq)).then(|| block.row(at, self.dim)).flatten()
            })
        })
    }

    /// Bytes of the vectors of so many rows.
    pub(crate) fn bytes(&self, rows: usize) -> u64 {
        4 * self.dim as u64 * rows as u64
    }
}

impl Block {
    fn row(&self, at: usize, dim: usize) -> Option<Row<'_>> {
        let (seq, id) = (*self.seqs.get(at)?, self.ids.get(at)?);
        let vector = self.vectors.get(at * dim..(at + 1) * dim)?;
        self.live.get(at)?.then_some(Row { seq, id, vector })
    }

    fn kill(&mut self, seq: i64) -> bool {
        let at = self.seqs.binary_search(&seq).ok();
        let Some(live) = at.and_then(|at| self.live.get_mut(at)) else { return false };
        let was = std::mem::replace(live, false);
        self.dead += usize::from(was);
        was
    }

    /// Lets go of deleted rows.
    fn clear(&mut self, dim: usize) {
        let mut kept = Self::default();
        for row in (0..self.seqs.len()).filter_map(|i| self.row(i, dim)) {
            kept.seqs.push(row.seq);
            kept.ids.push(row.id.into());
            kept.live.push(true);
            kept.vectors.extend_from_slice(row.vector);
        }
        kept.vectors.shrink_to_fit();
        *self = kept;
    }

    fn append(&mut self, next: &mut Self) {
        self.seqs.append(&mut next.seqs);
        self.ids.append(&mut next.ids);
        self.live.append(&mut next.live);
        self.dead += next.dead;
        self.vectors.append(&mut next.vectors);
    }
}

impl<'a> Row<'a> {
    /// Shows the row to `top` with its score.
    pub(crate) fn show(self, query: &[f32], top: &mut TopRows<'a>) {
        top.show(Found { score: dot(self.vector, query), id: self.id, what: self });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn rows(per_block: usize) -> Rows {
        Rows { per_block, ..Rows::new(2) }
    }

    fn seqs<'a>(rows: impl Iterator<Item = Row<'a>>) -> Vec<i64> {
        rows.map(|r| r.seq).collect()
    }

    proptest! {
        /// Against a map: numbers with gaps, deletions of any, blocks of a few rows.
        #[test]
        fn rows_are_a_map(
            steps in prop::collection::vec((any::<bool>(), 0i64..60), 0..120),
            per_block in 1usize..6,
            wanted in prop::collection::btree_set(0i64..200, 0..60),
        ) {
            let (mut rows, mut model, mut next) = (rows(per_block), BTreeMap::new(), 1);
            for (push, number) in steps {
                if push {
                    next += 1 + number % 3;
                    rows.push(next, &format!("p{next}"), &[next as f32, 1.0]);
                    model.insert(next, format!("p{next}"));
                } else {
                    rows.remove(number * 2);
                    model.remove(&(number * 2));
                }
            }
            prop_assert_eq!(rows.len(), model.len());
            for seq in 0..=next + 1 {
                prop_assert_eq!(rows.get(seq).map(|r| r.id), model.get(&seq).map(String::as_str));
                prop_assert!(rows.get(seq).is_none_or(|r| r.vector == [seq as f32, 1.0]));
                let after: Vec<i64> = model.range(seq + 1..).map(|(s, _)| *s).collect();
                prop_assert_eq!(seqs(rows.after(seq)), after);
            }
            let wanted: Vec<i64> = wanted.into_iter().collect();
            let among: Vec<i64> = wanted.iter().copied().filter(|s| model.contains_key(s)).collect();
            prop_assert_eq!(seqs(rows.among(&wanted)), among);
        }
    }

    #[test]
    fn deleted_rows_give_their_memory_back() {
        let mut rows = rows(8);
        for seq in 1..=800 {
            rows.push(seq, "p", &[1.0, 0.0]);
        }
        for seq in (1..=800).filter(|s| s % 16 != 0) {
            rows.remove(seq);
        }
        let held: usize = rows.blocks.iter().map(|b| b.seqs.len()).sum();
        assert!(rows.len() == 50 && held < 120, "{held} rows are held for {}", rows.len());
        assert!(rows.blocks.len() < 30, "{} blocks", rows.blocks.len());
        assert_eq!(rows.last_seq(), 800);
    }
}
