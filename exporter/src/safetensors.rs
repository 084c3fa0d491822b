//! The bare encoder as safetensors.

use std::collections::BTreeMap;
use std::path::Path;

use occlude_checkpoint::{Encoder, meta, save_safetensors};
use occlude_preprocess::Preprocess;

use crate::Error;

/// Writes the encoder alone under torchvision's names: what torchvision, timm and transformers load.
/// The metadata keeps architecture, contract and fingerprint. A whitening that the encoder has is written beside
/// it, as `whiten.weight` and `whiten.bias`, which strict loaders refuse.
///
/// # Errors
/// [`Error::Checkpoint`] when the file cannot be written.
pub fn write_safetensors(path: &Path, encoder: &Encoder<'_>, contract: &Preprocess) -> Result<(), Error> {
    let json = contract.to_json();
    let mut metadata = BTreeMap::from([
        // What PyTorch's loaders ask for.
        ("format".to_owned(), "pt".to_owned()),
        (meta::ARCH.to_owned(), encoder.arch.name()),
        (meta::FINGERPRINT.to_owned(), encoder.fingerprint(&json)),
        (meta::PREPROCESS.to_owned(), json),
        (meta::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let mut tensors = encoder.tensors_out("")?;
    if let Some(whitening) = &encoder.whitening {
        tensors.extend(whitening.tensors_out());
        whitening.describe(&mut metadata);
    }
    Ok(save_safetensors(path, &tensors, &metadata)?)
}
