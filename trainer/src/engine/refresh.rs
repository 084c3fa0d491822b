//! Checkpoints whose running statistics are estimated anew.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::Checkpoint;

use super::position::Loaded;
use super::snapshot::{self, State};
use super::{Engine, Run};
use crate::config::{Choice, Config, Guidance};
use crate::data::{Pictures, Store};
use crate::method;
use crate::signals::Interrupt;
use crate::teacher::Targets;

/// Batches that a run takes where nothing else is said.
pub const BATCHES: usize = 100;

/// Writes `out`: the checkpoint at `path` with running statistics of its encoder that are estimated anew on the views that
/// its run would have of the pictures of `run`, over [`Run::bn_refresh`] batches; those of training lie beside them. How many
/// batches it were.
///
/// # Errors
/// Where `path` is no checkpoint of a run, pictures cannot be read, or `out` cannot be written.
pub fn refresh(path: &Path, out: &Path, run: &Run) -> Result<usize> {
    let checkpoint = Checkpoint::open(path)?;
    let Loaded { config, at, .. } = snapshot::describe(path, &checkpoint)?;
    config.can_refresh().with_context(|| format!("`{}`", path.display()))?;
    let dataset = crate::data::open(&run.data)?;
    let (pictures, batch) = (dataset.len(), config.batch_size * config.accumulate);
    ensure!(
        batch <= pictures,
        "`{}` has {pictures} pictures, fewer than the {batch} of a step of the run that wrote `{}`; hint: the run's own pictures, or more",
        run.data.display(),
        path.display()
    );
    let mut engine = {
        let store = Arc::new(Store::new(dataset, run.cache_bytes));
        let targets = Targets::made_up(&config, pictures);
        let method = method::build(&unguided(&config), targets.as_ref(), run.bf16, run.device)?;
        Engine::new(&config, run, Pictures::Stored(store), method)
    };
    snapshot::load(path, &checkpoint, engine.method.as_mut(), &engine.optimizer)?;
    engine.at = at;
    let signals = Interrupt::register()?;
    let refreshed = match engine.refresh(&signals)? {
        Ok(Some(refreshed)) => refreshed,
        _ => bail!("nothing was estimated; hint: `--batches` takes numbers above 0"),
    };
    snapshot::write(out, &State { refreshed: Some(&refreshed), ..engine.state() })
        .with_context(|| format!("cannot write `{}`", out.display()))?;
    Ok(refreshed.batches)
}

/// The same, localised by nobody: no file is needed to find what is not masked.
fn unguided(config: &Config) -> Config {
    let mut config = config.clone();
    if let Some(masking) = &mut config.masking {
        (masking.guidance, masking.choice) = (Guidance::Random, Choice::Spread);
    }
    config
}
