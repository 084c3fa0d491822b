//! A teacher of which there are weights: libtorch runs it.

use std::path::Path;

use anyhow::{Context, Result};
use occlude_checkpoint::{Checkpoint, LoadOptions, load_encoder, meta};
use occlude_dataset::Dataset;
use occlude_preprocess::Preprocess;
use tch::{Device, Kind, Tensor};

use super::{Place, Source, described, unknown};
use crate::config::{Teacher, TeacherKind};
use crate::eval::{Extractor, Whitener};
use crate::model::Encoder;

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
    fn embed(&mut self, data: &Dataset, which: &[usize]) -> Result<Tensor> {
        let set = Extractor::Encoder(&self.encoder, &self.contract).run_some(data, which, self.workers)?;
        let rows = self.whitener.as_ref().map_or(set.features.shallow_clone(), |w| w.apply(&set.features));
        Ok(placed(&rows, &set.samples, which))
    }
}

/// `rows` of the pictures at `there` in the places that these have in `which`, and rows of NaN for the others.
pub(super) fn placed(rows: &Tensor, there: &[usize], which: &[usize]) -> Tensor {
    let places: Vec<i64> =
        there.iter().filter_map(|i| which.binary_search(i).ok()).map(|at| at as i64).collect();
    let size = [which.len() as i64, rows.size()[1]];
    let out = Tensor::full(size, f64::NAN, (Kind::Float, Device::Cpu));
    out.index_copy(0, &Tensor::from_slice(&places), rows)
}
