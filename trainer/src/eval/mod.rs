//! Evaluation of encoders: nearest neighbours, linear classifiers on frozen features, fine-tuning. What is said of them:
//! top-1, top-5 and mean per-class accuracy with intervals of 95 % confidence (docs/evaluation.md). And of their saliency
//! maps: how well they find what is known to be in pictures (docs/maps.md).

mod begin;
mod classifier;
mod features;
mod finetune;
mod folder;
mod knn;
mod linear;
pub mod localise;
mod pictures;
mod protocol;
mod report;
mod score;
mod search;
mod source;
mod split;
mod training;
mod whiten;

pub use begin::{Machine, Outcome, Subject};
pub use classifier::Classifier;
pub(crate) use features::{BATCH as FEATURE_BATCH, decode, network_input};
pub use features::{Extractor, FeatureSet};
pub use finetune::finetune;
pub use folder::Folder;
pub use knn::{Votes, knn, knn_ranks, knn_ranks_together, knn_scores};
pub use linear::{Views, linear};
pub use pictures::PerPicture;
pub use protocol::{Decay, FinetunePreset, LinearPreset, Lr, Overrides, Protocol};
pub use report::{Question, Report, changed};
pub use score::{Scores, wilson};
pub use search::Search;
pub use source::Reading;
pub use split::{Identity, Splits};
pub use whiten::{How, Moments, SHRINKAGE, Whitener, mean_cosine};
