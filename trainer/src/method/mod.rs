//! Pretraining methods behind one trait: the engine knows nothing else of them.

#[cfg(test)]
mod fixture;
mod localise;
mod moco;
mod occluder;
mod simclr;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

pub use moco::{Keys, Moco};
pub use simclr::Simclr;

use crate::config::{self, Config};
use crate::loss::{Logits, pair_accuracy, similarities, spread};
use crate::model::{Encoder, Named};

/// What a method is told about the batch.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Batches worked on before this one, over all epochs.
    pub number: u64,
    /// The same in epochs, with a fraction.
    pub epoch: f64,
    /// Whether to keep the pictures that the step worked on.
    pub preview: bool,
    /// Whether to compute the metrics, of which most steps need none.
    pub measure: bool,
}

/// What a step gives.
#[derive(Debug)]
pub struct StepOutput {
    /// Scalar, with its graph.
    pub loss: Tensor,
    /// Named scalars, where asked for; on the device, so that reading them is the engine's choice.
    pub metrics: Vec<(&'static str, Tensor)>,
    /// Where asked for.
    pub preview: Option<Preview>,
}

/// The pictures of a step, for the first batch's picture file. All normalised as network input.
#[derive(Debug, Default)]
pub struct Preview {
    /// Column title and `(B, 3, S, S)`.
    pub columns: Vec<(&'static str, Tensor)>,
    /// Column title and foreground `(B, h, w)` of the view in the column of that index.
    pub foreground: Vec<(usize, Tensor)>,
}

/// A pretraining method: owns its networks, turns two views into a loss, is told when a step ended.
pub trait Method {
    /// The loss of a batch; `views` are normalised, `(B, 3, S, S)` each.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn step(&mut self, views: &[Tensor; 2], step: Step) -> Result<StepOutput>;

    /// Called when the optimiser has moved, after one batch or several: moving averages, queues.
    ///
    /// # Errors
    /// What libtorch refuses.
    fn after_step(&mut self, step: Step) -> Result<()>;

    /// What the optimiser moves.
    fn trainable(&self) -> Vec<Named>;

    /// Everything that a resumed run needs besides the optimiser.
    fn state(&self) -> Vec<Named>;

    /// Takes back a [`Self::state`].
    ///
    /// # Errors
    /// Where names or shapes differ.
    fn load_state(&mut self, state: &[Named]) -> Result<()>;

    /// The encoder that is evaluated and exported.
    fn encoder(&self) -> &Encoder;
}

/// The method that `config` asks for, with fresh networks on `device`. `bf16`: convolutions and matrix products in
/// bfloat16.
///
/// # Errors
/// Where the configuration names a localisation checkpoint that cannot be used.
pub fn build(config: &Config, bf16: bool, device: Device) -> Result<Box<dyn Method>> {
    Ok(match &config.method {
        config::Method::Moco(_) => Box::new(Moco::new(config, bf16, device)?),
        config::Method::Simclr(_) => Box::new(Simclr::new(config, bf16, device)?),
    })
}

fn show(preview: &mut Option<Preview>, title: &'static str, x: &Tensor) {
    if let Some(p) = preview {
        p.columns.push((title, x.shallow_clone()));
    }
}

/// The metrics of every contrastive method, of projections `(B, D)` and features of one view.
///
/// `acc1` is the accuracy among all negatives; `batch_acc1` among the batch's own keys, which nothing but
/// the pictures can raise; `feature_std` is 0 for a collapsed encoder and 1 for an ideal one.
fn contrast(l: &Logits, query: &Tensor, key: &Tensor, embedding: &Tensor) -> Vec<(&'static str, Tensor)> {
    let (positive, other) = similarities(query, key);
    vec![
        ("acc1", l.accuracy()),
        ("batch_acc1", pair_accuracy(query, key)),
        ("positive_similarity", positive),
        ("negative_similarity", other),
        ("feature_std", spread(embedding)),
    ]
}

/// The mean of each metric over the directions of a symmetric loss.
fn mean(mut parts: Vec<Vec<(&'static str, Tensor)>>) -> Vec<(&'static str, Tensor)> {
    if parts.len() <= 1 {
        return parts.pop().unwrap_or_default();
    }
    let names: Vec<&'static str> = parts.first().map_or_else(Vec::new, |p| p.iter().map(|m| m.0).collect());
    let of = |i: usize| parts.iter().map(|p| p[i].1.shallow_clone()).collect::<Vec<_>>();
    names.into_iter().enumerate().map(|(i, n)| (n, Tensor::stack(&of(i), 0).mean(Kind::Float))).collect()
}
