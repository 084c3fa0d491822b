//! How many rows an approximate index is asked for, of which the best are hits.

/// Candidates per hit.
const PER_HIT: usize = 4;
/// Candidates of a search, at least: `ef` of the paper on HNSW.
pub(crate) const LEAST: usize = 192;
/// Rows for which these are enough. In larger graphs a search ends further from what is nearest: of 1,000,000 vectors of 256
/// numbers around 500 centres, 192 candidates have 0.90 of the ten nearest, 764 have 0.97 (`examples/measure.rs`).
const ROWS: f64 = 100_000.0;
/// By which power of the rows the candidates grow.
const GROWTH: f64 = 0.6;

/// Candidates for `k` hits among so many rows.
pub(crate) fn candidates(k: usize, rows: usize) -> usize {
    let growth = (rows as f64 / ROWS).max(1.0).powf(GROWTH);
    (k * PER_HIT).max((LEAST as f64 * growth) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_grow_with_hits_and_rows() {
        assert_eq!((candidates(10, 0), candidates(10, 100_000), candidates(100, 100_000)), (192, 192, 400));
        assert_eq!((candidates(10, 1_000_000), candidates(1000, 1_000_000)), (764, 4000));
        assert!(candidates(10, usize::MAX) < usize::MAX);
    }
}
