//! Nearest-neighbour accuracy of the encoder while it is trained.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use occlude_dataset::Dataset;
use occlude_preprocess::Preprocess;
use rand::SeedableRng;
use serde_json::{Map, Value, json};

use super::{Run, picture};
use crate::eval::{Extractor, FeatureSet, Votes, knn_ranks_together};
use crate::model::Encoder;
use crate::rng::permutation;

/// What to measure on, and how often.
#[derive(Clone, Debug)]
pub struct OnlineKnn {
    /// Held-out folder with one sub-folder per class: the queries.
    pub val: PathBuf,
    /// Folder with the same classes: the neighbours; absent: the training data.
    pub train: Option<PathBuf>,
    /// Epochs between measurements.
    pub every: usize,
    /// Most pictures of each; a fixed random choice where there are more.
    pub limit: usize,
}

/// Neighbours that vote.
const K: i64 = 20;

/// The data sets, and which pictures of them.
pub(super) struct Online {
    train: (Dataset, Vec<usize>),
    val: (Dataset, Vec<usize>),
    every: usize,
}

/// What was measured.
pub(super) struct Found {
    pub(super) k: i64,
    pub(super) top1: f64,
    queries: usize,
    neighbours: usize,
}

impl Found {
    pub(super) fn fields(&self) -> Map<String, Value> {
        let fields = json!({
            "top1": self.top1, "k": self.k, "queries": self.queries, "neighbours": self.neighbours
        });
        fields.as_object().cloned().unwrap_or_default()
    }
}

impl Online {
    /// Opens both data sets.
    ///
    /// # Errors
    /// Where one of them has no classes, or they differ.
    pub(super) fn open(settings: &OnlineKnn, data: &Path) -> Result<Self> {
        let bank = settings.train.as_deref().unwrap_or(data);
        let open = |path: &Path| crate::data::open(path);
        let (train, val) = (open(bank)?, open(&settings.val)?);
        ensure!(
            !val.classes().is_empty() && train.classes() == val.classes(),
            "online kNN needs the same class folders in `{}` ({} of them) and `{}` ({}); hint: `--knn-train` names a labelled folder of neighbours",
            bank.display(),
            train.classes().len(),
            settings.val.display(),
            val.classes().len()
        );
        let pick = |data: Dataset, of| {
            let which = choose(data.len(), settings.limit, of);
            (data, which)
        };
        Ok(Self { train: pick(train, 1), val: pick(val, 2), every: settings.every })
    }

    /// Whether `epoch` (from 0) ends with a measurement.
    pub(super) fn due(&self, epoch: usize) -> bool {
        (epoch + 1).is_multiple_of(self.every)
    }

    /// Weighted kNN of `encoder`, and the picture of some neighbours in the run's folder. Each rank encodes a part of the pictures.
    ///
    /// # Errors
    /// Where no picture can be read, or the picture not be written.
    pub(super) fn measure(&self, encoder: &Encoder, contract: &Preprocess, run: &Run) -> Result<Found> {
        let extractor = Extractor::Encoder(encoder, contract);
        let world = &run.world;
        let features = |(data, which): &(Dataset, Vec<usize>)| -> Result<FeatureSet> {
            extractor.run_together(data, which, run.workers, world)
        };
        let train = features(&self.train).context("online kNN, neighbours")?;
        let val = features(&self.val).context("online kNN, queries")?;
        let (queries, neighbours) = (val.samples.len(), train.samples.len());
        let k = K.min(neighbours as i64);
        let found = tch::no_grad(|| knn_ranks_together(&train, &val, (&[k], Votes::Weighted), world))?;
        let right = found.iter().flat_map(|(_, ranks)| ranks).filter(|&&rank| rank == 0).count();
        let top1 = right as f64 / queries.max(1) as f64;
        if !world.is_main() {
            return Ok(Found { k, top1, queries, neighbours });
        }
        picture::neighbours(&run.out.join("neighbours.png"), (&self.train.0, &train), (&self.val.0, &val))?;
        Ok(Found { k, top1, queries, neighbours })
    }
}

/// At most `limit` of `n` positions, ascending, the same ones every time.
pub(super) fn choose(n: usize, limit: usize, of: u64) -> Vec<usize> {
    if n <= limit {
        return (0..n).collect();
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(of);
    let mut picked: Vec<usize> =
        permutation(n, &mut rng).into_iter().take(limit).map(|i| i as usize).collect();
    picked.sort_unstable();
    picked
}
