//! Several processes that do one thing together: what they agree on, and how they end.

use std::fmt;

use anyhow::Result;
use occlude_distributed::{Error, World};

use crate::terminal;

/// What no rank can go on with, and all of them know: rank 0 says it.
#[derive(Debug)]
struct Agreed(anyhow::Error);

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Agreed {}

/// Goes on where all ranks can.
///
/// # Errors
/// The outcome's, or that of another rank.
pub fn agreed<T>(world: &World, outcome: Result<T>, what: &str) -> Result<T> {
    let unreachable = |error: &anyhow::Error| matches!(error.downcast_ref(), Some(Error::Collective { .. }));
    if world.is_single() || outcome.as_ref().is_err_and(unreachable) {
        return outcome;
    }
    world
        .agreed(outcome, what)
        .map_err(|error| if unreachable(&error) { error } else { Agreed(error).into() })
}

/// Ends one of several processes after saying why, unless another one says it: the others wait in vain, and destructors would
/// wait for them.
pub fn end(world: &World, error: &anyhow::Error) -> ! {
    if error.is::<Agreed>() && terminal::is_quiet() {
        occlude_distributed::leave(1)
    }
    if error.is::<Agreed>() || error.is::<Error>() {
        terminal::leave(error)
    }
    terminal::leave(&format_args!("rank {} of {}: {error:#}", world.rank(), world.size()))
}

/// What the first process of each machine makes before the others do, which then find what it left on the disk.
///
/// # Errors
/// Where it fails on any rank.
pub fn first<T>(world: &World, what: &str, make: impl Fn() -> Result<T>) -> Result<T> {
    if world.is_single() {
        return make();
    }
    let first = (world.local_rank() == 0).then(&make).transpose();
    let first = agreed(world, first, what)?;
    agreed(world, first.map_or_else(make, Ok), what)
}

/// Makes sure that all ranks have the same texts, each of which is called something.
///
/// # Errors
/// Where one differs, on every rank alike.
pub fn same(world: &World, texts: &[(&str, &str)]) -> Result<()> {
    let outcome = texts.iter().try_for_each(|(what, text)| world.same(what, text));
    outcome.map_err(|error| match error {
        Error::Differs { .. } => Agreed(error.into()).into(),
        _ => error.into(),
    })
}
