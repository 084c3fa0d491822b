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
    let asked = overrides.contract.as_deref().map(Preprocess::named_or_read).transpose()?;
    let found = match stored(checkpoint) {
        Ok(None) => Preprocess::beside(checkpoint.path()).map_err(Error::from),
        stored => stored,
    };
    let own = match found {
        // To name a contract is the way out where the other one cannot be read.
        Err(_) if asked.is_some() => None,
        found => found?,
    };
    let base = asked.as_ref().or(own.as_ref());
    let usual = || Preprocess::imagenet(overrides.image_size.unwrap_or(224));
    let contract = overrides.apply(&base.cloned().unwrap_or_else(usual));
    let invalid = |reason: ContractError| Error::Contract { origin: "these flags".to_owned(), reason };
    contract.validate().map_err(invalid)?;
    let note = match &own {
        None if asked.is_some() => None,
        None => Some(format!(
            "the checkpoint says nothing about preprocessing: assuming {}; hint: see --contract, --image-size, --mean, --std and --high-pass",
            contract.to_json()
        )),
        Some(own) if *own != contract => Some(format!(
            "the contract differs from the one that the encoder was trained with: {} instead of {}",
            contract.to_json(),
            own.to_json()
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
    use occlude_checkpoint::{TensorOut, save_safetensors};

    /// A checkpoint with a contract in its metadata, or without.
    fn checkpoint(folder: &std::path::Path, contract: Option<&Preprocess>) -> Checkpoint {
        let path = folder.join("model.safetensors");
        let metadata = contract.map(|contract| (meta::PREPROCESS.to_owned(), contract.to_json()));
        let tensors = [TensorOut::f32("x", [1], &[1.0])];
        save_safetensors(&path, &tensors, &metadata.into_iter().collect()).expect("written");
        Checkpoint::open(path).expect("opens")
    }

    fn asked(contract: &str) -> ContractOverrides {
        ContractOverrides { contract: Some(contract.to_owned()), ..Default::default() }
    }

    #[test]
    fn a_contract_that_is_asked_for_is_held_against_the_checkpoints_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let filter = Some(HighPass { kernel: 11, sigma: 5.0 });
        let own = Preprocess { high_pass: filter, ..Preprocess::imagenet(224) };
        let checkpoint = checkpoint(folder.path(), Some(&own));
        let (contract, note) = contract_of(&checkpoint, &asked("imagenet")).expect("a contract");
        assert_eq!(contract, Preprocess::imagenet(224));
        let note = note.expect("the filter is gone");
        assert!(note.contains(&format!("{} instead of {}", contract.to_json(), own.to_json())), "{note}");
        let same = ContractOverrides { high_pass: Some(filter), ..asked("imagenet") };
        assert_eq!(contract_of(&checkpoint, &same).expect("a contract"), (own, None));
    }

    #[test]
    fn a_contract_that_is_asked_for_needs_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let checkpoint = checkpoint(folder.path(), None);
        let smaller = ContractOverrides { image_size: Some(192), ..asked("dino") };
        let (contract, note) = contract_of(&checkpoint, &smaller).expect("a contract");
        assert_eq!((contract.crop, contract.interpolation, note), (192, Interpolation::Bicubic, None));
        let (_, note) = contract_of(&checkpoint, &ContractOverrides::default()).expect("the usual one");
        assert!(note.is_some_and(|note| note.contains("says nothing about preprocessing")));
        std::fs::write(folder.path().join("preprocessor_config.json"), "{").expect("written");
        assert!(contract_of(&checkpoint, &ContractOverrides::default()).is_err());
        assert_eq!(contract_of(&checkpoint, &smaller).expect("a contract"), (contract.clone(), None));
        let path = folder.path().join("broken.safetensors");
        let metadata = [(meta::PREPROCESS.to_owned(), "{".to_owned())].into();
        save_safetensors(&path, &[TensorOut::f32("x", [1], &[1.0])], &metadata).expect("written");
        let broken = Checkpoint::open(path).expect("opens");
        assert!(contract_of(&broken, &ContractOverrides::default()).is_err());
        assert_eq!(contract_of(&broken, &smaller).expect("a contract"), (contract, None));
    }

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
