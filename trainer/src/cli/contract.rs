//! How pictures become what a checkpoint's encoder sees: as it says, as the user does, or as usual.

use anyhow::{Context, Result};
use occlude_checkpoint::{Checkpoint, meta};
use occlude_preprocess::Preprocess;

use crate::eval::localise::resized;

/// The contract that `asked` names, of the checkpoint, or of the file beside it, at that size of the input. Tells where it is
/// not what the checkpoint says.
///
/// # Errors
/// Where one cannot be read, and where it makes no sense at that size.
pub(in crate::cli) fn contract_of(
    checkpoint: &Checkpoint,
    asked: Option<&str>,
    image_size: Option<u32>,
) -> Result<Preprocess> {
    let path = checkpoint.path();
    let file = || format!("`{}`", path.display());
    let stored = checkpoint.metadata().get(meta::PREPROCESS);
    let stored = stored.map(|json| Preprocess::from_json(json).with_context(file)).transpose()?;
    let named = |asked| {
        Preprocess::named_or_read(asked).with_context(|| {
            let names = Preprocess::NAMES.join(", ");
            format!("`--contract {asked}`: expected a file with a contract, or one of {names}")
        })
    };
    let found = match (asked, &stored) {
        (Some(asked), _) => Some(named(asked)?),
        (None, Some(stored)) => Some(stored.clone()),
        (None, None) => Preprocess::beside(path)?,
    };
    let contract = match (found, image_size) {
        (Some(contract), Some(size)) => {
            resized(&contract, size).with_context(|| format!("`--image-size {size}`"))?
        }
        (Some(contract), None) => contract,
        (None, size) => {
            let (file, size) = (file(), size.unwrap_or(224));
            tell!("{file} states no preprocessing: assuming ImageNet's at {size} px; hint: `--contract`");
            let contract = Preprocess::imagenet(size);
            contract.validate().with_context(|| format!("`--image-size {size}`"))?;
            contract
        }
    };
    if let Some(stored) = stored.filter(|stored| *stored != contract) {
        let [new, old] = [&contract, &stored].map(Preprocess::to_json);
        tell!("the contract differs from the one that the encoder was trained with: {new} instead of {old}");
    }
    Ok(contract)
}
