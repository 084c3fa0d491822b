//! Running statistics for evaluation, estimated anew when training is over.
//!
//! Those that training leaves are of what the encoder saw in its last steps: of masked views, where queries are masked, which
//! nobody shows it afterwards; and a moving average that weighs the last dozens of batches, under weights that still moved.
//! Here they are the plain mean over many batches of unmasked views under the final weights (PreciseBN, arXiv 2105.07576).

use anyhow::{Result, bail};
use tch::Tensor;

use super::Engine;
use crate::augment::HighPassFilter;
use crate::model::Statistics;
use crate::signals::Interrupt;

/// A sentence about what was done.
pub(super) fn describe(refreshed: &Statistics) -> String {
    format!("running statistics re-estimated over {} batches of unmasked views", refreshed.batches)
}

impl Engine<'_> {
    /// Statistics over [`bn_refresh`](crate::engine::Run::bn_refresh) batches of the views that the next epoch would have,
    /// or the signal that came before; none where none are asked for.
    ///
    /// # Errors
    /// Where the pictures do not come.
    pub(in crate::engine) fn refresh(
        &self,
        signals: &Interrupt,
    ) -> Result<std::result::Result<Option<Statistics>, usize>> {
        let epoch = self.schedule.steps_per_epoch() as usize * self.config.accumulate;
        let wanted = self.run.bn_refresh.min(epoch);
        if wanted == 0 {
            return Ok(Ok(None));
        }
        let after = (self.config.epochs as u64, 0);
        // several ranks normalise together: none of them may leave the others
        let alone = self.run.world.is_single();
        let flag = alone.then(|| signals.flag());
        let feed = self.pictures.feed(&self.loader, after, flag, self.run.device)?;
        let contract = self.config.preprocess();
        let (size, device) = (self.config.image_size, self.run.device);
        let filter = contract.high_pass.as_ref().map(|f| HighPassFilter::new(size, f, device));
        let input = |view: &Tensor| filter.as_ref().map_or(view.shallow_clone(), |f| f.apply(view));
        let views = feed.take_while(|_| !alone || signals.seen().is_none()).flat_map(|batch| {
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
                "only {} of {wanted} batches arrived for the running statistics, because the threads that read pictures ended; hint: their messages are above; `--resume` continues from the last checkpoint",
                refreshed.batches
            ),
        }
    }
}
