//! The encoder as a `.pth` of PyTorch.

use std::collections::BTreeMap;
use std::path::Path;

use occlude_checkpoint::{Dtype, Encoder, TensorOut, TorchOuter, TorchValue, meta, save_torch};
use occlude_preprocess::Preprocess;

use crate::Error;

/// What the `.pth` looks like to the script that loads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TorchLayout {
    /// The state dict itself under torchvision's names
    #[default]
    Bare,
    /// As MoCo saves: `epoch`, `arch` and a `state_dict` of `module.encoder_q.*`
    Moco,
}

impl TorchLayout {
    fn prefix(self) -> &'static str {
        match self {
            Self::Bare => "",
            Self::Moco => "module.encoder_q.",
        }
    }
}

/// How to write a `.pth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TorchOptions {
    /// What is around the tensors.
    pub layout: TorchLayout,
    /// Epochs completed, for the MoCo layout.
    pub epoch: i64,
    /// Adds a zero `fc` of that many classes. A pretrained encoder has no classifier, so by default
    /// there is none: MoCo's scripts expect exactly `fc` to be missing, torchvision loads strictly
    /// after `model.fc = nn.Identity()` and timm with `num_classes=0`. With it, an unchanged
    /// `torchvision.models.resnet50()` loads strictly, and its classifier still has to be trained.
    pub fc_classes: Option<usize>,
}

/// Writes the encoder as a `.pth` that `torch.load(weights_only=True)` reads. Architecture, contract
/// and fingerprint are kept where PyTorch does not look and Occlude's tools do. A whitening that the encoder has is
/// written into the state dict, as `whiten.weight` and `whiten.bias`, which strict loaders refuse.
///
/// # Errors
/// [`Error::Checkpoint`] when the file cannot be written.
pub fn write_torch(
    path: &Path,
    encoder: &Encoder<'_>,
    options: &TorchOptions,
    contract: &Preprocess,
) -> Result<(), Error> {
    let prefix = options.layout.prefix();
    let mut tensors = encoder.tensors_out(prefix)?;
    if let Some(classes) = options.fc_classes {
        let width = encoder.arch.feature_dim();
        // timm's name for the classifier of a vision transformer
        let head = if encoder.arch.vit().is_some() { "head" } else { "fc" };
        tensors.push(zeros(format!("{prefix}{head}.weight"), vec![classes, width]));
        tensors.push(zeros(format!("{prefix}{head}.bias"), vec![classes]));
    }
    let arch = encoder.arch.name();
    let beside = match options.layout {
        TorchLayout::Bare => None,
        TorchLayout::Moco => Some(vec![
            ("epoch".to_owned(), TorchValue::Int(options.epoch)),
            ("arch".to_owned(), TorchValue::Str(arch.clone())),
        ]),
    };
    let json = contract.to_json();
    let mut metadata = BTreeMap::from([
        (meta::ARCH.to_owned(), arch),
        (meta::FINGERPRINT.to_owned(), encoder.fingerprint(&json)),
        (meta::PREPROCESS.to_owned(), json),
        (meta::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    if let Some(whitening) = &encoder.whitening {
        tensors.extend(whitening.tensors_out());
        whitening.describe(&mut metadata);
    }
    Ok(save_torch(path, &tensors, &TorchOuter { beside, metadata })?)
}

/// A tensor of zeros: single-precision zero is four zero bytes.
fn zeros(name: String, shape: Vec<usize>) -> TensorOut<'static> {
    let bytes = shape.iter().product::<usize>() * Dtype::F32.size();
    TensorOut { name, dtype: Dtype::F32, shape, data: vec![0; bytes].into() }
}
