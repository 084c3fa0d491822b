//! The way back: encoders of Detectron2 files under torchvision's names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use occlude_checkpoint::{
    Checkpoint, Encoder, EncoderData, EncoderTensor, LoadReport, Tensor, check_values, meta, save_safetensors,
};
use occlude_encoder::layout::{Layout, Naming};
use occlude_encoder::{Arch, Graph, ParamKind};
use occlude_preprocess::Preprocess;

use crate::error::Error;
use crate::names::Named;
use crate::recipe::detectrons;

/// Metadata: where the encoder was imported from.
pub const ORIGIN: &str = "occlude.origin";

/// Mean and standard deviation of the three channels.
type Statistics = ([f64; 3], [f64; 3]);

/// On the 0..1 scale: what nearly every encoder with RGB input was trained with.
const IMAGENET: Statistics = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// What to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportOptions {
    /// Pickle or `.pth` of Detectron2.
    pub file: PathBuf,
    /// The safetensors file to write.
    pub out: PathBuf,
    /// The architecture; default: as names and shapes show.
    pub arch: Option<Arch>,
    /// Replace an existing file.
    pub force: bool,
}

/// What was imported.
#[derive(Clone, Debug)]
pub struct Import {
    /// The architecture.
    pub arch: Arch,
    /// What matched.
    pub report: LoadReport,
    /// Tensors of the detector that were left out.
    pub left_out: usize,
    /// Over weights and contract.
    pub fingerprint: String,
    /// What the user should hear.
    pub warnings: Vec<String>,
}

/// Writes the encoder of a Detectron2 file as safetensors under torchvision's names, with architecture,
/// preprocessing contract, fingerprint and origin in the metadata.
///
/// # Errors
/// [`Error`]: a file with missing or mis-shaped parameters is refused, and so is one whose weights ask for
/// something else than torchvision's network and RGB input.
pub fn import(options: &ImportOptions) -> Result<Import, Error> {
    let path = options.file.as_path();
    occlude_output::check(&[&options.out], &[path], options.force)?;
    options.arch.map(detectrons).transpose()?;
    let checkpoint = Checkpoint::open(path)?;
    if let Some(name) = checkpoint.names().find(|name| is_caffe2(name)) {
        return Err(Error::Caffe2 { path: path.to_owned(), name: name.to_owned() });
    }
    let named = Named::of(&checkpoint)?;
    if named.encoder.is_empty() {
        return Err(Error::NoEncoder(path.to_owned()));
    }
    let matched = named.against(options.arch);
    let (arch, report) = (matched.arch, matched.report);
    if !(report.missing.is_empty() && report.mis_shaped.is_empty() && report.unused.is_empty()) {
        return Err(Error::Incomplete { path: path.to_owned(), arch, report: Box::new(report) });
    }
    let statistics = pixel_statistics(&checkpoint)?;
    let (mean, std) = statistics.unwrap_or(IMAGENET);
    let encoder = load(path, &named, arch, report)?;
    refuse_frozen(path, &encoder)?;
    let json = contract(&mean, &std);
    let tensors = encoder.tensors_out("")?;
    let fingerprint = encoder.fingerprint(&json);
    save_safetensors(&options.out, &tensors, &metadata(&checkpoint, arch, json, &fingerprint))?;
    let warnings = warnings(&checkpoint, statistics.is_some());
    Ok(Import { arch, report: encoder.report, left_out: named.others.len(), fingerprint, warnings })
}

/// Names of Caffe2 and of the first Detectron: `conv1_w`, `res2_0_branch2a_bn_s`.
fn is_caffe2(name: &str) -> bool {
    name == "conv1_w" || name.starts_with("res_conv1_bn_") || name.contains("_branch2")
}

/// Mean and standard deviation that the detector itself kept, which older Detectron2 saves.
fn pixel_statistics(checkpoint: &Checkpoint) -> Result<Option<Statistics>, Error> {
    let read = |name| -> Result<Option<[f64; 3]>, Error> {
        let Some(tensor) = checkpoint.tensor(name) else { return Ok(None) };
        let values: Vec<f64> = tensor.to_f32()?.into_iter().map(rounded).collect();
        Ok(values.try_into().ok())
    };
    let (Some(mean), Some(std)) = (read("pixel_mean")?, read("pixel_std")?) else { return Ok(None) };
    // ImageNet's red is the brightest channel and its blue the darkest, so that a rising mean is BGR.
    // A deviation of one is how Caffe2's weights take their pixels.
    let rising = matches!(mean, [first, _, last] if first < last);
    if rising || std.iter().any(|&s| s <= 1.0) {
        return Err(Error::Pixels { path: checkpoint.path().to_owned(), mean, std });
    }
    let unit = |pixels: [f64; 3]| pixels.map(|x| (x / 255.0 * 1e6).round() / 1e6);
    let (unit_mean, unit_std) = (unit(mean), unit(std));
    // What is written has to be what every other tool reads.
    if let Err(reason) = Preprocess::from_json(&contract(&unit_mean, &unit_std)) {
        return Err(Error::Statistics { path: checkpoint.path().to_owned(), mean, std, reason });
    }
    Ok(Some((unit_mean, unit_std)))
}

/// Single precision shown as what was meant: 123.675 and not 123.67500305.
fn rounded(x: f32) -> f64 {
    (f64::from(x) * 1e4).round() / 1e4
}

/// All parameters, which stay in the file; counters that it lacks are zero.
fn load<'a>(path: &Path, named: &Named<'a>, arch: Arch, report: LoadReport) -> Result<Encoder<'a>, Error> {
    let mut tensors = BTreeMap::new();
    for param in Graph::new(arch).params() {
        let tensor = named.encoder.get(&param.name);
        let data = match (param.kind, tensor) {
            (ParamKind::BnCount, tensor) => {
                let count = tensor.map(Tensor::to_i64).transpose()?;
                EncoderData::I64(count.and_then(|c| c.first().copied()).unwrap_or(0))
            }
            (kind, Some(tensor)) if tensor.dtype.is_float() => {
                check_values(path, kind, tensor)?;
                EncoderData::Stored(*tensor)
            }
            (_, Some(tensor)) => {
                return Err(Error::Dtype { name: tensor.name.to_owned(), got: tensor.dtype });
            }
            // Held against the architecture before.
            (_, None) => continue,
        };
        tensors.insert(param.name, EncoderTensor { shape: param.shape, data });
    }
    let layout = Layout { prefix: String::new(), naming: Naming::Detectron2 };
    Ok(Encoder { arch, layout, tensors, whitening: None, report })
}

/// Caffe2's normalisations are a scale and a shift alone: mean 0 and variance 1 with weights that are not 1.
/// Detectors that started from them have kept at least the frozen stem, under Detectron2's names.
fn refuse_frozen(path: &Path, encoder: &Encoder<'_>) -> Result<(), Error> {
    let all = |leaf: &str, is: fn(f32) -> bool| {
        encoder.f32(&format!("bn1.{leaf}")).is_some_and(|values| values.iter().all(|&x| is(x)))
    };
    let untouched = all("running_mean", |x| x == 0.0) && all("running_var", |x| (x - 1.0).abs() < 1e-4);
    let trained = !(all("weight", |x| x == 1.0) && all("bias", |x| x == 0.0));
    if untouched && trained {
        return Err(Error::FrozenNorm { path: path.to_owned() });
    }
    Ok(())
}

/// The contract's JSON form as `occlude_preprocess` writes it; a test holds it against that.
fn contract(mean: &[f64; 3], std: &[f64; 3]) -> String {
    let list = |x: &[f64; 3]| x.map(|x| x.to_string()).join(",");
    let (mean, std) = (list(mean), list(std));
    format!(
        r#"{{"version":1,"color":"RGB","resize":256,"crop":224,"interpolation":"bilinear","mean":[{mean}],"std":[{std}],"high_pass":null}}"#
    )
}

fn metadata(
    checkpoint: &Checkpoint,
    arch: Arch,
    contract: String,
    fingerprint: &str,
) -> BTreeMap<String, String> {
    let name = checkpoint.path().file_name().unwrap_or_default().to_string_lossy();
    let author = checkpoint.metadata().get("__author__").map(|a| format!(" by {a}")).unwrap_or_default();
    BTreeMap::from([
        // What PyTorch's loaders ask for.
        ("format".to_owned(), "pt".to_owned()),
        (meta::ARCH.to_owned(), arch.name()),
        (meta::PREPROCESS.to_owned(), contract),
        (meta::FINGERPRINT.to_owned(), fingerprint.to_owned()),
        (meta::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        (ORIGIN.to_owned(), format!("detectron2, {}: {name}{author}", checkpoint.format())),
    ])
}

fn warnings(checkpoint: &Checkpoint, has_statistics: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if !has_statistics {
        warnings.push(
            "the file does not say how its pixels were prepared: the contract assumes RGB with ImageNet's mean and standard deviation, 224 pixels, no high-pass filter"
                .to_owned(),
        );
    }
    if let Some(first) = checkpoint.damaged_records().first() {
        warnings.push(format!(
            "records of the file fail their checksum, the first is `{first}`: it may be damaged"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_the_one_that_others_write() {
        let (mean, std) = IMAGENET;
        assert_eq!(contract(&mean, &std), Preprocess::imagenet(224).to_json());
    }

    #[test]
    fn caffe2_names() {
        for name in ["conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res5_2_branch2c_bn_b"] {
            assert!(is_caffe2(name), "{name}");
        }
        for name in ["stem.conv1.weight", "conv1.weight", "backbone.res2.0.conv1.weight"] {
            assert!(!is_caffe2(name), "{name}");
        }
    }
}
