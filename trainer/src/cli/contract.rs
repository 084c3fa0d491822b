//! How pictures become what a checkpoint's encoder sees: as it says, as the user does, or as usual.

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Checkpoint, meta};
use occlude_preprocess::Preprocess;

use crate::eval::localise::resized;

/// The contract that `asked` names, of the checkpoint, or of the file beside it, at that size of the input.
///
/// # Errors
/// Where one cannot be read, and where the checkpoint says the size.
pub(in crate::cli) fn contract_of(
    checkpoint: &Checkpoint,
    asked: Option<&str>,
    image_size: Option<u32>,
) -> Result<Preprocess> {
    let path = checkpoint.path();
    let file = || format!("`{}`", path.display());
    let sized = |contract: Preprocess| match image_size {
        Some(size) => resized(&contract, size).map_err(anyhow::Error::from),
        None => Ok(contract),
    };
    let stored = checkpoint.metadata().get(meta::PREPROCESS);
    let stored = stored.map(|json| Preprocess::from_json(json).with_context(file)).transpose()?;
    if let Some(asked) = asked {
        let contract = sized(Preprocess::named_or_read(asked).with_context(|| {
            let names = Preprocess::NAMES.join(", ");
            format!("`--contract {asked}`: expected a file with a contract, or one of {names}")
        })?)?;
        if let Some(stored) = stored.filter(|stored| *stored != contract) {
            let [new, old] = [&contract, &stored].map(Preprocess::to_json);
            tell!(
                "the contract differs from the one that the encoder was trained with: {new} instead of {old}"
            );
        }
        return Ok(contract);
    }
    if let Some(stored) = stored {
        ensure!(image_size.is_none(), "{} states its own image size; hint: leave out `--image-size`", file());
        return Ok(stored);
    }
    match Preprocess::beside(path)? {
        Some(contract) => sized(contract),
        None => {
            let size = image_size.unwrap_or(224);
            let file = file();
            tell!("{file} states no preprocessing: assuming ImageNet's at {size} px; hint: `--contract`");
            let contract = Preprocess::imagenet(size);
            contract.validate().with_context(|| format!("`--image-size {size}`"))?;
            Ok(contract)
        }
    }
}
