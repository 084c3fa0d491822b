//! Evaluation of encoders: features by the preprocessing contract, nearest neighbours.

mod features;
mod knn;

pub use features::{Extractor, FeatureSet};
pub use knn::{Scores, knn};
