//! Training or not.

/// How batch normalisation behaves in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// Statistics of the batch, in that many groups normalised apart as that many GPUs would;
    /// running statistics are updated with the mean over the groups.
    Train {
        /// Number of groups; divides the batch.
        splits: i64,
    },
    /// As `Train`, but the running statistics stay.
    Peek {
        /// Number of groups; divides the batch.
        splits: i64,
    },
}
