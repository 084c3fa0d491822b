//! The conversion: names, arrays, two files.

use std::borrow::Cow;
use std::path::PathBuf;

use occlude_checkpoint::{
    Checkpoint, Dtype, EncoderMatch, LoadOptions, LoadReport, Tensor, TensorOut, check_values, match_encoder,
    meta, save_detectron2,
};
use occlude_encoder::layout::{Layout, Naming};
use occlude_encoder::{Arch, ParamKind, detectron};

use crate::contract::Normalisation;
use crate::error::Error;
use crate::recipe::{Norm, Recipe, detectrons};
use crate::settings::settings;

/// What Detectron2 shows as the origin of the weights.
const AUTHOR: &str = "Occlude";

/// What to convert, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The checkpoint.
    pub checkpoint: PathBuf,
    /// The pickle; its name ends in `.pkl`.
    pub out: PathBuf,
    /// What the encoder's names begin with; default: found.
    pub prefix: Option<String>,
    /// The architecture; default: as the checkpoint says or shows.
    pub arch: Option<Arch>,
    /// Write the projection head as `stem.fc.*`.
    pub keep_head: bool,
    /// Recipe of the YAML; default: [`Recipe::default_for`].
    pub recipe: Option<Recipe>,
    /// Batch normalisation of the YAML.
    pub norm: Norm,
    /// Replace existing files.
    pub force: bool,
}

/// What was converted.
#[derive(Clone, Debug)]
pub struct Conversion {
    /// The pickle that was written.
    pub pickle: PathBuf,
    /// The YAML beside it.
    pub yaml: PathBuf,
    /// The architecture.
    pub arch: Arch,
    /// Where the encoder sat in the checkpoint.
    pub layout: Layout,
    /// What matched, and what of the checkpoint was left out.
    pub report: LoadReport,
    /// Arrays in the pickle.
    pub arrays: usize,
    /// Recipe of the YAML.
    pub recipe: Recipe,
    /// What the user should hear.
    pub warnings: Vec<String>,
}

/// Writes the pickle and the YAML beside it, both atomically. Nothing is written before everything has
/// been checked.
///
/// # Errors
/// [`Error`], among them those of the strict load: a checkpoint that lacks a parameter is refused.
pub fn convert(options: &Options) -> Result<Conversion, Error> {
    let yaml = check_targets(options)?;
    let checkpoint = Checkpoint::open(&options.checkpoint)?;
    let load = LoadOptions { arch: options.arch, prefix: options.prefix.clone(), partial: false };
    let matched = match_encoder(&checkpoint, &load)?;
    detectrons(matched.arch)?;
    let recipe = options.recipe.unwrap_or(Recipe::default_for(matched.arch));
    if !recipe.fits(matched.arch) {
        return Err(Error::RecipeArch { recipe: recipe.name(), arch: matched.arch });
    }
    let contract = Normalisation::of(&checkpoint)?;
    let warnings = warnings(&checkpoint, contract.as_ref());
    let mut arrays = encoder_arrays(&checkpoint, &matched)?;
    if options.keep_head {
        arrays.extend(head_arrays(&checkpoint, &matched.layout)?);
    }
    let normalisation = contract.unwrap_or_else(Normalisation::imagenet);
    let text = settings(matched.arch, recipe, options.norm, &normalisation, &options.out).yaml();
    save_detectron2(&options.out, &arrays, AUTHOR)?;
    occlude_output::write(&yaml, |out| out.write_all(text.as_bytes()))
        .map_err(|reason| Error::Write { path: yaml.clone(), reason })?;
    let EncoderMatch { arch, layout, report, .. } = matched;
    let arrays = arrays.len();
    Ok(Conversion { pickle: options.out.clone(), yaml, arch, layout, report, arrays, recipe, warnings })
}

/// The path of the YAML; errors for targets that must not be written.
fn check_targets(options: &Options) -> Result<PathBuf, Error> {
    let out = &options.out;
    if out.extension().is_none_or(|e| e != "pkl") {
        return Err(Error::Extension(out.clone()));
    }
    let yaml = out.with_extension("yaml");
    occlude_output::check(&[out, &yaml], &[&options.checkpoint], options.force)?;
    Ok(yaml)
}

fn warnings(checkpoint: &Checkpoint, contract: Option<&Normalisation>) -> Vec<String> {
    let mut warnings = Vec::new();
    match contract {
        None => warnings.push(
            "the checkpoint has no preprocessing contract: the YAML assumes ImageNet's mean and standard deviation"
                .to_owned(),
        ),
        Some(Normalisation { high_pass: Some((kernel, sigma)), .. }) => warnings.push(format!(
            "THIS ENCODER WAS TRAINED ON HIGH-PASS FILTERED IMAGES (kernel {kernel}, sigma {sigma}), and Detectron2 feeds it unfiltered ones: expect worse results than it can give; hint: pretrain with another strategy (`--strategy blur|mean`), or add the filter to the data loader"
        )),
        Some(_) => {}
    }
    if checkpoint.metadata().contains_key(meta::WHITENING) {
        warnings.push(
            "the checkpoint's whitening is left out: it belongs to embeddings, and detectors read feature maps"
                .to_owned(),
        );
    }
    let damaged = checkpoint.damaged_records();
    if !damaged.is_empty() {
        warnings.push(format!(
            "{} records of the checkpoint fail their checksum, the first is `{}`: it may be damaged",
            damaged.len(),
            damaged.first().map_or("", String::as_str)
        ));
    }
    warnings
}

/// Every matched parameter under Detectron2's name: floats in single precision, counters as they are.
fn encoder_arrays<'a>(
    checkpoint: &'a Checkpoint,
    matched: &EncoderMatch,
) -> Result<Vec<TensorOut<'a>>, Error> {
    let mut arrays = Vec::with_capacity(matched.found.len());
    for (param, keys) in &matched.found {
        // only vision transformers have parameters of several tensors
        let tensor = keys.first().and_then(|key| checkpoint.tensor(key));
        let found = detectron::from_torchvision(&param.name).zip(tensor);
        let Some((name, tensor)) = found else { continue };
        check_values(checkpoint.path(), param.kind, &tensor)?;
        arrays.push(match param.kind {
            ParamKind::BnCount => TensorOut::i64(name, tensor.to_i64()?.first().copied().unwrap_or(0)),
            _ => single(name, &tensor)?,
        });
    }
    Ok(arrays)
}

/// The projection head as `stem.fc.*`: MoCo has it below the encoder, Occlude beside it.
fn head_arrays<'a>(checkpoint: &'a Checkpoint, layout: &Layout) -> Result<Vec<TensorOut<'a>>, Error> {
    let inside = match layout.naming {
        Naming::Torchvision
        | Naming::Sequential
        | Naming::Unpooled
        | Naming::Transformers
        | Naming::Vit
        | Naming::TransformersVit => {
            format!("{}fc.", layout.prefix)
        }
        Naming::Detectron2 => format!("{}stem.fc.", layout.prefix),
    };
    let beside = layout.prefix.replace("encoder_", "head_");
    for prefix in [&inside, &beside].into_iter().filter(|p| **p != layout.prefix) {
        let below = checkpoint.tensors().filter_map(|t| Some((t, t.name.strip_prefix(prefix.as_str())?)));
        let head = |(t, rest): (Tensor<'a>, &str)| {
            // Its normalisations are told by name: in a `Sequential` no shape says what a tensor is.
            let kind = if rest.ends_with("running_var") { ParamKind::BnVar } else { ParamKind::ConvWeight };
            check_values(checkpoint.path(), kind, &t)?;
            single(format!("stem.fc.{rest}"), &t)
        };
        let arrays = below.map(head).collect::<Result<Vec<_>, _>>()?;
        if !arrays.is_empty() {
            return Ok(arrays);
        }
    }
    Err(Error::NoHead { prefix: layout.prefix.clone(), head: beside })
}

/// A float tensor in single precision, borrowed from the file where it is so already.
fn single<'a>(name: String, tensor: &Tensor<'a>) -> Result<TensorOut<'a>, Error> {
    if tensor.dtype == Dtype::F32 || !tensor.dtype.is_float() {
        return Ok(TensorOut::of(name, tensor)?);
    }
    let data = tensor.to_f32()?.into_iter().flat_map(f32::to_le_bytes).collect();
    Ok(TensorOut { name, dtype: Dtype::F32, shape: tensor.shape.to_vec(), data: Cow::Owned(data) })
}
