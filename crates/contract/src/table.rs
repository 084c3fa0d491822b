//! Columns and metadata of a table of embeddings: a Parquet file of `occlude-serve embed` or `occlude-train embed`.

/// Column: path or name of the picture.
pub const PATH: &str = "path";
/// Column: the embedding, a list of float32.
pub const EMBEDDING: &str = "embedding";
/// Column of sharded tables: why there is no embedding.
pub const REASON: &str = "reason";
/// Metadata of a file of a sharded table: what tells whether its shard has changed since.
pub const INPUT: &str = "occlude.input";
/// Metadata of the file: fingerprint of the encoder.
pub const FINGERPRINT: &str = "occlude.fingerprint";
/// Metadata of the file: [`IDENTITY`](crate::key::IDENTITY) of the model.
pub const IDENTITY: &str = crate::key::IDENTITY;
/// Metadata of the file: name of the model.
pub const MODEL: &str = "occlude.model";
