//! Does training on this device compute what the CPU computes? What a user runs first on a new machine.

mod collectives;
mod numbers;
mod runs;

use std::process::ExitCode;

use anyhow::Result;
use occlude_distributed::World;
use tch::{Device, Kind, Tensor};

/// A part of the self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// Forward and backward pass in every number format
    Forward,
    /// The golden picture's features in every number format
    Golden,
    /// Saliency
    Masks,
    /// Colour changes of views
    Colours,
    /// Copies to the device
    Copies,
    /// Losses of a few steps
    Steps,
    /// A few steps of every recipe
    Methods,
    /// A run that is stopped and resumed
    Resume,
    /// One training step with masks and a hard negative, nothing else: short enough for `compute-sanitizer`
    Step,
    /// What processes do together: Gloo on the CPU, NCCL on CUDA; alone as a group of one, else of all processes
    Collectives,
}

impl Stage {
    fn checks(self, world: &World, device: Device) -> Result<Vec<Check>> {
        match self {
            Self::Forward => numbers::forward_and_backward(device),
            Self::Golden => numbers::golden(device),
            Self::Masks => Ok(vec![numbers::masking(device)]),
            Self::Colours => Ok(vec![numbers::colours(device)]),
            Self::Copies => Ok(vec![numbers::copies(device)?]),
            Self::Steps => runs::steps(device),
            Self::Methods => runs::methods(device),
            Self::Resume => Ok(vec![runs::resume(device)?]),
            Self::Step => Ok(vec![runs::one_step(device)?]),
            Self::Collectives => collectives::checks(world, device),
        }
    }
}

/// One check: what it measures, what it found, the bound.
struct Check {
    name: String,
    found: f64,
    /// At most this, or at least this.
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Check {
    fn at_most(name: impl Into<String>, found: f64, bound: f64) -> Self {
        Self { name: name.into(), found, bound: Bound::AtMost(bound) }
    }

    fn at_least(name: impl Into<String>, found: f64, bound: f64) -> Self {
        Self { name: name.into(), found, bound: Bound::AtLeast(bound) }
    }

    fn passes(&self) -> bool {
        match self.bound {
            Bound::AtMost(b) => self.found <= b,
            Bound::AtLeast(b) => self.found >= b,
        }
    }
}

/// Runs the checks of `stages` on `device` and prints a table, which of several processes the first one does; exit code 3
/// where one fails.
///
/// # Errors
/// Where a check cannot run at all.
pub fn run(world: &World, device: Device, stages: &[Stage]) -> Result<ExitCode> {
    let mut checks = Vec::new();
    for stage in stages {
        checks.extend(stage.checks(world, device)?);
    }
    if !world.is_main() {
        return Ok(ExitCode::SUCCESS);
    }
    answer!("{:<52} {:>12} {:>16}", format!("check on {device:?}"), "found", "bound");
    for c in &checks {
        let bound = match c.bound {
            Bound::AtMost(b) => format!("<= {b}"),
            Bound::AtLeast(b) => format!(">= {b}"),
        };
        answer!("{:<52} {:>12.3e} {bound:>16} {}", c.name, c.found, if c.passes() { "ok" } else { "FAILED" });
    }
    let failed = checks.iter().filter(|c| !c.passes()).count();
    if failed > 0 {
        tell!("error: {failed} of {} checks failed on {device:?}", checks.len());
        return Ok(ExitCode::from(3));
    }
    Ok(ExitCode::SUCCESS)
}

/// Largest difference, relative to the largest reference value.
fn relative(found: &Tensor, reference: &Tensor) -> f64 {
    let found = found.to_device(Device::Cpu).to_kind(Kind::Double);
    let reference = reference.to_device(Device::Cpu).to_kind(Kind::Double);
    let scale = reference.abs().max().double_value(&[]).max(1e-12);
    (found - &reference).abs().max().double_value(&[]) / scale
}

fn pictures(n: i64, size: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([n, 3, size, size], (Kind::Float, Device::Cpu))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn the_cpu_agrees_with_itself() {
        let _alone = crate::rng::alone();
        let code = run(&World::single(), Device::Cpu, Stage::value_variants()).expect("it runs");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    }

    #[test]
    fn a_difference_past_the_bound_fails() {
        assert!(Check::at_most("", 0.0, 0.0).passes() && !Check::at_most("", 0.2, 0.1).passes());
        assert!(Check::at_least("", 0.99, 0.9).passes() && !Check::at_least("", f64::NAN, 0.9).passes());
    }
}
