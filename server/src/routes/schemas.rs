//! What the store's values look like as JSON: it has no words for OpenAPI of its own. Requests made from the document
//! hold these against what the server answers (tests/http/openapi.rs).
#![expect(dead_code, reason = "only their shapes are used")]

use serde_json::{Map, Value};
use utoipa::ToSchema;

/// [`occlude_retrieval::Info`].
#[derive(ToSchema)]
pub(super) struct Collection {
    name: String,
    /// Numbers in a vector.
    dim: usize,
    /// Of the model that makes the vectors: of its weights and preprocessing.
    fingerprint: String,
    /// Of all that changes its numbers, which is what is compared; null where an older release made the collection.
    identity: Option<String>,
    /// Name of that model.
    model: String,
    /// How vectors are compared: `cosine`.
    metric: String,
    /// Points in it.
    count: usize,
    /// Rows in the approximate index; 0 while all searches are exact.
    indexed: usize,
    /// Unix seconds.
    created: u64,
}

/// [`occlude_retrieval::Hit`].
#[derive(ToSchema)]
pub(super) struct Hit {
    id: String,
    /// Cosine with what was looked for.
    score: f32,
    /// Scaled to length 1, if it was asked for.
    #[schema(nullable = false)]
    vector: Option<Vec<f32>>,
    #[schema(nullable = false, value_type = Option<Object>)]
    payload: Option<Map<String, Value>>,
}

/// [`occlude_retrieval::Filter`]: all of `must`, none of `must_not`, one of `should` if there is any.
#[derive(ToSchema)]
pub(super) struct Filter {
    /// Conditions `{"key": .., "match" | "any" | "range" | "exists": ..}`, or filters.
    #[schema(nullable = false, value_type = Option<Vec<Object>>)]
    must: Option<Vec<Value>>,
    #[schema(nullable = false, value_type = Option<Vec<Object>>)]
    must_not: Option<Vec<Value>>,
    #[schema(nullable = false, value_type = Option<Vec<Object>>)]
    should: Option<Vec<Value>>,
}
