//! A folder as models are published in: what transformers, timm and runtimes of ONNX look for in it.
//!
//! transformers has ResNets without groups and of the usual width, and vision transformers as `Dinov2Model`, of which
//! the plain ones are a case: their layer scales are one. What it lacks it loads by its wrapper of timm, from timm's
//! layout in the same place.

mod card;
mod config;
#[cfg(test)]
mod tests;
mod weights;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use occlude_checkpoint::{Encoder, TensorOut, save_safetensors};
use occlude_encoder::{Arch, Stem, Vit};
use occlude_preprocess::Preprocess;
use serde_json::Value;

pub use card::Card;

use crate::Error;
use crate::onnx::data_file;

/// The configuration of either project.
const CONFIG: &str = "config.json";
/// transformers' preprocessing.
const PROCESSOR: &str = "preprocessor_config.json";
/// The weights of either project.
const WEIGHTS: &str = "model.safetensors";
/// The page that a hub shows.
const CARD: &str = "README.md";
/// Where timm's layout is, where the folder itself has transformers'.
const TIMM: &str = "timm";
/// Where models are.
const ONNX: &str = "onnx";

/// Whose layout the folder itself has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Transformers,
    Timm,
}

/// A folder that is to be published.
#[derive(Debug)]
pub struct Hub<'a> {
    folder: &'a Path,
    encoder: &'a Encoder<'a>,
    contract: &'a Preprocess,
    layout: Layout,
    /// What must not be replaced.
    inputs: Vec<PathBuf>,
    /// Whether anything else may be.
    force: bool,
}

/// A model of ONNX in the folder, as transformers.js and optimum name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// In single precision.
    Fp32,
    /// In half precision.
    Fp16,
    /// Of integers.
    Int8,
}

impl Model {
    /// Its place in the folder.
    pub fn path(self) -> PathBuf {
        let name = match self {
            Self::Fp32 => "model.onnx",
            Self::Fp16 => "model_fp16.onnx",
            Self::Int8 => "model_quantized.onnx",
        };
        Path::new(ONNX).join(name)
    }
}

impl<'a> Hub<'a> {
    /// Looks whether the encoder can be published, and makes the folders.
    ///
    /// # Errors
    /// [`Error::Options`] for what neither project has, [`Error::Output`] where something would be replaced without
    /// `force`, [`Error::Write`] where a folder cannot be made.
    pub fn new(
        folder: &'a Path,
        encoder: &'a Encoder<'a>,
        contract: &'a Preprocess,
        models: &[Model],
        (inputs, force): (Vec<PathBuf>, bool),
    ) -> Result<Self, Error> {
        let layout = layout(encoder.arch, contract)?;
        let hub = Self { folder, encoder, contract, layout, inputs, force };
        hub.make_folders()?;
        hub.check(&hub.files(models))?;
        Ok(hub)
    }

    /// Whether the weights of models, which large ones have beside themselves, may be written.
    ///
    /// # Errors
    /// [`Error::Output`].
    pub fn check_data(&self, models: &[Model]) -> Result<(), Error> {
        let files: Vec<PathBuf> = models.iter().map(|model| data_file(&model.path())).collect();
        self.check(&files)
    }

    fn check(&self, files: &[PathBuf]) -> Result<(), Error> {
        let outputs: Vec<PathBuf> = files.iter().map(|file| self.folder.join(file)).collect();
        let outputs: Vec<&Path> = outputs.iter().map(PathBuf::as_path).collect();
        let inputs: Vec<&Path> = self.inputs.iter().map(PathBuf::as_path).collect();
        Ok(occlude_output::check(&outputs, &inputs, self.force)?)
    }

    fn make_folders(&self) -> Result<(), Error> {
        let timm = (self.layout == Layout::Transformers && self.has_timm()).then_some(TIMM);
        for name in [Some(ONNX), timm].into_iter().flatten() {
            let path = self.folder.join(name);
            std::fs::create_dir_all(&path).map_err(|reason| Error::Write { path, reason })?;
        }
        Ok(())
    }

    /// timm has no other epsilon than the usual one in what a configuration can say.
    fn has_timm(&self) -> bool {
        self.encoder.arch.vit().is_none_or(|vit| vit.eps == Vit::new(1, 1, 1, 1).eps)
    }

    /// All that will be written, but for the weights of large models: which are large is known when they are built.
    fn files(&self, models: &[Model]) -> Vec<PathBuf> {
        let timm = self.layout == Layout::Transformers && self.has_timm();
        let timm = [CONFIG, WEIGHTS].into_iter().filter(|_| timm).map(|name| Path::new(TIMM).join(name));
        let own = [CONFIG, PROCESSOR, WEIGHTS, CARD].into_iter().map(PathBuf::from);
        own.chain(timm).chain(models.iter().map(|model| model.path())).collect()
    }

    /// Where a model belongs.
    pub fn model(&self, model: Model) -> PathBuf {
        self.folder.join(model.path())
    }

    /// Writes everything but the models.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for weights that cannot be read or written, [`Error::Write`] for other files.
    pub fn write(&self, card: &Card) -> Result<(), Error> {
        let (arch, contract) = (self.encoder.arch, self.contract);
        let timm = || Ok::<_, Error>((config::timm(arch, contract), weights::timm(self.encoder, contract)?));
        let (config, tensors) = match self.layout {
            Layout::Timm => timm()?,
            Layout::Transformers => {
                (config::transformers(arch, contract), weights::transformers(self.encoder, contract)?)
            }
        };
        // Before the first file: what cannot be made leaves no half of a folder behind.
        let below = (self.layout == Layout::Transformers && self.has_timm()).then(timm).transpose()?;
        self.json(CONFIG, &config)?;
        self.json(PROCESSOR, &config::processor(contract))?;
        self.weights(WEIGHTS, &tensors)?;
        if let Some((config, tensors)) = below {
            self.json(&format!("{TIMM}/{CONFIG}"), &config)?;
            self.weights(&format!("{TIMM}/{WEIGHTS}"), &tensors)?;
        }
        let folder = match self.layout {
            Layout::Timm => Some(""),
            Layout::Transformers => self.has_timm().then_some("/timm"),
        };
        self.text(CARD, &card.text(self.encoder, contract, folder))
    }

    fn json(&self, name: &str, value: &Value) -> Result<(), Error> {
        self.text(name, &format!("{value:#}\n"))
    }

    fn text(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.folder.join(name);
        let write = |out: &mut dyn Write| -> io::Result<()> { out.write_all(text.as_bytes()) };
        occlude_output::write(&path, write).map_err(|reason| Error::Write { path, reason })
    }

    fn weights(&self, name: &str, tensors: &[TensorOut<'_>]) -> Result<(), Error> {
        // What PyTorch's loaders ask for.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        Ok(save_safetensors(&self.folder.join(name), tensors, &metadata)?)
    }
}

/// Which layout an encoder can have.
fn layout(arch: Arch, contract: &Preprocess) -> Result<Layout, Error> {
    let refuse = |reason| Err(Error::Options { reason });
    if contract.high_pass.is_some() {
        return refuse(
            "neither transformers nor timm filters pictures, and these weights want a high-pass filter; hint: `occlude-export onnx` writes a model that has it inside",
        );
    }
    if arch.vit().is_some_and(|vit| !(contract.crop as usize).is_multiple_of(vit.patch)) {
        return refuse(crate::onnx::NO_WHOLE_PATCHES);
    }
    match arch.resnet() {
        Some(row) if row.stem == Stem::Small => refuse(
            "neither transformers nor timm has ResNets for small pictures; hint: `occlude-export onnx`",
        ),
        Some(row) if (row.groups, row.width) != (1, 64) => Ok(Layout::Timm),
        _ => Ok(Layout::Transformers),
    }
}
