//! Vectors in memory alone, by their numbers.

use crate::top::{Found, Top};
use crate::vector::{dot, unit};

/// Vectors of one length whose ids are their numbers, for exact search: a collection that nobody changes, without names,
/// payloads or a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Vectors {
    /// (n, dim), rows of length 1, or of zeros.
    rows: Vec<f32>,
    dim: usize,
}

impl Vectors {
    /// Those of `rows`, all as long as the first. One that has no direction is like nothing: all its cosines are 0.
    pub fn new(rows: impl IntoIterator<Item = Vec<f32>>) -> Self {
        let mut rows = rows.into_iter().peekable();
        let dim = rows.peek().map_or(0, Vec::len);
        Self { rows: rows.flat_map(|row| direction(&row)).collect(), dim }
    }

    /// The row of a number, (dim), of length 1 or of zeros; none where there is no such row.
    pub fn row(&self, id: usize) -> Option<&[f32]> {
        let start = id.checked_mul(self.dim)?;
        self.rows.get(start..start.checked_add(self.dim)?).filter(|row| !row.is_empty())
    }

    /// The cosine of every row to `query`, in their order, (n). None where `query` has another length.
    pub fn cosines(&self, query: &[f32]) -> Vec<f32> {
        if self.dim == 0 || query.len() != self.dim {
            return Vec::new();
        }
        let query = direction(query);
        self.rows.chunks_exact(self.dim).map(|row| dot(row, &query).clamp(-1.0, 1.0)).collect()
    }

    /// The `k` rows with the largest cosine to `query`, best first, each with its cosine; of equals the first. Exact: every row
    /// is compared. None where `query` has another length.
    pub fn nearest(&self, query: &[f32], k: usize) -> Vec<(usize, f32)> {
        if self.dim == 0 || query.len() != self.dim {
            return Vec::new();
        }
        let query = direction(query);
        let mut top = Top::new(k);
        for (id, row) in self.rows.chunks_exact(self.dim).enumerate() {
            top.show(Found { score: dot(row, &query), id, what: () });
        }
        top.sorted().into_iter().map(|found| (found.id, found.score)).collect()
    }
}

fn direction(vector: &[f32]) -> Vec<f32> {
    unit(vector).unwrap_or_else(|_| vec![0.0; vector.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_that_are_there() {
        let two = Vectors::new([vec![3.0, 4.0], vec![0.0, 0.0]]);
        assert_eq!(two.row(0), Some(&[0.6, 0.8][..]));
        assert_eq!(two.row(1), Some(&[0.0, 0.0][..]));
        assert_eq!((two.row(2), two.row(usize::MAX), Vectors::default().row(0)), (None, None, None));
    }

    #[test]
    fn search_is_the_same_as_sorting_everything() {
        let (n, dim, k) = (500, 11, 25);
        let value = |i: usize| ((i * 7919 + 13) % 101) as f32 - 50.0;
        let row = |i: usize| (0..dim).map(|j| value(i * dim + j)).collect::<Vec<f32>>();
        let query: Vec<f32> = (0..dim).map(|j| value(j * 31)).collect();
        let length = |v: &[f32]| v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let cosine = |v: &[f32]| {
            let product: f64 = v.iter().zip(&query).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
            product / (length(v) * length(&query))
        };
        let mut naive: Vec<(usize, f64)> = (0..n).map(|i| (i, cosine(&row(i)))).collect();
        naive.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = Vectors::new((0..n).map(row)).nearest(&query, k);
        assert_eq!(found.len(), k);
        for ((id, score), (_, expected)) in found.iter().zip(&naive) {
            assert!((f64::from(*score) - expected).abs() < 1e-5);
            assert!((cosine(&row(*id)) - expected).abs() < 1e-5, "of its own row");
        }
    }

    #[test]
    fn of_equals_the_first_and_what_has_no_direction_is_like_nothing() {
        let all = Vectors::new([vec![0.0, 0.0], vec![0.0, 2.0], vec![0.0, 3.0], vec![f32::NAN, 1.0]]);
        assert_eq!(all.nearest(&[0.0, 1.0], 9), [(1, 1.0), (2, 1.0), (0, 0.0), (3, 0.0)]);
        assert_eq!(all.nearest(&[0.0, 1.0], 1), [(1, 1.0)]);
        assert_eq!(all.cosines(&[0.0, 1.0]), [0.0, 1.0, 1.0, 0.0]);
        assert!(all.cosines(&[1.0]).is_empty() && Vectors::default().cosines(&[]).is_empty());
        assert!(all.nearest(&[1.0], 9).is_empty() && Vectors::default().nearest(&[], 9).is_empty());
    }
}
