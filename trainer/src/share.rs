//! Which rows of a batch are this process's, where several train together.

use std::ops::Range;

use occlude_distributed::World;
use tch::Tensor;

/// One of several equal parts of every batch. What is drawn for a row is drawn for the whole batch, and then the part is
/// taken: so the ranks together draw what one process would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    size: usize,
}

impl Share {
    /// All rows.
    pub const ALL: Self = Self { rank: 0, size: 1 };

    /// Part `rank`, from 0, of `size`.
    pub fn new(rank: usize, size: usize) -> Self {
        Self { rank, size }
    }

    /// Those of this rank.
    pub fn of(world: &World) -> Self {
        Self::new(world.rank(), world.size())
    }

    /// Its places among `all` rows: as many as those of the others, or one more or less where they cannot be.
    pub fn range(self, all: usize) -> Range<usize> {
        all * self.rank / self.size..all * (self.rank + 1) / self.size
    }

    /// The rows of all, by those of this part.
    pub fn all(self, own: i64) -> i64 {
        own * self.size as i64
    }

    /// This part's rows of what was drawn for all, `(size N, ..)` to `(N, ..)`.
    pub fn rows(self, all: Tensor) -> Tensor {
        if self.size == 1 {
            return all;
        }
        let range = self.range(all.size()[0] as usize);
        all.narrow(0, range.start as i64, range.len() as i64)
    }

    /// The same of a list.
    pub fn part<T>(self, mut all: Vec<T>) -> Vec<T> {
        if self.size == 1 {
            return all;
        }
        let range = self.range(all.len());
        all.drain(range).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_rows_in_their_order() {
        let uneven = [0, 1, 2].map(|rank| Share::new(rank, 3).range(11));
        assert_eq!(uneven, [0..3, 3..7, 7..11]);
        let all: Vec<i64> = (0..12).collect();
        for size in [1, 2, 3, 4] {
            let shares: Vec<Share> = (0..size).map(|rank| Share::new(rank, size)).collect();
            assert_eq!(shares.iter().flat_map(|s| s.part(all.clone())).collect::<Vec<_>>(), all);
            let rows: Vec<Tensor> = shares.iter().map(|s| s.rows(Tensor::from_slice(&all))).collect();
            assert_eq!(Tensor::cat(&rows, 0), Tensor::from_slice(&all));
            assert!(shares.iter().all(|s| s.all(rows[0].size()[0]) == 12));
        }
    }
}
