//! Flags that several commands take: which encoder, and how its pictures are prepared.

use clap::Args;
use occlude_checkpoint::{Checkpoint, Encoder, LoadOptions, load_encoder, meta};
use occlude_encoder::Arch;
use occlude_preprocess::{HighPass, Interpolation, Preprocess};

use crate::{ContractOverrides, Error, contract_of};

/// Which encoder of a checkpoint.
#[derive(Debug, Args)]
pub(super) struct EncoderArgs {
    /// Prefix of the encoder's keys, such as `encoder_k`; default: found in the file
    #[arg(long, value_name = "P")]
    pub(super) prefix: Option<String>,
    /// Architecture: resnet18, resnet34, resnet50, resnet101, resnet152, resnext50_32x4d, resnext101_32x8d,
    /// resnext101_64x4d, wide_resnet50_2, wide_resnet101_2, resnet18-small, resnet50-small, or a vision transformer
    /// such as vit_small_patch16_224; default: from the file, or from its shapes
    #[arg(long, value_name = "A")]
    pub(super) arch: Option<Arch>,
}

impl EncoderArgs {
    pub(super) fn options(self) -> LoadOptions {
        LoadOptions { arch: self.arch, prefix: self.prefix, partial: false }
    }
}

/// Preprocessing of checkpoints that say nothing about it.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "Preprocessing (default: the checkpoint's contract, else ImageNet's at 224 pixels)"
)]
pub(super) struct ContractArgs {
    /// Contract of the weights: a file (Occlude's, transformers' `preprocessor_config.json`, or timm's `config.json`),
    /// or a name: imagenet, dino, ibot, dinov2, mae, deit, augreg; default: the checkpoint's, or a
    /// `preprocessor_config.json` beside it
    #[arg(long, value_name = "FILE|NAME")]
    contract: Option<String>,
    /// Side of the centre crop in pixels; the resize keeps its proportion to it
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<u32>,
    /// Length of the short side before the crop, in pixels
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    /// Kernel of the resize: bilinear or bicubic
    #[arg(long, value_name = "KERNEL", value_parser = parse_interpolation)]
    interpolation: Option<Interpolation>,
    /// Channel means on the 0..1 scale
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    mean: Option<[f32; 3]>,
    /// Channel standard deviations on the 0..1 scale
    #[arg(long, value_name = "R,G,B", value_parser = parse_triple)]
    std: Option<[f32; 3]>,
    /// High-pass filter of encoders trained with one, as `KERNEL,SIGMA` (saliency masking: 11,5), or
    /// `none`
    #[arg(long, value_name = "K,S", value_parser = parse_high_pass)]
    high_pass: Option<FilterArg>,
}

/// A filter, or none: clap would take an `Option` for an optional flag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FilterArg(Option<HighPass>);

impl ContractArgs {
    pub(super) fn overrides(self) -> ContractOverrides {
        ContractOverrides {
            contract: self.contract,
            image_size: self.image_size,
            resize: self.resize,
            interpolation: self.interpolation,
            mean: self.mean,
            std: self.std,
            high_pass: self.high_pass.map(|f| f.0),
        }
    }
}

/// A loaded encoder and how its pictures are prepared.
pub(super) struct Source<'c> {
    pub(super) encoder: Encoder<'c>,
    pub(super) contract: Preprocess,
    pub(super) fingerprint: String,
    pub(super) method: Option<String>,
}

impl Source<'_> {
    /// Without its whitening, if `bare`.
    pub(super) fn bare(mut self, bare: bool) -> Self {
        if let Some(whitening) = self.encoder.whitening.take_if(|_| bare) {
            eprintln!("note: the encoder alone, not its whitening ({whitening}); hint: `--keep-whitening`");
            self.fingerprint = self.encoder.fingerprint(&self.contract.to_json());
        }
        self
    }
}

/// Loads an encoder, tells the user what was found, and holds its fingerprint against the file's.
pub(super) fn load(
    checkpoint: &Checkpoint,
    encoder: EncoderArgs,
    contract: ContractArgs,
) -> anyhow::Result<Source<'_>> {
    let overrides = contract.overrides();
    let (contract, note) = contract_of(checkpoint, &overrides)?;
    let encoder = load_encoder(checkpoint, &encoder.options())?;
    eprintln!("{} from {}: {}", encoder.arch, encoder.layout, encoder.report);
    encoder.whitening.iter().for_each(|whitening| eprintln!("embeddings: {whitening}"));
    if let Some(note) = note {
        eprintln!("note: {note}");
    }
    let fingerprint = encoder.fingerprint(&contract.to_json());
    check_fingerprint(checkpoint, &encoder, &contract, &fingerprint)?;
    let method = checkpoint.metadata().get(meta::METHOD).cloned();
    Ok(Source { encoder, contract, fingerprint, method })
}

/// The stored fingerprint is the query encoder's with the stored contract; nothing else can be held
/// against it.
fn check_fingerprint(
    checkpoint: &Checkpoint,
    encoder: &Encoder<'_>,
    contract: &Preprocess,
    computed: &str,
) -> Result<(), Error> {
    let stored = checkpoint.metadata().get(meta::FINGERPRINT);
    let same_contract = crate::contract::stored(checkpoint)?.as_ref() == Some(contract);
    match stored {
        Some(stored) if same_contract && encoder.layout.prefix == "encoder_q." && stored != computed => {
            Err(Error::Fingerprint {
                path: checkpoint.path().to_owned(),
                stored: stored.clone(),
                computed: computed.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

fn parse_triple(text: &str) -> Result<[f32; 3], String> {
    let values: Vec<f32> = text
        .split(',')
        .map(|v| v.trim().parse().map_err(|_| format!("`{v}` is not a number")))
        .collect::<Result<_, _>>()?;
    values.try_into().map_err(|v: Vec<f32>| format!("expected three numbers, got {}", v.len()))
}

fn parse_interpolation(text: &str) -> Result<Interpolation, String> {
    match text {
        "bilinear" => Ok(Interpolation::Bilinear),
        "bicubic" => Ok(Interpolation::Bicubic),
        _ => Err("expected `bilinear` or `bicubic`".to_owned()),
    }
}

fn parse_high_pass(text: &str) -> Result<FilterArg, String> {
    if text == "none" {
        return Ok(FilterArg(None));
    }
    let parts =
        text.split_once(',').and_then(|(k, s)| Some((k.trim().parse().ok()?, s.trim().parse().ok()?)));
    let (kernel, sigma) = parts.ok_or("expected KERNEL,SIGMA such as `11,5`, or `none`")?;
    Ok(FilterArg(Some(HighPass { kernel, sigma })))
}
