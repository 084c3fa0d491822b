//! The masking part of a method: filter, localise, hide.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use occlude_distributed::World;
use occlude_encoder::TapId;
use rand::Rng;
use tch::{Device, Tensor};

use super::localise::Localiser;
use super::view::View;
use super::{Preview, Step, show};
use crate::augment::HighPassFilter;
use crate::config::{Branch, Choice, Config, Guidance, Masking, Strategy};
use crate::mask::{Extent, Masker, Purpose};
use crate::phase::{Phase, within};
use crate::share::Share;

/// Which of the two views of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Query,
    Key,
}

/// Masks the views of a method as the configuration says; without masking it hands them through.
pub(super) struct Occluder {
    parts: Option<Parts>,
    epochs: f64,
}

struct Parts {
    config: Masking,
    masker: Masker,
    localiser: Localiser,
    /// The contract's filter, for the views of each side that there are.
    filters: Vec<(i64, HighPassFilter)>,
}

impl Occluder {
    /// For the run's views on `device`.
    ///
    /// # Errors
    /// Where the configuration names a localisation checkpoint that cannot be used.
    pub(super) fn new(config: &Config, device: Device) -> Result<Self> {
        let epochs = config.epochs as f64;
        let Some(masking) = &config.masking else { return Ok(Self { parts: None, epochs }) };
        let (size, contract) = (config.image_size, config.preprocess());
        let parts = Parts {
            masker: Masker::new(masking, size, device),
            localiser: Localiser::new(config, masking, device)?,
            filters: contract.high_pass.map_or_else(Vec::new, |filter| {
                let sides: BTreeSet<usize> = config.views.iter().map(|v| v.size.unwrap_or(size)).collect();
                let of = |side| (side as i64, HighPassFilter::new(side, &filter, device));
                sides.into_iter().map(of).collect()
            }),
            config: masking.clone(),
        };
        Ok(Self { parts: Some(parts), epochs })
    }

    /// From now on views are part of a batch, and so are draws.
    ///
    /// # Errors
    /// Where a view would be masked by a picture of another rank.
    pub(super) fn join(&mut self, world: &World) -> Result<()> {
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let (strategy, guidance) = (parts.config.strategy, parts.config.guidance);
        ensure!(
            strategy != Strategy::OtherPicture && guidance != Guidance::Other,
            "masks that come from another picture of the batch are for one process only; hint: another `--strategy` or `--guidance`"
        );
        parts.masker.set_share(Share::of(world));
        Ok(())
    }

    /// How much of the epochs is done, 0 to 1.
    fn done(&self, step: Step) -> f64 {
        step.epoch / self.epochs
    }

    /// A normalised view, `(B, 3, S, S)` with a side that the run's views have, and what encoders see of it.
    pub(super) fn view(&self, plain: &Tensor, step: Step) -> View {
        let _mask = within(Phase::Mask);
        let side = plain.size().last().copied();
        let filters = self.parts.as_ref().map_or(&[][..], |p| &p.filters);
        let filter = filters.iter().find(|(of, _)| Some(*of) == side);
        let input = filter.map_or_else(|| plain.shallow_clone(), |(_, f)| f.apply(plain));
        View { plain: plain.shallow_clone(), input, foreground: None, done: self.done(step) }
    }

    /// Whether views of that side are masked at that time.
    pub(super) fn masks(&self, side: Side, step: Step) -> bool {
        let now = |p: &Parts| p.masks(side) && p.config.factor(self.done(step)) > 0.0;
        self.parts.as_ref().is_some_and(now)
    }

    /// Whether the method's own network localises.
    pub(super) fn by_method(&self) -> bool {
        self.parts.as_ref().is_some_and(|p| p.localiser.by_method())
    }

    /// The value of the method's network that localises; none where it does not.
    pub(super) fn tap(&self) -> &[TapId] {
        self.parts.as_ref().map_or(&[], |p| p.localiser.tap())
    }

    /// The foreground of a view by the value at [`Self::tap`] that the method's network has of it; `None` where nothing is
    /// masked.
    pub(super) fn foreground(&self, value: &Tensor, view: &View) -> Option<Tensor> {
        self.parts.as_ref().map(|parts| parts.localiser.of_value(value, view))
    }

    /// Hard negatives a pair.
    pub(super) fn nonsem(&self) -> usize {
        self.parts.as_ref().map_or(0, |p| p.config.num_nonsem)
    }

    /// Factor on the similarity of hard negatives.
    pub(super) fn alpha(&self) -> f64 {
        self.parts.as_ref().map_or(1.0, |p| p.config.alpha)
    }

    /// A masked copy of what encoders see of `view`; unmasked where nothing is to be masked. `own` is the value at
    /// [`Self::tap`] that the method's network has of it.
    pub(super) fn hide(
        &self,
        view: &mut View,
        purpose: Purpose,
        own: impl FnOnce(&Tensor) -> Tensor,
        rng: &mut impl Rng,
    ) -> Tensor {
        match self.parts.as_ref().map(|parts| (parts, parts.config.factor(view.done))) {
            Some((parts, factor)) if factor > 0.0 || purpose == Purpose::HardNegative => {
                parts.hide(view, parts.extent(purpose, factor), purpose, own, rng)
            }
            _ => view.input.shallow_clone(),
        }
    }

    /// Adds to the pictures of the first batch what is known of foregrounds and, where masks are to come later or to
    /// grow, how views will be masked then. To be called when the step has drawn all that it draws.
    pub(super) fn complete(
        &self,
        preview: &mut Option<Preview>,
        views: &mut [View],
        own: impl Fn(&Tensor) -> Tensor,
        rng: &mut impl Rng,
    ) {
        if preview.is_none() {
            return;
        }
        let sides = [(Side::Query, "masked query, later"), (Side::Key, "masked key, later")];
        for (view, (side, title)) in views.iter_mut().zip(sides) {
            let parts = self.parts.as_ref();
            let later = parts.filter(|p| p.masks(side) && p.config.factor(view.done) < 1.0);
            if let Some(parts) = later {
                let extent = parts.extent(Purpose::Positive, 1.0);
                let x = parts.hide(view, extent, Purpose::Positive, &own, rng);
                show(preview, title, &x);
            }
        }
        if let Some(p) = preview {
            let known = views.iter().enumerate();
            p.foreground =
                known.filter_map(|(i, v)| Some((i, v.foreground.as_ref()?.shallow_clone()))).collect();
        }
    }
}

impl Parts {
    fn masks(&self, side: Side) -> bool {
        match self.config.branch {
            Branch::Both => true,
            Branch::Query => side == Side::Query,
            Branch::Key => side == Side::Key,
            Branch::None => false,
        }
    }

    /// How much is masked; `factor` says how far masks are in their course, of which hard negatives are no part.
    fn extent(&self, purpose: Purpose, factor: f64) -> Extent {
        let c = &self.config;
        match (purpose, c.choice) {
            (Purpose::HardNegative, _) => Extent { ratio: c.negative_ratio, views: 1.0, focal: 1.0 },
            (Purpose::Positive, Choice::Spread) => {
                Extent { ratio: c.ratio.map(|r| r * factor), views: c.share, focal: factor }
            }
            (Purpose::Positive, Choice::Background) => {
                Extent { ratio: c.ratio, views: c.share * factor, focal: 1.0 }
            }
        }
    }

    fn hide(
        &self,
        view: &mut View,
        extent: Extent,
        purpose: Purpose,
        own: impl FnOnce(&Tensor) -> Tensor,
        rng: &mut impl Rng,
    ) -> Tensor {
        let _mask = within(Phase::Mask);
        if view.foreground.is_none() {
            let _localise = within(Phase::Localise);
            view.foreground = Some(self.localiser.find(view, own));
        }
        let Some(foreground) = &view.foreground else { unreachable!("just found") };
        self.masker.apply(&view.input, foreground, extent, purpose, rng).0
    }
}

#[cfg(test)]
mod tests;
