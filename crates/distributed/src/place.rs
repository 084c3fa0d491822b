//! Which process this is, by the environment that torchrun or Slurm made.

use std::str::FromStr;

use super::{Error, Result};

/// Who a process is among those that were started together, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Number of this process, from 0.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
    /// Number of this process on its machine, from 0; also the number of its CUDA device.
    pub local_rank: usize,
    /// How many there are on this machine.
    pub local_size: usize,
    /// Machine where they meet.
    pub host: String,
    /// Port of it.
    pub port: u16,
    /// How often torchrun restarted the processes; each time they meet anew.
    pub attempt: usize,
    /// Whether torchrun's agent serves the place where they meet.
    pub agent: bool,
}

/// What torchrun sets, and everything that starts processes as PyTorch expects it.
const TORCHRUN: [&str; 4] = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
/// Where the processes of a Slurm step meet, which the job script has to say.
const MEETING: [&str; 2] = ["MASTER_ADDR", "MASTER_PORT"];

impl Place {
    /// Reads the environment; `None` where this process is alone.
    ///
    /// # Errors
    /// Where some of the variables are set and others are missing, or a value makes no sense.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The same of other variables.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let names = if get("RANK").is_some() || get("WORLD_SIZE").is_some() {
            Names {
                rank: "RANK",
                size: "WORLD_SIZE",
                local_rank: "LOCAL_RANK",
                local_size: "LOCAL_WORLD_SIZE",
            }
        } else if get("SLURM_STEP_ID").is_some() && get("SLURM_PROCID").is_some() {
            // a job's script has a SLURM_PROCID too, but no step: nobody started others beside it
            Names {
                rank: "SLURM_PROCID",
                size: "SLURM_NTASKS",
                local_rank: "SLURM_LOCALID",
                local_size: "SLURM_NTASKS_PER_NODE",
            }
        } else {
            return Ok(None);
        };
        let slurm = names.rank != "RANK";
        if slurm && get(names.size).as_deref() == Some("1") {
            return Ok(None);
        }
        let needed: Vec<&str> = if slurm {
            [names.rank, names.size].into_iter().chain(MEETING).collect()
        } else {
            TORCHRUN.to_vec()
        };
        let (set, missing): (Vec<&str>, Vec<&str>) = needed.iter().partition(|name| get(name).is_some());
        if !missing.is_empty() {
            let owned = |names: Vec<&str>| names.into_iter().map(String::from).collect();
            return Err(Error::Incomplete { set: owned(set), missing: owned(missing) });
        }
        let place = names.read(&get)?;
        Ok((place.size > 1).then_some(place))
    }
}

/// The variables of one way of starting.
struct Names {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

impl Names {
    fn read(&self, get: &impl Fn(&str) -> Option<String>) -> Result<Place> {
        let size: usize = number(get, self.size, "a number of processes from 1", |&n| n > 0)?;
        let below = format!("a number from 0, below `{}` ({size})", self.size);
        let rank: usize = number(get, self.rank, &below, |&n| n < size)?;
        let or = |name: &str, otherwise: usize, expected: &str| {
            get(name).map_or(Ok(otherwise), |_| number(get, name, expected, |&n| n <= size))
        };
        Ok(Place {
            rank,
            size,
            // without it, as if there were one machine: a device that is not there is better than one for all
            local_rank: or(self.local_rank, rank, "a number from 0")?,
            local_size: or(self.local_size, 1, "a number of processes from 1")?.max(1),
            host: get("MASTER_ADDR").unwrap_or_default(),
            port: number(get, "MASTER_PORT", "a port from 1 to 65535", |&n| n > 0)?,
            attempt: get("TORCHELASTIC_RESTART_COUNT")
                .map_or(Ok(0), |_| number(get, "TORCHELASTIC_RESTART_COUNT", "a number from 0", |_| true))?,
            agent: get("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
        })
    }
}

fn number<T: FromStr>(
    get: &impl Fn(&str) -> Option<String>,
    name: &str,
    expected: &str,
    fits: impl Fn(&T) -> bool,
) -> Result<T> {
    let found = get(name).unwrap_or_default();
    found.parse().ok().filter(fits).ok_or_else(|| Error::Variable {
        name: name.into(),
        expected: expected.into(),
        found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &str) -> Result<Option<Place>> {
        let get = |name: &str| {
            let mut all = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
            all.find(|(n, _)| *n == name).map(|(_, value)| value.to_owned())
        };
        Place::from_variables(get)
    }

    const TORCH: &str =
        "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=one MASTER_PORT=29500";

    #[test]
    fn torchruns_variables_are_read() {
        let found = place(TORCH).expect("valid").expect("several");
        let expected = Place {
            rank: 3,
            size: 4,
            local_rank: 1,
            local_size: 2,
            host: "one".into(),
            port: 29500,
            attempt: 0,
            agent: false,
        };
        assert_eq!(found, expected);
        let more = format!("{TORCH} TORCHELASTIC_RESTART_COUNT=2 TORCHELASTIC_USE_AGENT_STORE=True");
        assert_eq!(place(&more), Ok(Some(Place { attempt: 2, agent: true, ..expected })));
    }

    #[test]
    fn slurms_steps_are_read_and_its_job_scripts_are_alone() {
        let task = "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 SLURM_STEP_ID=0";
        let found = place(&format!("{task} MASTER_ADDR=one MASTER_PORT=1")).expect("valid").expect("several");
        assert_eq!((found.rank, found.size, found.local_rank, found.local_size), (1, 2, 1, 1));
        assert_eq!(place("SLURM_PROCID=0 SLURM_NTASKS=2"), Ok(None));
        assert_eq!(place("SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_STEP_ID=0"), Ok(None));
        let message = place(task).expect_err("nobody says where").to_string();
        assert!(message.contains("but not `MASTER_ADDR`, `MASTER_PORT`"), "{message}");
    }

    #[test]
    fn one_process_is_alone() {
        assert_eq!(place(""), Ok(None));
        assert_eq!(place("MASTER_ADDR=one MASTER_PORT=29500"), Ok(None));
        assert_eq!(place("RANK=0 WORLD_SIZE=1 MASTER_ADDR=one MASTER_PORT=29500"), Ok(None));
    }

    #[test]
    fn half_of_the_variables_and_bad_values_are_refused() {
        for (variables, expected) in [
            ("RANK=0", "the environment has `RANK`, but not `WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`"),
            ("WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=1", "but not `RANK`"),
            (
                "RANK=2 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=1",
                "`RANK`: expected a number from 0, below `WORLD_SIZE` (2), found `2`",
            ),
            (
                "RANK=0 WORLD_SIZE=two MASTER_ADDR=x MASTER_PORT=1",
                "`WORLD_SIZE`: expected a number of processes from 1, found `two`",
            ),
            ("RANK=0 WORLD_SIZE=0 MASTER_ADDR=x MASTER_PORT=1", "found `0`"),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=x MASTER_PORT=99999", "`MASTER_PORT`: expected a port"),
            ("RANK=0 WORLD_SIZE=2 LOCAL_RANK=-1 MASTER_ADDR=x MASTER_PORT=1", "`LOCAL_RANK`"),
        ] {
            let message = place(variables).expect_err(variables).to_string();
            assert!(message.contains(expected), "{variables}: {message}");
        }
    }
}
