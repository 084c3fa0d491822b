//! Projection heads.

use serde::{Deserialize, Serialize};

/// The projection head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Length of a projection.
    pub dim: usize,
    /// Width of the hidden layer; absent: the encoder's feature length.
    pub hidden: Option<usize>,
    /// Batch normalisation after the hidden layer.
    pub bn: bool,
    /// Batch normalisation of the projection, without a shift or a scale of its own.
    #[serde(default, skip_serializing_if = "is_false")]
    pub output_bn: bool,
}

/// What is not there has always been so.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_false(value: &bool) -> bool {
    !*value
}
