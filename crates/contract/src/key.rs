//! Keys of the metadata of an ONNX file (`metadata_props`). All values are strings.

/// The preprocessing contract, JSON.
pub const PREPROCESS: &str = "preprocess";
/// Architecture of the encoder.
pub const ENCODER: &str = "encoder";
/// Pretraining method.
pub const METHOD: &str = "method";
/// SHA-256 over the encoder's weights and the contract: of the checkpoint, the same for every form of export.
pub const FINGERPRINT: &str = "fingerprint";
/// SHA-256 over all that changes what the model answers: precision, quantisation and outputs, too.
pub const IDENTITY: &str = "occlude.identity";
/// File name of the checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// Licence of the weights.
pub const LICENCE: &str = "licence";
/// `true` where embeddings have length one.
pub const NORMALIZED: &str = "normalized";
/// What whitens the embeddings, JSON.
pub const WHITENING: &str = "whitening";
/// Numbers that the encoder computes with: `fp32`, `fp16`, `int8`. Files of the first versions say nothing and are `fp32`.
pub const PRECISION: &str = "precision";
/// How the integers of `int8` came about, JSON.
pub const QUANTIZATION: &str = "quantization";
/// How the saliency map is made, JSON. Files of the first versions say nothing and have the channel sum.
pub const SALIENCY: &str = "saliency";
/// What of a vision transformer's tokens the embedding is; ResNets have none.
pub const POOL: &str = "pool";
/// What of another project's model became the embedding, JSON; models of Occlude have none.
pub const ADOPTED: &str = "adopted";
/// Version of Occlude that wrote the file.
pub const VERSION: &str = "occlude.version";
/// Golden picture: base64 of a PNG.
pub const GOLDEN_IMAGE: &str = "golden_image";
/// What the model answers for it: base64 of little-endian float32.
pub const GOLDEN_EMBEDDING: &str = "golden_embedding";
/// Its saliency map, likewise.
pub const GOLDEN_SALIENCY: &str = "golden_saliency";
/// What computed the answers: `checkpoint`, `onnxruntime`.
pub const GOLDEN_SOURCE: &str = "golden_source";
