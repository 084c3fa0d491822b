//! The messages of `milvus.proto.milvus.MilvusService`, as far as they are written or read here; fields that are not here are
//! skipped, as the encoding has it. <https://github.com/milvus-io/milvus-proto>
//!
//! They are written down and not generated: nobody who builds this needs `protoc`.

use prost::{Message, Oneof};

/// `DataType`.
pub(super) mod data_type {
    pub(in crate::milvus) const INT64: i32 = 5;
    pub(in crate::milvus) const VARCHAR: i32 = 21;
    pub(in crate::milvus) const ARRAY: i32 = 22;
    pub(in crate::milvus) const JSON: i32 = 23;
    pub(in crate::milvus) const FLOAT_VECTOR: i32 = 101;
}

/// `ConsistencyLevel`.
pub(super) mod consistency {
    pub(in crate::milvus) const STRONG: i32 = 0;
    pub(in crate::milvus) const CUSTOMIZED: i32 = 4;
}

/// `LoadStateLoaded`.
pub(super) const LOADED: i32 = 3;
/// `BoolExprV1` of `DslType`.
pub(super) const EXPRESSION: i32 = 1;

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValuePair {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

impl KeyValuePair {
    pub(super) fn new(key: &str, value: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: value.into() }
    }
}

/// How a call ended; all zero where it succeeded.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub(super) error_code: i32,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

/// Requests that name a collection, and nothing else: to describe, drop and load it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    /// A [`CollectionSchema`].
    #[prost(bytes = "vec", tag = "4")]
    pub(super) schema: Vec<u8>,
    #[prost(int32, tag = "5")]
    pub(super) shards_num: i32,
    #[prost(int32, tag = "6")]
    pub(super) consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CollectionSchema {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
    #[prost(message, repeated, tag = "4")]
    pub(super) fields: Vec<FieldSchema>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldSchema {
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(bool, tag = "3")]
    pub(super) is_primary_key: bool,
    #[prost(int32, tag = "5")]
    pub(super) data_type: i32,
    #[prost(message, repeated, tag = "6")]
    pub(super) type_params: Vec<KeyValuePair>,
    #[prost(int32, tag = "10")]
    pub(super) element_type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeCollectionResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(super) schema: Option<CollectionSchema>,
    #[prost(message, repeated, tag = "13")]
    pub(super) properties: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ShowCollectionsRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ShowCollectionsResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(string, repeated, tag = "2")]
    pub(super) collection_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AlterCollectionRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) properties: Vec<KeyValuePair>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateIndexRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) field_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) extra_params: Vec<KeyValuePair>,
    #[prost(string, tag = "6")]
    pub(super) index_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DescribeIndexResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(super) index_descriptions: Vec<IndexDescription>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct IndexDescription {
    #[prost(int64, tag = "5")]
    pub(super) indexed_rows: i64,
    #[prost(int64, tag = "6")]
    pub(super) total_rows: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetLoadStateRequest {
    #[prost(string, tag = "2")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) db_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetLoadStateResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(int32, tag = "2")]
    pub(super) state: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct UpsertRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) fields_data: Vec<FieldData>,
    #[prost(uint32, tag = "7")]
    pub(super) num_rows: u32,
}

/// A column.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FieldData {
    #[prost(int32, tag = "1")]
    pub(super) data_type: i32,
    #[prost(string, tag = "2")]
    pub(super) field_name: String,
    #[prost(oneof = "Field", tags = "3, 4")]
    pub(super) field: Option<Field>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Field {
    #[prost(message, tag = "3")]
    Scalars(ScalarField),
    #[prost(message, tag = "4")]
    Vectors(VectorField),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScalarField {
    #[prost(oneof = "Scalars", tags = "3, 6, 8, 9")]
    pub(super) data: Option<Scalars>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Scalars {
    #[prost(message, tag = "3")]
    Long(LongArray),
    #[prost(message, tag = "6")]
    String(StringArray),
    #[prost(message, tag = "8")]
    Array(ArrayArray),
    #[prost(message, tag = "9")]
    Json(JsonArray),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LongArray {
    #[prost(int64, repeated, tag = "1")]
    pub(super) data: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StringArray {
    #[prost(string, repeated, tag = "1")]
    pub(super) data: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ArrayArray {
    #[prost(message, repeated, tag = "1")]
    pub(super) data: Vec<ScalarField>,
    #[prost(int32, tag = "2")]
    pub(super) element_type: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct JsonArray {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) data: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct VectorField {
    #[prost(int64, tag = "1")]
    pub(super) dim: i64,
    #[prost(message, optional, tag = "2")]
    pub(super) float_vector: Option<FloatArray>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FloatArray {
    #[prost(float, repeated, tag = "1")]
    pub(super) data: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "5")]
    pub(super) expr: String,
}

/// Of an upsert and a deletion.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MutationResult {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(uint32, repeated, tag = "4")]
    pub(super) err_index: Vec<u32>,
    /// When it happened, by the cluster's clock.
    #[prost(uint64, tag = "9")]
    pub(super) timestamp: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    #[prost(string, tag = "4")]
    pub(super) expr: String,
    #[prost(string, repeated, tag = "5")]
    pub(super) output_fields: Vec<String>,
    #[prost(uint64, tag = "8")]
    pub(super) guarantee_timestamp: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) query_params: Vec<KeyValuePair>,
    #[prost(int32, tag = "11")]
    pub(super) consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct QueryResults {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(super) fields_data: Vec<FieldData>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, tag = "3")]
    pub(super) collection_name: String,
    /// The expression that says which rows are looked at.
    #[prost(string, tag = "5")]
    pub(super) dsl: String,
    /// A [`PlaceholderGroup`].
    #[prost(bytes = "vec", tag = "6")]
    pub(super) placeholder_group: Vec<u8>,
    #[prost(int32, tag = "7")]
    pub(super) dsl_type: i32,
    #[prost(message, repeated, tag = "9")]
    pub(super) search_params: Vec<KeyValuePair>,
    #[prost(uint64, tag = "11")]
    pub(super) guarantee_timestamp: u64,
    #[prost(int64, tag = "12")]
    pub(super) nq: i64,
    #[prost(int32, tag = "14")]
    pub(super) consistency_level: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PlaceholderGroup {
    #[prost(message, repeated, tag = "1")]
    pub(super) placeholders: Vec<PlaceholderValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PlaceholderValue {
    #[prost(string, tag = "1")]
    pub(super) tag: String,
    #[prost(int32, tag = "2")]
    pub(super) data_type: i32,
    /// Vectors as little-endian bytes.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) values: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchResults {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(super) results: Option<SearchResultData>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SearchResultData {
    #[prost(float, repeated, tag = "4")]
    pub(super) scores: Vec<f32>,
    #[prost(message, optional, tag = "5")]
    pub(super) ids: Option<Ids>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ids {
    #[prost(message, optional, tag = "2")]
    pub(super) str_id: Option<StringArray>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlushRequest {
    #[prost(string, tag = "2")]
    pub(super) db_name: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) collection_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetVersionRequest {}

/// Answers of which only the status matters here, or the text behind it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Answer {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetVersionResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

/// What comes back of a call.
pub(super) trait Answered: Message + Default + 'static {
    /// How it ended.
    fn status(&self) -> Option<&Status>;
}

macro_rules! answered {
    ($($message:ident),+) => {
        $(impl Answered for $message {
            fn status(&self) -> Option<&Status> {
                self.status.as_ref()
            }
        })+
    };
}

answered!(
    Answer,
    DescribeCollectionResponse,
    ShowCollectionsResponse,
    DescribeIndexResponse,
    GetLoadStateResponse,
    MutationResult,
    QueryResults,
    SearchResults,
    GetVersionResponse
);

impl Answered for Status {
    fn status(&self) -> Option<&Status> {
        Some(self)
    }
}
