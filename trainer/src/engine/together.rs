//! Several processes that train together: what they must have in common, and how they begin.

use anyhow::{Result, ensure};
use occlude_dataset::Identity;
use occlude_distributed::{Gradients, Reducer, World};
use tch::Tensor;

use super::Run;
use super::start::Start;
use super::training::Engine;
use crate::config::{Config, Method};
use crate::model::Named;
use crate::ranks;
use crate::share::Share;
use crate::signals::Interrupt;

/// What cannot be divided among the ranks.
///
/// # Errors
/// With the flag that has to change.
pub(super) fn divides(config: &Config, world: &World) -> Result<()> {
    let (size, batch) = (world.size(), config.batch_size);
    ensure!(
        batch.is_multiple_of(size),
        "`--batch-size {batch}` is that of all ranks together, and {size} ranks cannot divide it; hint: a multiple of {size}"
    );
    let splits = config.method.bn_splits().unwrap_or(1);
    ensure!(
        splits == 1 || splits.is_multiple_of(size),
        "`--bn-splits {splits}`: groups are whole ones of each rank, and {size} ranks cannot divide them; hint: `--bn-splits {size}`, or 1 to normalise over all ranks"
    );
    Ok(())
}

/// Makes sure that the ranks do the same.
///
/// # Errors
/// Where something differs.
pub(super) fn same(config: &Config, run: &Run, identity: &Identity) -> Result<()> {
    let world = &run.world;
    if world.is_single() {
        return Ok(());
    }
    let flags = (
        (run.bf16, run.compression, run.bn_refresh),
        (run.log_every, run.save_every),
        (run.on_collapse, run.max_drop),
    );
    ranks::same(
        world,
        &[
            ("the program's version", env!("CARGO_PKG_VERSION")),
            ("the configuration", &serde_json::to_string(config)?),
            ("the data's hash", &identity.hash()),
            ("the kind of device", if run.device.is_cuda() { "cuda" } else { "cpu" }),
            ("what flags say of the run", &format!("{flags:?}")),
        ],
    )
}

impl Engine<'_> {
    /// Joins the other ranks, with the weights of rank 0.
    ///
    /// # Errors
    /// Where the method does not train on several ranks, or these cannot be reached.
    pub(super) fn join(&mut self) -> Result<()> {
        let world = self.run.world.clone();
        if world.is_single() {
            return Ok(());
        }
        ranks::agreed(&world, self.method.join(&world), "the method")?;
        self.loader.share = Share::of(&world);
        let state: Vec<_> = self.method.state().into_iter().map(|n| n.tensor.detach()).collect();
        world.broadcast(&state, "the first weights")?;
        let params: Vec<_> = self.method.trainable().into_iter().map(|n| n.tensor).collect();
        // prototypes that stay for the first epochs, and a token that is seen where patches are hidden
        let some_missing = matches!(self.config.method, Method::Dino(_));
        self.reducer =
            Reducer::new(&world, &params, Gradients { some_missing, compression: self.run.compression })?;
        Ok(())
    }

    /// The signal to stop by, if any, and whether to save: the same on all ranks.
    ///
    /// # Errors
    /// Where the ranks cannot be reached.
    pub(super) fn decide(&self, signals: &Interrupt) -> Result<(Option<usize>, bool)> {
        let enough = self.run.stop_after.is_some_and(|n| self.at.step >= n);
        let (stop, due) = (signals.seen().or(enough.then_some(0)), self.saves.due());
        // one more than the number, as 0 is no signal, but a reason
        let here = [stop.map_or(0, |signal| signal as i64 + 1), i64::from(due && self.run.world.is_main())];
        let [stop, due] = self.run.world.max(here, "whether to stop or save")?;
        Ok((stop.checked_sub(1).and_then(|signal| usize::try_from(signal).ok()), due != 0))
    }

    /// Gives every rank the mean of the running statistics. Those that ranks gather apart are moving averages, which are linear:
    /// their mean is what one process has.
    ///
    /// # Errors
    /// Where the ranks cannot be reached.
    pub(super) fn average_statistics(&self) -> Result<()> {
        if self.run.world.is_single() {
            return Ok(());
        }
        let is_running = |n: &Named| n.name.ends_with("running_mean") || n.name.ends_with("running_var");
        let running: Vec<_> = self.method.state().into_iter().filter(is_running).map(|n| n.tensor).collect();
        if running.is_empty() {
            return Ok(());
        }
        let flat: Vec<Tensor> = running.iter().map(|t| t.detach().flatten(0, -1)).collect();
        let sizes: Vec<i64> = flat.iter().map(|t| t.size()[0]).collect();
        let mean = self.run.world.mean(&Tensor::cat(&flat, 0), "running statistics")?;
        tch::no_grad(|| {
            for (to, from) in running.iter().zip(mean.split_with_sizes(sizes.as_slice(), 0)) {
                to.shallow_clone().copy_(&from.view_as(to));
            }
        });
        Ok(())
    }

    /// Writes what the run begins with, of the first batch of all ranks.
    ///
    /// # Errors
    /// Where the ranks cannot be reached, or the file not be written.
    pub(super) fn note_start(&self, indices: &[usize], views: &[Tensor]) -> Result<()> {
        let world = &self.run.world;
        let own: Vec<i64> = indices.iter().map(|&i| i as i64).collect();
        let all = Vec::<i64>::try_from(world.gather(&Tensor::from_slice(&own), "the first pictures")?)?;
        let views = views.iter().map(|view| world.gather(view, "the first views"));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        if !world.is_main() {
            return Ok(());
        }
        let indices: Vec<usize> = all.into_iter().map(|i| i as usize).collect();
        Start::of(self.method.encoder(), &indices, &views)?.write(&self.run.out.join("start.json"))
    }

    /// Broken files that all ranks have met.
    ///
    /// # Errors
    /// Where the ranks cannot be reached.
    pub(super) fn broken(&self) -> Result<usize> {
        let own = self.pictures.broken();
        if self.run.world.is_single() {
            return Ok(own);
        }
        let all = self.run.world.sum(&Tensor::from_slice(&[own as i64]), "broken files")?;
        Ok(all.int64_value(&[0]) as usize)
    }

    /// What a backward pass failed by: where it is a part of something that all do together, that.
    pub(super) fn failed_backward(&self, error: tch::TchError) -> anyhow::Error {
        match self.reducer {
            None => error.into(),
            Some(_) => self.run.world.failed("the mean of gradients", error).into(),
        }
    }
}
