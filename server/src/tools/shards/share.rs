//! Which of the input's shards are this process's.

use std::fmt;
use std::str::FromStr;

/// Part `index` of `count`: the shards at `index`, `index + count`, .. of the sorted list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// From 0.
    pub index: usize,
    /// How many parts there are.
    pub count: usize,
}

/// Why it is not known which part of the work is this process's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Not `I/N`.
    #[error("`{0}` is no part of the work; expected I/N, the first part of four being `0/4`")]
    Format(String),
    /// A part that does not exist.
    #[error("{name} is {index}, and parts are 0 to {}; hint: parts are counted from 0", count.saturating_sub(1))]
    Range {
        /// What said so.
        name: String,
        /// The part.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A variable that is no number.
    #[error("`{name}` is `{value}`; expected a number")]
    Number {
        /// The variable.
        name: &'static str,
        /// What it holds.
        value: String,
    },
    /// An index without a count.
    #[error(
        "`{KUBERNETES}` is {0}, and Kubernetes does not say of how many; hint: add `--shards N` with the `completions` of the job"
    )]
    NoCount(String),
    /// A count without an index.
    #[error(
        "`--shards {0}` says how many parts there are, and nothing says which is this one; hint: `--shard I/{0}`, or start it as a Slurm array or an indexed job of Kubernetes"
    )]
    NoIndex(usize),
    /// Numbers of tasks that are not evenly spaced.
    #[error(
        "the Slurm array has {count} tasks, which are not evenly spaced from {least} to {most}; hint: `--array=0-{}` (finished shards are skipped whoever did them), or `--shard I/N`", count.saturating_sub(1)
    )]
    Uneven {
        /// `SLURM_ARRAY_TASK_COUNT`.
        count: usize,
        /// `SLURM_ARRAY_TASK_MIN`.
        least: usize,
        /// `SLURM_ARRAY_TASK_MAX`.
        most: usize,
    },
}

const KUBERNETES: &str = "JOB_COMPLETION_INDEX";
const SLURM: [&str; 5] = [
    "SLURM_ARRAY_TASK_ID",
    "SLURM_ARRAY_TASK_COUNT",
    "SLURM_ARRAY_TASK_MIN",
    "SLURM_ARRAY_TASK_MAX",
    "SLURM_ARRAY_TASK_STEP",
];

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// What the flags say, else what Slurm or Kubernetes do, else everything. `variable` reads the environment.
    pub(super) fn of(
        given: Option<Self>,
        count: Option<usize>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ShareError> {
        if let Some(share) = given {
            return Ok(share);
        }
        let number = |name: &'static str| match variable(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(value) => match value.parse::<usize>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ShareError::Number { name, value }),
            },
        };
        let [id, tasks, least, most, step] = SLURM;
        match (number(id)?, number(KUBERNETES)?, count) {
            (Some(index), _, Some(count)) => Self::checked(id, index, count),
            (Some(index), _, None) => {
                let count = number(tasks)?.unwrap_or(1);
                let least = number(least)?.unwrap_or(0);
                let most = number(most)?.unwrap_or(least + count.saturating_sub(1));
                let step = number(step)?.unwrap_or(1).max(1);
                let even = most >= least && (most - least) / step + 1 == count;
                if !even || index < least || !(index - least).is_multiple_of(step) {
                    return Err(ShareError::Uneven { count, least, most });
                }
                Self::checked(id, (index - least) / step, count)
            }
            (None, Some(index), Some(count)) => Self::checked(KUBERNETES, index, count),
            (None, Some(index), None) => Err(ShareError::NoCount(index.to_string())),
            (None, None, Some(1)) | (None, None, None) => Ok(Self::WHOLE),
            (None, None, Some(count)) => Err(ShareError::NoIndex(count)),
        }
    }

    fn checked(name: &str, index: usize, count: usize) -> Result<Self, ShareError> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(ShareError::Range { name: format!("`{name}`"), index, count })
    }

    /// Those of a list that are this part's.
    pub(super) fn of_list<T>(self, all: &[T]) -> impl Iterator<Item = &T> {
        all.iter().skip(self.index).step_by(self.count.max(1))
    }
}

impl FromStr for Share {
    type Err = ShareError;

    fn from_str(text: &str) -> Result<Self, ShareError> {
        let wrong = || ShareError::Format(text.to_owned());
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str| text.parse().map_err(|_| wrong());
        match (number(index)?, number(count)?) {
            (_, 0) => Err(wrong()),
            (index, count) if index < count => Ok(Self { index, count }),
            (index, count) => Err(ShareError::Range { name: "the part".to_owned(), index, count }),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: Option<usize>, variables: &[(&str, &str)]) -> Result<Share, ShareError> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Share::of(None, count, &variable)
    }

    fn slurm(values: [&str; 5]) -> Result<Share, ShareError> {
        of(None, &SLURM.into_iter().zip(values).collect::<Vec<_>>())
    }

    #[test]
    fn flags_come_first_then_slurm_then_kubernetes() {
        assert_eq!(of(None, &[]), Ok(Share::WHOLE));
        assert_eq!(slurm(["3", "4", "0", "3", "1"]), Ok(Share { index: 3, count: 4 }));
        assert_eq!(slurm(["4", "4", "1", "4", "1"]), Ok(Share { index: 3, count: 4 }));
        assert_eq!(slurm(["6", "6", "0", "10", "2"]), Ok(Share { index: 3, count: 6 }));
        assert_eq!(of(Some(9), &[(KUBERNETES, "8")]), Ok(Share { index: 8, count: 9 }));
        let both = [(KUBERNETES, "8"), ("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_COUNT", "2")];
        assert_eq!(of(None, &both), Ok(Share { index: 1, count: 2 }));
        // some tasks of a larger array again, by their own numbers
        assert_eq!(of(Some(100), &[("SLURM_ARRAY_TASK_ID", "7")]), Ok(Share { index: 7, count: 100 }));
        let given = Share::of("2/5".parse().ok(), Some(9), &|_| Some("x".to_owned()));
        assert_eq!(given, Ok(Share { index: 2, count: 5 }));
    }

    #[test]
    fn what_does_not_say_it_all_is_refused_by_name() {
        let told = |result: Result<Share, ShareError>| result.unwrap_err().to_string();
        assert!(told(of(None, &[(KUBERNETES, "3")])).contains("--shards N"));
        assert!(told(of(Some(4), &[])).contains("--shard I/4"));
        assert!(
            told(of(Some(4), &[(KUBERNETES, "4")]))
                .contains("`JOB_COMPLETION_INDEX` is 4, and parts are 0 to 3")
        );
        assert!(told(of(None, &[(SLURM[0], "x")])).contains("`SLURM_ARRAY_TASK_ID` is `x`"));
        let uneven = told(slurm(["5", "3", "1", "7", "1"]));
        assert!(uneven.contains("3 tasks") && uneven.contains("--array=0-2"), "{uneven}");
        for text in ["", "3", "1/0", "a/b", "-1/2", "1/2/3"] {
            assert!(told(text.parse()).contains("expected I/N"), "{text}");
        }
        assert!(told("4/4".parse()).contains("the part is 4, and parts are 0 to 3"));
    }

    #[test]
    fn every_shard_is_in_one_part() {
        let all: Vec<usize> = (0..11).collect();
        let mut seen: Vec<usize> = (0..4)
            .flat_map(|index| Share { index, count: 4 }.of_list(&all).copied().collect::<Vec<_>>())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, all);
    }
}
