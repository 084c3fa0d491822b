//! The metadata keys of Occlude's own checkpoints. All values are strings.

/// Version of the layout of tensors and metadata; see [`FORMAT_VERSION`].
pub const FORMAT: &str = "occlude.format";
/// The value of [`FORMAT`] that this version writes.
pub const FORMAT_VERSION: &str = "1";
/// Architecture of the encoder, as [`occlude_encoder::Arch::name`] gives it.
pub const ARCH: &str = "occlude.arch";
/// Pretraining method: `saliency-moco`.
pub const METHOD: &str = "occlude.method";
/// What the names of the encoder that is meant begin with: `encoder_q.`. Absent in files of earlier versions.
pub const ENCODER: &str = "occlude.encoder";
/// The projection head behind it, as [`ProjectionHead`](crate::ProjectionHead) is written.
pub const PROJECTION: &str = "occlude.projection";
/// What the projections of single positions are divided by to make alignment maps (arXiv 2203.14898); absent where the
/// method makes none.
pub const ALIGNMENT: &str = "occlude.alignment";
/// The resolved configuration of the run, JSON.
pub const CONFIG: &str = "occlude.config";
/// Epochs completed.
pub const EPOCH: &str = "occlude.epoch";
/// Optimiser steps completed.
pub const STEP: &str = "occlude.step";
/// Metrics of the last epoch, JSON.
pub const METRICS: &str = "occlude.metrics";
/// What else a resumed run needs to know of where it stood, JSON.
pub const RUN: &str = "occlude.run";
/// What a run learns from and how many steps an epoch over it has, JSON.
pub const DATA: &str = "occlude.data";
/// Over how many batches of unmasked views the running statistics were estimated when training was over; absent: they are
/// those of training.
pub const BN_REFRESH: &str = "occlude.bn_refresh";
/// Fingerprint of what the encoder was distilled from; absent: it learnt from no other.
pub const TEACHER: &str = "occlude.teacher";
/// The preprocessing contract, JSON.
pub const PREPROCESS: &str = "occlude.preprocess";
/// SHA-256 over the query encoder's weights and the preprocessing contract; see
/// [`Encoder::fingerprint`](crate::Encoder::fingerprint).
pub const FINGERPRINT: &str = "occlude.fingerprint";
/// How the embeddings are whitened that the file has the tensors for, JSON; see [`Whitening`](crate::Whitening).
pub const WHITENING: &str = "occlude.whitening";
/// Version of Occlude that wrote the file.
pub const VERSION: &str = "occlude.version";
