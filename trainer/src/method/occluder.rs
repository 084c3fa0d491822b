//! The masking part of a method: filter, localise, hide (arXiv 2309.12757).

use anyhow::{Context, Result};
use occlude_encoder::{Graph, TapId};
use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::localise::Frozen;
use crate::augment::HighPassFilter;
use crate::config::{Branch, Config, Fills, Guidance, Masking, Saliency};
use crate::maps::{Pictures, maps};
use crate::mask::{Masker, Purpose, foreground};
use crate::phase::{Phase, within};

/// A view on its way through a step.
pub(super) struct View {
    /// Normalised, `(B, 3, S, S)`.
    pub(super) plain: Tensor,
    /// What encoders see: filtered where the strategy says so.
    pub(super) input: Tensor,
    /// `(B, h, w)`, once it is known.
    pub(super) foreground: Option<Tensor>,
}

/// Which of the two views of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Query,
    Key,
}

/// Masks the views of a method as the configuration says; without masking it hands them through.
pub(super) struct Occluder(Option<Parts>);

struct Parts {
    config: Masking,
    masker: Masker,
    frozen: Option<Frozen>,
    filter: Option<HighPassFilter>,
    /// Of the run's normalisation.
    std: [f32; 3],
    grid: i64,
    /// The feature map of the run's own architecture.
    tap: [TapId; 1],
}

impl Occluder {
    /// For the run's views on `device`.
    ///
    /// # Errors
    /// Where the configuration names a localisation checkpoint that cannot be used.
    pub(super) fn new(config: &Config, device: Device) -> Result<Self> {
        let Some(masking) = &config.masking else { return Ok(Self(None)) };
        let (size, contract) = (config.image_size, config.preprocess());
        let graph = Graph::new(config.architecture()?);
        let tap = graph
            .stage(masking.stage)
            .with_context(|| format!("{} has no stage {}", graph.arch, masking.stage))?;
        let frozen = match &masking.saliency {
            Saliency::Checkpoint(path) if masking.guidance == Guidance::Saliency => {
                Some(Frozen::open(path, (masking.stage, masking.rule), &contract, size, device)?)
            }
            _ => None,
        };
        Ok(Self(Some(Parts {
            masker: Masker::new(masking.strategy, &Fills::new(masking.fills, size), size, device),
            filter: contract.high_pass.as_ref().map(|f| HighPassFilter::new(size, f, device)),
            grid: graph[tap].side(size) as i64,
            tap: [tap],
            std: contract.std,
            frozen,
            config: masking.clone(),
        })))
    }

    /// A normalised view, `(B, 3, S, S)`, and what encoders see of it.
    pub(super) fn view(&self, plain: &Tensor) -> View {
        let _mask = within(Phase::Mask);
        let filter = self.0.as_ref().and_then(|p| p.filter.as_ref());
        let input = filter.map_or_else(|| plain.shallow_clone(), |f| f.apply(plain));
        View { plain: plain.shallow_clone(), input, foreground: None }
    }

    /// Whether views of that side are masked.
    pub(super) fn masks(&self, side: Side) -> bool {
        self.0.as_ref().is_some_and(|p| match p.config.branch {
            Branch::Both => true,
            Branch::Query => side == Side::Query,
            Branch::Key => side == Side::Key,
            Branch::None => false,
        })
    }

    /// Whether the method's own network localises.
    pub(super) fn by_method(&self) -> bool {
        self.0.as_ref().is_some_and(|p| p.frozen.is_none() && p.config.guidance == Guidance::Saliency)
    }

    /// The feature map of the method's network that localises; none where nothing is masked.
    pub(super) fn tap(&self) -> &[TapId] {
        self.0.as_ref().map_or(&[], |p| p.tap.as_slice())
    }

    /// The foreground of a view by the feature map `(B, C, h, w)` that the method's network makes of it; `None` where
    /// nothing is masked.
    pub(super) fn foreground(&self, features: &Tensor, view: &View) -> Option<Tensor> {
        self.0.as_ref().map(|parts| parts.foreground(features, &view.plain))
    }

    /// Hard negatives a pair.
    pub(super) fn nonsem(&self) -> usize {
        self.0.as_ref().map_or(0, |p| p.config.num_nonsem)
    }

    /// Factor on the similarity of hard negatives.
    pub(super) fn alpha(&self) -> f64 {
        self.0.as_ref().map_or(1.0, |p| p.config.alpha)
    }

    /// A masked copy of what encoders see of `view`; unmasked where nothing is to be masked. `own` is the feature map
    /// `(B, C, h, w)` that the method's network makes of it.
    pub(super) fn hide(
        &self,
        view: &mut View,
        purpose: Purpose,
        own: impl FnOnce(&Tensor) -> Tensor,
        rng: &mut impl Rng,
    ) -> Tensor {
        let Some(parts) = &self.0 else { return view.input.shallow_clone() };
        let range = match purpose {
            Purpose::Positive => parts.config.ratio,
            Purpose::HardNegative => parts.config.negative_ratio,
        };
        let _mask = within(Phase::Mask);
        if view.foreground.is_none() {
            let _localise = within(Phase::Localise);
            view.foreground = Some(parts.localise(view, own));
        }
        let Some(foreground) = &view.foreground else { unreachable!("just found") };
        parts.masker.apply(&view.input, foreground, range, purpose, rng).0
    }
}

impl Parts {
    fn localise(&self, view: &View, own: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
        if self.config.guidance == Guidance::Random {
            let b = view.input.size()[0];
            return Tensor::ones([b, self.grid, self.grid], (Kind::Float, view.input.device()));
        }
        match &self.frozen {
            Some(frozen) => frozen.foreground(&view.plain),
            None => self.foreground(&own(&view.input), &view.plain),
        }
    }

    /// Where the foreground of normalised, unfiltered views is, by the feature map that a network makes of them.
    fn foreground(&self, features: &Tensor, plain: &Tensor) -> Tensor {
        let rule = self.config.rule;
        foreground(&maps(rule, features, Pictures { pixels: plain, std: self.std }), rule.deviations())
    }
}
