//! A teacher of which there are weights: libtorch runs it.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder, meta};
use occlude_dataset::Dataset;
use occlude_preprocess::{Broken, Preprocess, Rgb};
use tch::{Device, Tensor};

use super::cells::reduced;
use super::{Heard, Place, Said, Source, described, unknown};
use crate::config::{Teacher, TeacherKind};
use crate::eval::{Extractor, FEATURE_BATCH, Whitener, decode, network_input};
use crate::model::{Encoder, Mode};

/// What the file at `path` is.
pub(super) fn describe(path: &Path, asked: Option<Preprocess>) -> Result<Teacher> {
    let checkpoint = Checkpoint::open(path)?;
    let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
    let stored = checkpoint.metadata().get(meta::PREPROCESS).map(|json| Preprocess::from_json(json));
    let contract = match (asked, stored.transpose().with_context(|| format!("`{}`", path.display()))?) {
        (Some(contract), _) | (None, Some(contract)) => contract,
        (None, None) => Preprocess::beside(path)?.ok_or_else(|| unknown(path))?,
    };
    let fingerprint = weights.fingerprint(&contract.to_json());
    let dim = Some(weights.embedding_dim());
    described((path, TeacherKind::Checkpoint), &contract, fingerprint.clone(), fingerprint, dim)
}

/// A frozen encoder.
pub(super) struct Frozen {
    encoder: Encoder,
    whitener: Option<Whitener>,
    contract: Preprocess,
    workers: usize,
}

impl Frozen {
    /// That of `teacher`.
    ///
    /// # Errors
    /// Where the file has changed, or the device cannot be used.
    pub(super) fn open(teacher: &Teacher, contract: Preprocess, place: Place<'_>) -> Result<Self> {
        let checkpoint = Checkpoint::open(&teacher.path)?;
        let weights = load_encoder(&checkpoint, &LoadOptions::default())?;
        let encoder = Encoder::from_checkpoint(&weights, place.device)?;
        let whitener = weights.whitening.as_ref().map(Whitener::new);
        Ok(Self { encoder, whitener, contract, workers: place.workers })
    }
}

impl Source for Frozen {
    fn embed(&mut self, data: &Dataset, which: &[usize], grid: Option<usize>) -> Result<Heard> {
        if let Some(grid) = grid {
            return self.look(data, which, grid);
        }
        let extractor = Extractor::Encoder(&self.encoder, &self.contract);
        let set = extractor.run_readable(data, which, self.workers)?;
        Ok(set.map_or_else(Heard::default, |set| {
            (vec![Said { embeddings: self.whitened(&set.features), cells: None }], set.samples)
        }))
    }
}

impl Frozen {
    fn whitened(&self, features: &Tensor) -> Tensor {
        self.whitener.as_ref().map_or_else(|| features.shallow_clone(), |w| w.apply(features))
    }

    /// The same embeddings, and the last feature map or the patch tokens that they are made of.
    fn look(&self, data: &Dataset, which: &[usize], grid: usize) -> Result<Heard> {
        let (encoder, contract) = (&self.encoder, &self.contract);
        let tap = encoder.last_map()?;
        let broken = Mutex::new(Broken::default());
        let (mut parts, mut there) = (Vec::new(), Vec::new());
        for chunk in which.chunks(FEATURE_BATCH) {
            let read = decode(data, chunk, contract, (self.workers, &broken));
            let images: Vec<&Rgb> = read.iter().map(|(_, image)| image).collect();
            if images.is_empty() {
                continue;
            }
            let x = network_input(&images, contract, encoder.device());
            let size = [x.size()[2], x.size()[3]];
            let (embeddings, cells) = tch::no_grad(|| {
                let out = encoder.forward(&x, Mode::Eval, &[tap]);
                let cells = reduced(&encoder.map(tap, &out.taps[0], size), grid);
                (out.embedding.to_device(Device::Cpu), cells.to_device(Device::Cpu))
            });
            parts.push(Said { embeddings: self.whitened(&embeddings), cells: Some(cells) });
            there.extend(read.iter().map(|(i, _)| *i));
        }
        Ok((parts, there))
    }
}
