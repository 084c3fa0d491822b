//! What an evaluation says.

use occlude_checkpoint::EncoderData;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::classifier::COUNTER;
use super::pictures::PerPicture;
use super::protocol::Protocol;
use super::score::Scores;
use super::search::Search;
use super::split::Identity;
use crate::model::Encoder;

/// What was asked: a folder with another one is not gone on with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// `linear` or `finetune`.
    pub task: String,
    /// Fingerprint of the encoder's weights and its contract.
    pub fingerprint: String,
    /// The pictures.
    pub data: Identity,
    /// `fresh` or `cached`.
    pub views: String,
    /// Number format of training, `fp32` or `bf16`.
    pub precision: String,
    /// Settings.
    pub protocol: Protocol,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The checkpoint, as it was named.
    pub checkpoint: String,
    /// What was asked.
    #[serde(flatten)]
    pub question: Question,
    /// The learning rate of the classifier that was used.
    pub lr_used: f64,
    /// How it was found, with `--lr auto`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lr_search: Option<Search>,
    /// Mean cross-entropy of the last epoch.
    pub train_loss: f64,
    /// Validation pictures that could not be read and are not counted.
    pub unreadable: usize,
    /// Accuracies.
    #[serde(flatten)]
    pub scores: Scores,
    /// Of a frozen encoder: every weight and running statistic was compared with the checkpoint, bit by bit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub backbone_unchanged: Option<bool>,
    /// The file of the fine-tuned model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Which pictures were classified rightly, of a frozen encoder that was evaluated just now.
    #[serde(skip)]
    pub per_picture: Option<PerPicture>,
}

/// The counter of batches of a checkpoint's encoder.
pub(super) fn batches(weights: &occlude_checkpoint::Encoder<'_>) -> i64 {
    match weights.tensors.get(COUNTER).map(|t| &t.data) {
        Some(EncoderData::I64(count)) => *count,
        _ => 0,
    }
}

/// The tensors of `encoder` that are not, bit for bit, those of `weights`; running statistics and the counter of batches
/// included.
pub fn changed(encoder: &Encoder, weights: &occlude_checkpoint::Encoder<'_>) -> Vec<String> {
    let same = |name: &str, tensor: &Tensor| {
        if name.ends_with("num_batches_tracked") {
            // files of others may count every layer apart; ours count once
            return name != COUNTER || i64::try_from(tensor).ok() == Some(batches(weights));
        }
        let now = Vec::<f32>::try_from(tensor.to_kind(Kind::Float).contiguous().flatten(0, -1));
        let (Ok(now), Some(saved)) = (now, weights.f32(name)) else { return false };
        now.len() == saved.len() && now.iter().zip(saved.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    let all = encoder.named("").into_iter();
    all.filter(|n| !same(&n.name, &n.tensor.detach())).map(|n| n.name).collect()
}
