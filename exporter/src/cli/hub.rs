//! `occlude-export hub`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use occlude_checkpoint::{Checkpoint, meta};
use serde_json::Value;

use super::args::{ContractArgs, EncoderArgs, Source, load};
use super::onnx::{CALIBRATION_LIMIT, add_golden, calibrated, file_name, usual_map};
use crate::calibrate::{CalibrationOptions, Method};
use crate::hub::{Card, Hub, Model};
use crate::onnx::{ModelInfo, Network, OnnxModel, OnnxOptions, Precision, Quantization, model};
use crate::pictures::Pictures;

#[derive(Debug, Args)]
pub(super) struct HubArgs {
    /// Checkpoint of any format
    checkpoint: PathBuf,
    /// Folder to write: weights and configuration for transformers and timm, `onnx/`, and a page about the model
    dir: PathBuf,
    /// Title of the page; default: the name of DIR
    #[arg(long, value_name = "TITLE")]
    title: Option<String>,
    /// Licence of the weights, as SPDX names it
    #[arg(long, value_name = "L")]
    licence: Option<String>,
    /// Results for the page, JSON as `occlude-train knn --json` prints it
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub(super) figures: Vec<PathBuf>,
    /// Pictures like those that the model will see, or folders of them, for `onnx/model_quantized.onnx`; without them
    /// it is not written
    #[arg(long, value_name = "PICTURES", num_args = 1..)]
    pub(super) calibrate: Vec<PathBuf>,
    /// int8: weights of 7 bits, for processors without VNNI
    #[arg(long, requires = "calibrate")]
    reduce_range: bool,
    /// Replace files in DIR that exist; never the checkpoint, figures or a picture
    #[arg(long)]
    pub(super) force: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
    #[command(flatten)]
    contract: ContractArgs,
}

/// Runs the command.
pub(super) fn run(args: HubArgs) -> anyhow::Result<ExitCode> {
    let figures = args.figures.iter().map(|path| figures(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let checkpoint = Checkpoint::open(&args.checkpoint)?;
    let mut source = load(&checkpoint, args.encoder, args.contract)?;
    if let Some(whitening) = source.encoder.whitening.take() {
        eprintln!(
            "note: published without its whitening ({whitening}); hint: `occlude-export onnx` keeps it in the model"
        );
        source.fingerprint = source.encoder.fingerprint(&source.contract.to_json());
    }
    let models = [Model::Fp32, Model::Fp16, Model::Int8];
    let models = &models[..if args.calibrate.is_empty() { 2 } else { 3 }];
    let mut inputs = Pictures::at_risk(&args.calibrate, &[&args.dir], args.force)?;
    inputs.extend(args.figures.iter().chain([&args.checkpoint]).cloned());
    let hub = Hub::new(&args.dir, &source.encoder, &source.contract, models, (inputs, args.force))?;
    // All of them before the first file: a folder that lacks some would look whole, and be in the way of the next try.
    let integers = (args.calibrate.as_slice(), args.reduce_range);
    let mut built = Vec::new();
    for &form in models {
        built.push((form, build(&source, form, integers, &args.checkpoint, args.licence.clone())?));
    }
    let large = built.iter().filter(|(_, model)| model.needs_external_data());
    hub.check_data(&large.map(|(form, _)| *form).collect::<Vec<_>>())?;
    let title = args.title.unwrap_or_else(|| file_name(&args.dir));
    let facts = facts(&checkpoint, &source);
    let own = checkpoint.metadata().get(meta::METRICS).and_then(|text| serde_json::from_str(text).ok());
    let own = own.map(|value: Value| ("the last epoch of training".to_owned(), value));
    let figures = figures.into_iter().chain(own).collect();
    hub.write(&Card { title, licence: args.licence, facts, figures, models: models.to_vec() })?;
    for (form, model) in &built {
        let path = hub.model(*form);
        if model.needs_external_data() {
            model.save_external(&path)?;
        } else {
            model.save(&path)?;
        }
    }
    eprintln!("wrote `{}`: fingerprint {}", args.dir.display(), source.fingerprint);
    Ok(ExitCode::SUCCESS)
}

/// An object, and the name of its file.
fn figures(path: &Path) -> anyhow::Result<(String, Value)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let value: Value = serde_json::from_str(&text).with_context(|| {
        format!("`{}` is not JSON; hint: `occlude-train knn --json > FILE`", path.display())
    })?;
    anyhow::ensure!(value.is_object(), "`{}`: expected an object of figures", path.display());
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, value))
}

/// How the weights came about, as far as the checkpoint says it.
fn facts(checkpoint: &Checkpoint, source: &Source<'_>) -> Vec<(String, String)> {
    let said = |key: &str| checkpoint.metadata().get(key).cloned();
    let all = [
        ("method", source.method.clone()),
        ("epochs", said(meta::EPOCH)),
        ("steps", said(meta::STEP)),
        ("fingerprint", Some(source.fingerprint.clone())),
        ("Occlude", Some(env!("CARGO_PKG_VERSION").to_owned())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A model, ready to be saved.
fn build<'s>(
    source: &'s Source<'_>,
    form: Model,
    (pictures, reduce_range): (&[PathBuf], bool),
    checkpoint: &Path,
    licence: Option<String>,
) -> anyhow::Result<OnnxModel<'s>> {
    let network = Network { encoder: &source.encoder, contract: &source.contract, projection: None };
    let defaults = OnnxOptions { saliency: usual_map(network)?, ..OnnxOptions::default() };
    let precision = match form {
        Model::Fp32 => Precision::Fp32,
        Model::Fp16 => Precision::Fp16,
        Model::Int8 => Precision::Int8(Quantization {
            calibration: calibrated(
                network,
                defaults.input,
                &CalibrationOptions {
                    pictures: pictures.to_vec(),
                    limit: Some(CALIBRATION_LIMIT),
                    method: Method::MinMax,
                },
            )?,
            keep_first: false,
            keep_last: false,
            reduce_range,
        }),
    };
    let options = OnnxOptions { precision, ..defaults };
    let info = ModelInfo {
        fingerprint: source.fingerprint.clone(),
        checkpoint: file_name(checkpoint),
        method: source.method.clone(),
        licence,
    };
    let mut model = model(network, &options, &info)?;
    model.doubts().iter().for_each(|doubt| eprintln!("warning: {doubt}"));
    add_golden(network, &options, &mut model)?;
    Ok(model)
}
