//! Training or not.

use occlude_distributed::World;

/// How batch normalisation behaves in a forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics.
    Eval,
    /// Statistics of the batch of all ranks, in that many groups normalised apart as that many GPUs would;
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

impl Mode {
    /// What is left of it for one of several ranks, and whether these have to normalise together: several groups are whole ones
    /// of each rank, a single one is that of all.
    pub(super) fn of_rank(self, world: &World) -> (Self, bool) {
        let size = world.size() as i64;
        let own = |splits: i64| (splits / size).max(1);
        match self {
            _ if world.is_single() => (self, false),
            Self::Eval => (self, false),
            Self::Train { splits } => (Self::Train { splits: own(splits) }, splits == 1),
            Self::Peek { splits } => (Self::Peek { splits: own(splits) }, splits == 1),
        }
    }
}
