//! Nearest-neighbour accuracy of the encoder while it is trained.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use occlude_dataset::Dataset;
use occlude_distributed::World;
use occlude_preprocess::Preprocess;
use rand::SeedableRng;
use serde_json::{Map, Value, json};
use tch::Tensor;

use super::{Run, picture};
use crate::eval::{Extractor, FeatureSet, knn};
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
            let (n, rank, size) = (which.len(), world.rank(), world.size());
            if world.is_single() || n < size {
                return extractor.run_some(data, which, run.workers);
            }
            let part = &which[n * rank / size..n * (rank + 1) / size];
            gathered(&extractor.run_some(data, part, run.workers)?, world)
        };
        let train = features(&self.train).context("online kNN, neighbours")?;
        let val = features(&self.val).context("online kNN, queries")?;
        let (queries, neighbours) = (val.samples.len(), train.samples.len());
        let k = K.min(neighbours as i64);
        let scores = tch::no_grad(|| knn(&train, &val, &[k]))?;
        // all ranks go by what one of them found
        let top1 = Tensor::from(scores.first().map_or(0.0, |s| s.1));
        world.broadcast(&[top1.shallow_clone()], "accuracy by nearest neighbours")?;
        let top1 = top1.double_value(&[]);
        if !world.is_main() {
            return Ok(Found { k, top1, queries, neighbours });
        }
        picture::neighbours(&run.out.join("neighbours.png"), (&self.train.0, &train), (&self.val.0, &val))?;
        Ok(Found { k, top1, queries, neighbours })
    }
}

/// The features that all ranks have, in their order; ranks may have different numbers of them.
fn gathered(own: &FeatureSet, world: &World) -> Result<FeatureSet> {
    const WHAT: &str = "features for nearest neighbours";
    let rows = own.samples.len() as i64;
    let counts = Vec::<i64>::try_from(world.gather(&Tensor::from_slice(&[rows]), WHAT)?)?;
    let most = counts.iter().copied().max().unwrap_or(0);
    let all = |x: &Tensor| -> Result<Tensor> {
        let mut missing = x.size();
        missing[0] = most - rows;
        let padded = Tensor::cat(&[x, &Tensor::zeros(missing.as_slice(), (x.kind(), x.device()))], 0);
        let padded = world.gather(&padded, WHAT)?;
        let parts = (0i64..).zip(&counts).map(|(rank, &n)| padded.narrow(0, rank * most, n));
        Ok(Tensor::cat(&parts.collect::<Vec<_>>(), 0))
    };
    let samples: Vec<i64> = own.samples.iter().map(|&i| i as i64).collect();
    let samples = Vec::<i64>::try_from(all(&Tensor::from_slice(&samples))?)?;
    Ok(FeatureSet {
        features: all(&own.features)?,
        labels: all(&own.labels)?,
        samples: samples.into_iter().map(|i| i as usize).collect(),
    })
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
