//! Which preprocessing contract a checkpoint gets.

use occlude_checkpoint::{Checkpoint, meta};
use occlude_preprocess::{ContractError, HighPass, Interpolation, Preprocess};

use crate::Error;

/// What the user says about preprocessing; `None` leaves it as the checkpoint has it, or as usual.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContractOverrides {
    /// A file with a contract in it, or the name of one.
    pub contract: Option<String>,
    /// Side of the centre crop in pixels; the resize keeps its proportion to it.
    pub image_size: Option<u32>,
    /// Length of the short side in pixels.
    pub resize: Option<u32>,
    /// Kernel of the resize.
    pub interpolation: Option<Interpolation>,
    /// Channel means on the 0..1 scale.
    pub mean: Option<[f32; 3]>,
    /// Channel standard deviations.
    pub std: Option<[f32; 3]>,
    /// High-pass filter; `Some(None)` takes it away.
    pub high_pass: Option<Option<HighPass>>,
}

/// The contract in the checkpoint's metadata, `None` where it has none.
///
/// # Errors
/// [`Error::Contract`] for one that cannot be read.
pub(crate) fn stored(checkpoint: &Checkpoint) -> Result<Option<Preprocess>, Error> {
    let Some(json) = checkpoint.metadata().get(meta::PREPROCESS) else { return Ok(None) };
    let origin = || format!("contract in `{}`", checkpoint.path().display());
    Preprocess::from_json(json).map(Some).map_err(|reason| Error::Contract { origin: origin(), reason })
}

/// The contract of a checkpoint with the user's changes, and what to tell the user about it.
///
/// A checkpoint without one (any that Occlude did not write) gets the usual ImageNet evaluation
/// transform at 224 pixels.
///
/// # Errors
/// [`Error::Contract`] for one that cannot be read, and for changes that make no sense.
pub fn contract_of(
    checkpoint: &Checkpoint,
    overrides: &ContractOverrides,
) -> Result<(Preprocess, Option<String>), Error> {
    let stored = match &overrides.contract {
        Some(asked) => Some(Preprocess::named_or_read(asked)?),
        None => match stored(checkpoint)? {
            Some(stored) => Some(stored),
            None => Preprocess::beside(checkpoint.path())?,
        },
    };
    let base = stored.clone().unwrap_or_else(|| Preprocess::imagenet(overrides.image_size.unwrap_or(224)));
    let contract = overrides.apply(&base);
    let invalid = |reason: ContractError| Error::Contract { origin: "these flags".to_owned(), reason };
    contract.validate().map_err(invalid)?;
    let note = match &stored {
        None => Some(format!(
            "the checkpoint says nothing about preprocessing: assuming {}; hint: see --contract, --image-size, --mean, --std and --high-pass",
            contract.to_json()
        )),
        Some(stored) if *stored != contract => Some(format!(
            "the contract differs from the one that the encoder was trained with: {} instead of {}",
            contract.to_json(),
            stored.to_json()
        )),
        Some(_) => None,
    };
    Ok((contract, note))
}

impl ContractOverrides {
    fn apply(&self, base: &Preprocess) -> Preprocess {
        let crop = self.image_size.unwrap_or(base.crop);
        // Rounded to nearest, in integers: 256 for 224 stays 256 for 224.
        let scaled = (u64::from(base.resize) * u64::from(crop) * 2 + u64::from(base.crop))
            / (u64::from(base.crop.max(1)) * 2);
        Preprocess {
            resize: self.resize.unwrap_or(u32::try_from(scaled).unwrap_or(u32::MAX)),
            crop,
            interpolation: self.interpolation.unwrap_or(base.interpolation),
            mean: self.mean.unwrap_or(base.mean),
            std: self.std.unwrap_or(base.std),
            high_pass: self.high_pass.unwrap_or(base.high_pass),
            fit: base.fit,
            center: base.center,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_changes_nothing() {
        let base = Preprocess::imagenet(96);
        assert_eq!(ContractOverrides::default().apply(&base), base);
    }

    #[test]
    fn the_resize_follows_the_image_size() {
        let at = |size| {
            let overrides = ContractOverrides { image_size: Some(size), ..Default::default() };
            overrides.apply(&Preprocess::imagenet(224))
        };
        assert_eq!(at(64), Preprocess::imagenet(64));
        assert_eq!((at(448).resize, at(448).crop), (512, 448));
    }

    #[test]
    fn every_override() {
        let filter = HighPass { kernel: 11, sigma: 5.0 };
        let overrides = ContractOverrides {
            contract: None,
            image_size: Some(64),
            resize: Some(64),
            interpolation: Some(Interpolation::Bicubic),
            mean: Some([0.5; 3]),
            std: Some([0.25; 3]),
            high_pass: Some(Some(filter)),
        };
        let expected = Preprocess {
            resize: 64,
            crop: 64,
            interpolation: Interpolation::Bicubic,
            mean: [0.5; 3],
            std: [0.25; 3],
            high_pass: Some(filter),
            ..Preprocess::imagenet(64)
        };
        assert_eq!(overrides.apply(&Preprocess::imagenet(224)), expected);
        let without = ContractOverrides { high_pass: Some(None), ..Default::default() };
        assert_eq!(without.apply(&expected).high_pass, None);
    }
}
