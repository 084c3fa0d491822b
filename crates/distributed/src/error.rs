//! What can go wrong between processes.

/// Of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong. After [`Error::Collective`] the group can do nothing more: the process has to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Some of the variables that say who this process is, but not all.
    #[error(
        "the environment has {}, but not {}; hint: start with `torchrun --no-python` or `srun`, or unset them to train in one process",
        listed(.set),
        listed(.missing)
    )]
    Incomplete {
        /// Variables that are set.
        set: Vec<String>,
        /// Variables that are not.
        missing: Vec<String>,
    },
    /// A variable whose value makes no sense.
    #[error("environment variable `{name}`: expected {expected}, found `{found}`")]
    Variable {
        /// Its name.
        name: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The others could not be joined.
    #[error(
        "rank {rank} of {size} cannot join the others at `{address}`: {message}; hint: is the port free on that machine and open to this one, and was every rank started?"
    )]
    Join {
        /// Rank of this process.
        rank: usize,
        /// Number of processes.
        size: usize,
        /// Where rank 0 listens.
        address: String,
        /// What libtorch said.
        message: String,
    },
    /// Something that all do together failed: another process ended, stalled for longer than the time-out, or does
    /// something else.
    #[error("rank {rank} of {size}, step {step}, {operation}: {message}{hint}")]
    Collective {
        /// Rank of this process.
        rank: usize,
        /// Number of processes.
        size: usize,
        /// The step it was at.
        step: u64,
        /// What was to be done together.
        operation: String,
        /// What libtorch said.
        message: String,
        /// What may be the reason, with what separates it.
        hint: &'static str,
    },
    /// Ranks are in different places or have different things.
    #[error("{what} differs between ranks: {}; hint: start every rank with the same program, flags and data", each(.found))]
    Differs {
        /// What it is.
        what: String,
        /// What each rank has.
        found: Vec<String>,
    },
    /// Another rank cannot go on; its own message is the reason.
    #[error("rank {rank}: {message}")]
    Elsewhere {
        /// Which one.
        rank: usize,
        /// What it said.
        message: String,
    },
}

fn listed(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The values of the ranks, those of many with one value together.
fn each(found: &[String]) -> String {
    let mut values: Vec<(&String, Vec<usize>)> = Vec::new();
    for (rank, value) in found.iter().enumerate() {
        match values.iter_mut().find(|(known, _)| *known == value) {
            Some((_, ranks)) => ranks.push(rank),
            None => values.push((value, vec![rank])),
        }
    }
    let one = |(value, ranks): &(&String, Vec<usize>)| {
        let more = if ranks.len() > 1 { format!(" and {} more", ranks.len() - 1) } else { String::new() };
        format!("`{value}` on rank {}{more}", ranks[0])
    };
    values.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_with_one_value_are_told_together() {
        let found = ["a", "b", "a", "a"].map(String::from).to_vec();
        let error = Error::Differs { what: "`--lr`".into(), found };
        assert!(
            error
                .to_string()
                .starts_with("`--lr` differs between ranks: `a` on rank 0 and 2 more, `b` on rank 1; hint:")
        );
    }
}
