//! Checkpoints of a run: written whole or not at all, read back strictly.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use occlude_checkpoint::{
    Checkpoint, Dtype, EncoderData, EncoderTensor, ProjectionHead, TensorOut, meta, save_safetensors,
};
use occlude_encoder::layout::{Layout, Naming};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::position::{Course, Loaded};
pub use super::position::{Position, RunState};
use crate::config::Config;
use crate::method::Method;
use crate::model::{Branch, Named, Optimizer, Statistics};

/// What goes into a checkpoint.
pub(super) struct State<'a> {
    pub(super) config: &'a Config,
    pub(super) method: &'a dyn Method,
    pub(super) optimizer: &'a Optimizer,
    pub(super) at: &'a Position,
    /// Running statistics that evaluation is to have in place of training's.
    pub(super) refreshed: Option<&'a Statistics>,
}

/// What precedes the names of tensors that training goes on with, where evaluation has others.
const TRAINING: &str = "training.";

/// Writes everything that a resumed run needs to `path`, then names it in `last`.
///
/// # Errors
/// Where a file cannot be written; the earlier checkpoints are then untouched.
pub(super) fn save(path: &Path, state: &State<'_>) -> Result<()> {
    write(path, state)
        .with_context(|| format!("cannot save `{}`; hint: is the disk full?", path.display()))?;
    // the weights are safe; now they may be the newest
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let last = path.with_file_name("last");
    occlude_output::write(&last, |w| writeln!(w, "{name}"))
        .with_context(|| format!("cannot write `{}`", last.display()))
}

/// Writes everything that a resumed run needs to `path`, with the running statistics that evaluation is to have.
///
/// # Errors
/// Where the file cannot be written; what was there is then untouched.
pub(super) fn write(path: &Path, state: &State<'_>) -> Result<()> {
    let &State { config, method, optimizer, at, refreshed } = state;
    let mut tensors = method.state();
    tensors.extend(optimizer.state());
    let mut out = tensors.iter().map(to_out).collect::<Result<Vec<_>>>()?;
    let preprocess = config.preprocess().to_json();
    let mut metadata = BTreeMap::from([
        (meta::FORMAT.into(), meta::FORMAT_VERSION.into()),
        (meta::VERSION.into(), env!("CARGO_PKG_VERSION").into()),
        (meta::ARCH.into(), config.arch.clone()),
        (meta::METHOD.into(), config.recipe.name().into()),
        (meta::CONFIG.into(), serde_json::to_string(config)?),
        (meta::EPOCH.into(), at.epoch.to_string()),
        (meta::STEP.into(), at.step.to_string()),
        (meta::METRICS.into(), at.metrics.to_string()),
        (meta::RUN.into(), serde_json::to_string(&at.run)?),
        (meta::DATA.into(), serde_json::to_string(&at.course)?),
    ]);
    metadata.extend(config.method.teacher().map(|t| (meta::TEACHER.into(), t.fingerprint.clone())));
    let branch = method.branch();
    if let Some(refreshed) = refreshed {
        metadata.insert(meta::BN_REFRESH.into(), refreshed.batches.to_string());
        exchange(&mut out, branch.prefix(), &refreshed.named)?;
    }
    metadata.insert(meta::FINGERPRINT.into(), fingerprint(config, (branch.prefix(), &out), &preprocess)?);
    metadata.insert(meta::PREPROCESS.into(), preprocess);
    metadata.extend(networks(branch));
    Ok(save_safetensors(path, &out, &metadata)?)
}

/// Puts other statistics in the place of the encoder's, which are kept under names of their own.
fn exchange(tensors: &mut Vec<TensorOut<'static>>, prefix: &str, statistics: &[Named]) -> Result<()> {
    for Named { name, tensor } in statistics {
        let name = format!("{prefix}{name}");
        let of_training = tensors.iter_mut().find(|t| t.name == name);
        let of_training = of_training.with_context(|| format!("no tensor `{name}` to refresh"))?;
        let fresh = to_out(&Named::new(name.as_str(), tensor))?;
        let kept = TensorOut { name: format!("{TRAINING}{name}"), ..std::mem::replace(of_training, fresh) };
        tensors.push(kept);
    }
    Ok(())
}

/// Where the encoder and its projection head are and what that is, for those who read and export them.
fn networks(branch: &Branch) -> impl Iterator<Item = (String, String)> {
    let head = branch.projector();
    let projection = ProjectionHead { prefix: head.prefix.clone(), mlp: head.mlp.description().clone() };
    let known = [(meta::ENCODER, branch.prefix().to_owned()), (meta::PROJECTION, projection.to_string())];
    let scale = branch.align().map(|align| (meta::ALIGNMENT, align.scale.to_string()));
    known.into_iter().chain(scale).map(|(key, value)| (key.to_owned(), value))
}

/// A tensor on its way into a file.
///
/// # Errors
/// Where it is neither float32 nor int64.
pub(crate) fn to_out(named: &Named) -> Result<TensorOut<'static>> {
    let tensor = named.tensor.detach().to_device(tch::Device::Cpu).contiguous();
    let dtype = match tensor.kind() {
        Kind::Float => Dtype::F32,
        Kind::Int64 => Dtype::I64,
        other => bail!("tensor `{}` is of kind {other:?}, which checkpoints do not hold", named.name),
    };
    let mut data = vec![0u8; tensor.numel() * dtype.size()];
    tensor.f_copy_data_u8(&mut data, tensor.numel())?;
    let shape = tensor.size().into_iter().map(|d| d as usize).collect();
    Ok(TensorOut { name: named.name.clone(), dtype, shape, data: Cow::Owned(data) })
}

/// The fingerprint that every artefact of these weights will carry.
fn fingerprint(
    config: &Config,
    (prefix, tensors): (&str, &[TensorOut<'_>]),
    preprocess: &str,
) -> Result<String> {
    let weights = tensors.iter().filter(|t| t.dtype == Dtype::F32).filter_map(|t| {
        let name = t.name.strip_prefix(prefix)?.to_owned();
        let floats = t.data.chunks_exact(4).filter_map(|b| b.try_into().ok()).map(f32::from_le_bytes);
        Some((name, EncoderTensor { shape: t.shape.clone(), data: EncoderData::F32(floats.collect()) }))
    });
    let encoder = occlude_checkpoint::Encoder {
        arch: config.architecture()?,
        layout: Layout { prefix: prefix.into(), naming: Naming::Torchvision },
        tensors: weights.collect(),
        whitening: None,
        report: occlude_checkpoint::LoadReport::default(),
    };
    Ok(encoder.fingerprint(preprocess))
}

/// The file that `resume` means: itself, or the newest of a run's folder.
///
/// # Errors
/// Where there is none.
pub fn locate(resume: &Path) -> Result<PathBuf> {
    if !resume.is_dir() {
        ensure!(resume.exists(), "no such checkpoint: `{}`", resume.display());
        return Ok(resume.to_owned());
    }
    let last = resume.join("last");
    let name = std::fs::read_to_string(&last).with_context(|| {
        format!(
            "nothing to resume in `{}`: it has no file `last`; hint: leave out `--resume` to start",
            resume.display()
        )
    })?;
    Ok(resume.join(name.trim()))
}

/// What a checkpoint of a run says of it.
///
/// # Errors
/// Where the file is no checkpoint of a run.
pub(super) fn describe(path: &Path, checkpoint: &Checkpoint) -> Result<Loaded> {
    let metadata = checkpoint.metadata();
    ensure!(
        !metadata.contains_key(meta::WHITENING),
        "`{}` was whitened for use, and holds no training state; hint: resume from the checkpoint that it was made from",
        path.display()
    );
    let get = |key: &str| {
        metadata.get(key).with_context(|| {
            format!("`{}` is not a checkpoint of `occlude-train pretrain`: it lacks `{key}`", path.display())
        })
    };
    let unreadable = |key: &str| format!("`{}`: unreadable `{key}`", path.display());
    let config = serde_json::from_str(get(meta::CONFIG)?).with_context(|| unreadable(meta::CONFIG))?;
    let number = |key: &str| -> Result<u64> {
        let text = get(key)?;
        text.parse().with_context(|| format!("`{}`: `{key}` is `{text}`, expected a number", path.display()))
    };
    let metrics =
        metadata.get(meta::METRICS).and_then(|m| serde_json::from_str(m).ok()).unwrap_or(Value::Null);
    let run = serde_json::from_str(get(meta::RUN)?).with_context(|| unreadable(meta::RUN))?;
    let course: Option<Course> = metadata
        .get(meta::DATA)
        .map(|text| serde_json::from_str(text).with_context(|| unreadable(meta::DATA)))
        .transpose()?;
    let (step, epoch) = (number(meta::STEP)?, number(meta::EPOCH)?);
    let at = Position { step, epoch, metrics, run, course: course.clone().unwrap_or_default() };
    Ok(Loaded { config, at, course })
}

/// Loads a run's tensors into `method` and `optimizer`.
///
/// # Errors
/// Where they are those of another network.
pub(super) fn load(
    path: &Path,
    checkpoint: &Checkpoint,
    method: &mut dyn Method,
    optimizer: &Optimizer,
) -> Result<()> {
    let mut named = checkpoint.tensors().map(|t| from_checkpoint(&t)).collect::<Result<Vec<_>>>()?;
    for of_training in named.extract_if(.., |n| n.name.starts_with(TRAINING)).collect::<Vec<_>>() {
        let name = &of_training.name[TRAINING.len()..];
        let place = named.iter_mut().find(|n| n.name == name);
        let place = place.with_context(|| {
            format!("`{}` is damaged: it has `{}` but no `{name}`", path.display(), of_training.name)
        })?;
        place.tensor = of_training.tensor;
    }
    let momenta: Vec<Named> = named.extract_if(.., |n| n.name.starts_with("optim.")).collect();
    method
        .load_state(&named)
        .and_then(|()| crate::model::load(&optimizer.state(), &momenta))
        .with_context(|| format!("`{}` does not fit the configuration", path.display()))
}

/// A tensor of a file, of the type it has there.
///
/// # Errors
/// Where it is neither float32 nor int64.
pub(crate) fn from_checkpoint(t: &occlude_checkpoint::Tensor<'_>) -> Result<Named> {
    let kind = match t.dtype {
        Dtype::F32 => Kind::Float,
        Dtype::I64 => Kind::Int64,
        other => bail!("tensor `{}` has the unexpected type {}", t.name, other.name()),
    };
    let shape: Vec<i64> = t.shape.iter().map(|&d| d as i64).collect();
    Ok(Named { name: t.name.to_owned(), tensor: Tensor::f_from_data_size(&t.to_bytes()?, &shape, kind)? })
}

/// A resumed run computes what the interrupted one would have: nothing that matters may differ.
///
/// # Errors
/// With every value that does.
pub(super) fn same_config(saved: &Config, now: &Config, path: &Path) -> Result<()> {
    let (saved, now) = (serde_json::to_value(saved)?, serde_json::to_value(now)?);
    let mut differences = Vec::new();
    compare("", &saved, &now, &mut differences);
    ensure!(
        differences.is_empty(),
        "cannot resume from `{}`: the configuration differs: {}; hint: resume with the flags of the first run (`config.json` has them)",
        path.display(),
        differences.join(", ")
    );
    Ok(())
}

/// Where two configurations differ, in words; what only one of them has is `null` in the other.
pub(crate) fn compare(path: &str, saved: &Value, now: &Value, out: &mut Vec<String>) {
    match (saved, now) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, b.get(key).unwrap_or(&Value::Null), out);
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, &Value::Null, value, out);
            }
        }
        _ if saved != now => out.push(format!("`{path}` was {saved}, is {now}")),
        _ => {}
    }
}
