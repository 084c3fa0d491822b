//! Running statistics for evaluation, estimated anew when training is over.
//!
//! Those that training leaves are of what the encoder saw in its last steps: of masked views, where queries are masked, which
//! nobody shows it afterwards; and a moving average that weighs the last dozens of batches, under weights that still moved.
//! Here they are the plain mean over many batches of unmasked views under the final weights (PreciseBN, arXiv 2105.07576).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::Checkpoint;
use tch::Tensor;

use super::snapshot::{self, Loaded};
use super::{Engine, Run};
use crate::augment::HighPassFilter;
use crate::config::{Choice, Config, Guidance};
use crate::data::{Pictures, Store};
use crate::method;
use crate::model::Statistics;
use crate::signals::Interrupt;
use crate::teacher::Targets;

/// Batches that a run takes where nothing else is said.
pub const BATCHES: usize = 100;

/// A sentence about what was done.
pub(super) fn describe(refreshed: &Statistics) -> String {
    format!("running statistics estimated anew over {} batches of unmasked views", refreshed.batches)
}

impl Engine<'_> {
    /// Statistics over [`Run::bn_refresh`] batches of the views that the next epoch would have, or the signal that came
    /// before; none where none are asked for.
    ///
    /// # Errors
    /// Where the pictures do not come.
    pub(super) fn refresh(
        &self,
        signals: &Interrupt,
    ) -> Result<std::result::Result<Option<Statistics>, usize>> {
        let epoch = self.schedule.steps_per_epoch() as usize * self.config.accumulate;
        let wanted = self.run.bn_refresh.min(epoch);
        if wanted == 0 {
            return Ok(Ok(None));
        }
        let after = (self.config.epochs as u64, 0);
        let feed = self.pictures.feed(&self.loader, after, Some(signals.flag()), self.run.device)?;
        let contract = self.config.preprocess();
        let (size, device) = (self.config.image_size, self.run.device);
        let filter = contract.high_pass.as_ref().map(|f| HighPassFilter::new(size, f, device));
        let input = |view: &Tensor| filter.as_ref().map_or(view.shallow_clone(), |f| f.apply(view));
        let views = feed.take_while(|_| signals.seen().is_none()).flat_map(|batch| {
            let both = batch.and_then(|batch| match batch {
                Some(batch) => {
                    // further views may be small ones
                    tch::no_grad(|| {
                        let views = batch.views(&self.augmenters)?;
                        let large = views.iter().take(2).filter(|v| v.size()[3] == size as i64);
                        Ok(large.map(input).collect::<Vec<_>>())
                    })
                }
                None => bail!(self.no_data()),
            });
            match both {
                Ok(views) => views.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        });
        let refreshed = Statistics::estimate(self.method.encoder(), views.take(wanted))?;
        match signals.seen() {
            _ if refreshed.batches == wanted => Ok(Ok(Some(refreshed))),
            Some(signal) => Ok(Err(signal)),
            None => bail!(
                "{} of {wanted} batches came for the running statistics, because the threads that read pictures ended; hint: what they said is above; `--resume` goes on from the last checkpoint",
                refreshed.batches
            ),
        }
    }
}

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
    snapshot::write(out, &super::saves::State { refreshed: Some(&refreshed), ..engine.state() })
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
