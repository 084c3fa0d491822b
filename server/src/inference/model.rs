//! What is known about a model, and a model that is being served.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use occlude_contract::InputKind;
use occlude_preprocess::Preprocess;
use occlude_retrieval::Spec;

use crate::config::{Limits, Seconds};
use crate::gallery::Gallery;
use crate::inference::batcher::{Batcher, Batching};
use crate::inference::encode::Encode;
use crate::inference::rule::MapRule;
use crate::observe::metrics::Metrics;

/// Everything about a model that answers and pages show.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// As configured, or the file's name.
    pub name: String,
    /// Hash over weights and preprocessing.
    pub fingerprint: String,
    /// Hash over all that changes the numbers: precision, quantisation and outputs, too. Vectors compare where it is
    /// the same.
    pub identity: String,
    /// Architecture.
    pub encoder: String,
    /// How it was trained.
    pub method: Option<String>,
    /// Licence of the weights.
    pub licence: Option<String>,
    /// File that it was exported from.
    pub checkpoint: Option<String>,
    /// How pictures become its input.
    pub contract: Preprocess,
    /// What the graph takes.
    pub input: InputKind,
    /// Length of the embedding.
    pub dim: usize,
    /// Least cosine between the stored answers for the golden picture and those of every worker, alone and within
    /// batches; none for a model without a golden picture, whose answers nobody has checked.
    pub golden: Option<f64>,
    /// Whether the model has an output for [`crate::Features`].
    pub features: bool,
    /// Whether it has a saliency map at all; models of other projects have none.
    pub maps: bool,
    /// How its saliency is made.
    pub rule: MapRule,
    /// Whether it has the channel sum as an output beside its saliency.
    pub sum: bool,
    /// Execution provider that runs it, in ONNX Runtime's name without `ExecutionProvider`.
    pub provider: String,
}

impl ModelInfo {
    /// A collection for its vectors.
    pub(crate) fn spec(&self) -> Spec {
        Spec {
            dim: self.dim,
            fingerprint: self.fingerprint.clone(),
            identity: Some(self.identity.clone()),
            model: self.name.clone(),
            metric: Default::default(),
        }
    }
}

/// A model with its queue and workers.
pub struct Model {
    /// What is known about it.
    pub info: ModelInfo,
    /// When it was started.
    pub(crate) loaded: SystemTime,
    /// Its queue.
    pub(crate) batcher: Batcher,
    /// The pictures that it indexed. A request that began with a model searches what is the model's, whatever is
    /// loaded meanwhile.
    gallery: OnceLock<Arc<Gallery>>,
}

impl Model {
    /// Pictures that wait for a batch.
    pub fn waiting(&self) -> usize {
        self.batcher.depth()
    }

    /// Gives the model what to search; the first gallery stays.
    pub(crate) fn attach(&self, gallery: &Arc<Gallery>) {
        let _ = self.gallery.set(Arc::clone(gallery));
    }

    pub(crate) fn gallery(&self) -> Option<&Arc<Gallery>> {
        self.gallery.get()
    }

    /// Starts a worker for each encoder.
    pub fn start(
        info: ModelInfo,
        encoders: Vec<Box<dyn Encode>>,
        limits: &Limits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let metrics = metrics.of_model(&info.name);
        let how = Batching {
            // Admission bounds what requests queue, twice that where pictures come with their mirror images; the
            // gallery's own pictures come on top while it is indexed.
            capacity: 2 * limits.max_queue + 8 * limits.max_batch,
            max_batch: limits.max_batch,
            max_delay: limits.max_delay,
            max_wait: limits.max_wait.map(Seconds::time),
        };
        let batcher = Batcher::start(encoders, how, metrics);
        Self { info, loaded: SystemTime::now(), batcher, gallery: OnceLock::new() }
    }
}
