//! Where the foreground of a view is: by the momentum encoder, a frozen one, or nowhere (random masks).

use std::path::Path;

use anyhow::{Context, Result};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder, meta};
use occlude_encoder::TapId;
use occlude_preprocess::Preprocess;
use tch::{Device, Tensor};

use crate::augment::HighPassFilter;
use crate::maps::{MapRule, Pictures, maps};
use crate::mask::foreground;
use crate::model::{Encoder, Mode};

/// A frozen localisation network and what it wants its input to be.
pub(super) struct Frozen {
    encoder: Encoder,
    tap: TapId,
    rule: MapRule,
    /// Of its contract.
    std: [f32; 3],
    /// Factor and shift that turn this run's normalisation into the network's, `(1, 3, 1, 1)`.
    renormalise: Option<(Tensor, Tensor)>,
    filter: Option<HighPassFilter>,
}

impl Frozen {
    /// Reads `path`, any checkpoint that holds an encoder. `run` is this run's preprocessing, `size` the side of its views.
    pub(super) fn open(
        path: &Path,
        (stage, rule): (usize, MapRule),
        run: &Preprocess,
        size: usize,
        device: Device,
    ) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
        let contract = match checkpoint.metadata().get(meta::PREPROCESS) {
            Some(json) => Preprocess::from_json(json).with_context(|| format!("`{}`", path.display()))?,
            None => Preprocess::imagenet(224),
        };
        let channels = |f: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = (0..3).map(f).collect();
            Tensor::from_slice(&values).view([1, 3, 1, 1]).to(device)
        };
        let same = contract.mean == run.mean && contract.std == run.std;
        let renormalise = (!same).then(|| {
            let factor = channels(&|c| run.std[c] / contract.std[c]);
            let shift = channels(&|c| (run.mean[c] - contract.mean[c]) / contract.std[c]);
            (factor, shift)
        });
        let filter = contract.high_pass.as_ref().map(|f| HighPassFilter::new(size, f, device));
        let encoder = Encoder::from_checkpoint(&weights, device)?;
        let tap = encoder.stage(stage).with_context(|| format!("`{}`", path.display()))?;
        Ok(Self { encoder, tap, rule, std: contract.std, renormalise, filter })
    }

    /// Foreground `(B, h, w)` of normalised, unfiltered views.
    pub(super) fn foreground(&self, view: &Tensor) -> Tensor {
        let mut x = view.shallow_clone();
        if let Some((factor, shift)) = &self.renormalise {
            x = x * factor + shift;
        }
        let plain = x.shallow_clone();
        if let Some(filter) = &self.filter {
            x = filter.apply(&x);
        }
        let features = self.encoder.forward(&x, Mode::Eval, &[self.tap]).tap();
        let maps = maps(self.rule, &features, Pictures { pixels: &plain, std: self.std });
        foreground(&maps, self.rule.deviations())
    }
}
