//! Scores of the cells of a view, and what of them is foreground: by the momentum encoder or a frozen one, by a prior of
//! colours until they know better, or by nobody (random masks).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder, meta};
use occlude_encoder::{Graph, TapId};
use occlude_preprocess::Preprocess;
use tch::{Device, Kind, Tensor};

use super::view::View;
use crate::augment::HighPassFilter;
use crate::config::{Config, Guidance, Masking, Saliency};
use crate::maps::{BorderColour, MapRule, Pictures, fine_maps, maps};
use crate::mask::{foreground, of_another, on_grid, scaled};
use crate::model::{Encoder, Mode, map_of};

/// Where the foreground of a prior begins, in standard deviations from the mean of the map: as that of the rule that it is a
/// part of ([`MapRule::Object`]).
const PRIOR_DEVIATIONS: f64 = 0.0;

/// Makes maps `(B, h, w)` of features `(B, C, h, w)`.
type Making = fn(MapRule, &Tensor, Pictures<'_>) -> Tensor;

/// Finds the foreground of views as a configuration says.
pub(super) struct Localiser {
    masking: Masking,
    frozen: Option<Frozen>,
    /// The value that the method's own network localises by, where it does.
    own: Option<(Graph, [TapId; 1])>,
    prior: Option<BorderColour>,
    /// Of the run's normalisation.
    std: [f32; 3],
    /// Cells along a side.
    grid: i64,
}

impl Localiser {
    /// For the run's views on `device`.
    ///
    /// # Errors
    /// Where the configuration names a localisation checkpoint that cannot be used.
    pub(super) fn new(config: &Config, masking: &Masking, device: Device) -> Result<Self> {
        let (size, contract) = (config.image_size, config.preprocess());
        let frozen = match &masking.saliency {
            Saliency::Checkpoint(path) if masking.localises() => {
                Some(Frozen::open(path, masking, &contract, size, device)?)
            }
            _ => None,
        };
        let arch = config.architecture()?;
        let own = match frozen.is_none() && masking.localises() {
            true => {
                let (graph, name) = (Graph::new(arch), masking.making(arch)?.tap());
                let tap = graph.tap(&name).with_context(|| format!("{arch} has no `{name}`"))?;
                Some((graph, [tap]))
            }
            false => None,
        };
        let map = arch.feature_side(masking.stage, size);
        Ok(Self {
            frozen,
            own,
            prior: (masking.prior_until > 0.0).then(|| BorderColour::new(&contract, device)),
            std: contract.std,
            grid: masking.cells(map) as i64,
            masking: masking.clone(),
        })
    }

    /// Whether the method's own network localises.
    pub(super) fn by_method(&self) -> bool {
        self.own.is_some()
    }

    /// The value of that network that it does by; none where it does not.
    pub(super) fn tap(&self) -> &[TapId] {
        self.own.as_ref().map_or(&[], |(_, tap)| tap)
    }

    /// The foreground that guides the masks of a view, `(B, h, w)`. `own` is the value at [`Self::tap`] that the method's
    /// network has of what encoders see.
    pub(super) fn find(&self, view: &View, own: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        if !self.masking.localises() {
            let b = view.input.size()[0];
            return Tensor::ones([b, self.grid, self.grid], (Kind::Float, view.input.device()));
        }
        match &self.frozen {
            Some(frozen) => self.guide(&frozen.maps(&view.plain, self.making()), view),
            None => self.of_value(&own(&view.input), view),
        }
    }

    /// The same by the value at [`Self::tap`] of the method's network.
    pub(super) fn of_value(&self, value: &Tensor, view: &View) -> Tensor {
        let (pictures, size) = (Pictures { pixels: &view.plain, std: self.std }, view.plain.size());
        let Some((graph, [tap])) = &self.own else { unreachable!("asked for where there is a tap") };
        let features = map_of(graph, *tap, value, [size[2], size[3]]);
        self.guide(&(self.making())(self.masking.rule, &features, pictures), view)
    }

    /// What makes maps of features: as fine as the rule does where a finer grid is asked for.
    fn making(&self) -> Making {
        if self.masking.grid.is_some() { fine_maps } else { maps }
    }

    /// From a map to the foreground: onto the grid, blended with the prior, both scaled to 0..1 picture by picture, where that
    /// has a part in it, and cut off, at a height between those of the rule and of the prior.
    fn guide(&self, map: &Tensor, view: &View) -> Tensor {
        let (map, deviations) = (on_grid(map, self.grid), self.masking.rule.deviations());
        let weight = self.masking.prior(view.done);
        let known = match &self.prior {
            Some(prior) if weight > 0.0 => {
                let prior = prior.maps(&view.plain, self.grid);
                // the prior once more: pooled to few cells it does not reach 0 and 1
                let blend = scaled(&map) * (1.0 - weight) + scaled(&prior) * weight;
                foreground(&blend, deviations * (1.0 - weight) + PRIOR_DEVIATIONS * weight)
            }
            _ => foreground(&map, deviations),
        };
        if self.masking.guidance == Guidance::Other { of_another(&known) } else { known }
    }
}

/// A frozen localisation network and what it wants its input to be.
struct Frozen {
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
    fn open(path: &Path, masking: &Masking, run: &Preprocess, size: usize, device: Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
        let contract = match checkpoint.metadata().get(meta::PREPROCESS) {
            Some(json) => Preprocess::from_json(json).with_context(|| format!("`{}`", path.display()))?,
            None => Preprocess::beside(path)?.unwrap_or_else(|| Preprocess::imagenet(224)),
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
        let (arch, rule) = (weights.arch, masking.rule);
        let making = masking.making(arch).with_context(|| format!("`--saliency {}`", path.display()))?;
        ensure!(
            arch.vit().is_none_or(|vit| size.is_multiple_of(vit.patch)),
            "`--saliency {}`: {arch} needs views of whole patches, and they have {size} px; hint: use another `--image-size`",
            path.display()
        );
        let encoder = Encoder::from_checkpoint(&weights, device)?;
        let tap = encoder.graph().tap(&making.tap());
        let tap = tap.with_context(|| format!("`{}`: {arch} has no `{}`", path.display(), making.tap()))?;
        Ok(Self { encoder, tap, rule, std: contract.std, renormalise, filter })
    }

    /// Maps `(B, h, w)` of normalised, unfiltered views.
    fn maps(&self, view: &Tensor, make: Making) -> Tensor {
        let mut x = view.shallow_clone();
        if let Some((factor, shift)) = &self.renormalise {
            x = x * factor + shift;
        }
        let plain = x.shallow_clone();
        if let Some(filter) = &self.filter {
            x = filter.apply(&x);
        }
        let (value, size) = (self.encoder.forward(&x, Mode::Eval, &[self.tap]).tap(), x.size());
        let features = self.encoder.map(self.tap, &value, [size[2], size[3]]);
        make(self.rule, &features, Pictures { pixels: &plain, std: self.std })
    }
}
