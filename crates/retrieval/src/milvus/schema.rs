//! Collections: what they are called, what they hold, and what is written down of the model that fills them.
//!
//! A collection is one of Milvus', whose description is a JSON object; the identity of a model that was told later is one of
//! its properties. Points have the fields `id`, `vector`, `payload` (the JSON as it came, which other clients can read and
//! filter by) and `facts` (what filters of this library see of it).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::Milvus;
use super::address::Index;
use super::facts::MAX;
use super::failure::{Attempt, Failure};
use super::message::{
    AlterCollectionRequest, Answer, CollectionRequest, CollectionSchema, CreateCollectionRequest,
    CreateIndexRequest, DescribeCollectionResponse, DescribeIndexResponse, FieldSchema, GetLoadStateRequest,
    GetLoadStateResponse, KeyValuePair, LOADED, ShowCollectionsRequest, ShowCollectionsResponse, Status,
    consistency, data_type,
};
use crate::check;
use crate::engine::{Info, Spec};
use crate::error::Error;

const VERSION: i64 = 1;
/// Property with the identity of a model that was told after a collection was made.
const IDENTITY: &str = "occlude.identity";
/// Most bytes of an id: those that this library takes.
const ID_BYTES: usize = check::MAX_ID_BYTES;
/// Links of a row in the index, and rows that are looked at to find them: as of the other engines.
const HNSW: &str = r#"{"M":16,"efConstruction":128}"#;
/// Longest that a new collection may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// What a collection's description holds.
#[derive(Serialize, Deserialize)]
struct Description {
    /// Version of the schema; by it a collection is known as one of ours.
    occlude: i64,
    #[serde(flatten)]
    spec: Spec,
    created: u64,
    index: Index,
    /// No two descriptions are the same: of two servers that make one collection, one is told that it is there.
    nonce: String,
}

/// A collection as it is at a moment.
pub(super) struct Known {
    pub(super) name: String,
    /// What Milvus calls it.
    pub(super) collection: String,
    pub(super) spec: Spec,
    created: u64,
    pub(super) index: Index,
}

/// What Milvus calls a collection: its names have no `-`.
fn called(prefix: &str, name: &str) -> String {
    format!("{prefix}_{}", name.replace('_', "__").replace('-', "_h"))
}

/// The name of a collection that is called so, where it is one of ours.
fn name_of(prefix: &str, called: &str) -> Option<String> {
    let (mut name, mut chars) = (String::new(), called.strip_prefix(prefix)?.strip_prefix('_')?.chars());
    while let Some(c) = chars.next() {
        name.push(match c {
            '_' => match chars.next()? {
                '_' => '_',
                'h' => '-',
                _ => return None,
            },
            c => c,
        });
    }
    check::name(&name).is_ok().then_some(name)
}

fn field(name: &str, data_type: i32, parameters: &[(&str, usize)]) -> FieldSchema {
    let type_params =
        parameters.iter().map(|(key, value)| KeyValuePair::new(key, value.to_string())).collect();
    FieldSchema { name: name.to_owned(), data_type, type_params, ..FieldSchema::default() }
}

impl Milvus {
    pub(super) fn request(&self, collection: &str) -> CollectionRequest {
        CollectionRequest { db_name: self.client.database(), collection_name: collection.to_owned() }
    }

    pub(super) async fn find(&self, name: &str) -> Attempt<Known> {
        let collection = called(&self.client.address.prefix, name);
        match self.client.call("DescribeCollection", self.request(&collection)).await {
            Ok(described) => self.known(name, collection, described),
            Err(failure) if failure.is_of_a_missing_collection() => Err(Error::no_collection(name).into()),
            Err(failure) => Err(failure),
        }
    }

    fn known(&self, name: &str, collection: String, described: DescribeCollectionResponse) -> Attempt<Known> {
        let text = described.schema.unwrap_or_default().description;
        let path = || format!("{}, collection {collection}", self.client.address).into();
        let Ok(Description { occlude, mut spec, created, index, .. }) = serde_json::from_str(&text) else {
            let reason = "its description is not one that this program wrote".to_owned();
            return Err(Error::Foreign { path: path(), reason }.into());
        };
        if occlude > VERSION {
            return Err(Error::Newer { path: path(), found: occlude, known: VERSION }.into());
        }
        let told = described.properties.into_iter().find(|property| property.key == IDENTITY);
        spec.identity = spec.identity.or_else(|| told.map(|property| property.value));
        Ok(Known { name: name.to_owned(), collection, spec, created, index })
    }

    /// What there is to know of a collection, which is loaded where it is not: another server may just be making it.
    async fn info_of(&self, name: &str) -> Attempt<Info> {
        let known = self.find(name).await?;
        match self.info(&known).await {
            Err(failure) if failure.is_of_what_is_not_loaded() => {
                self.make_ready(&known).await?;
                self.info(&known).await
            }
            done => done,
        }
    }

    pub(super) async fn info(&self, known: &Known) -> Attempt<Info> {
        let count = self.number(known, None, self.client.freshness()).await?;
        let indexed = self.indexed(known).await?.min(count);
        let (name, spec) = (known.name.clone(), known.spec.clone());
        Ok(Info { name, spec, count, indexed, created: known.created })
    }

    /// Rows in the approximate index.
    pub(super) async fn indexed(&self, known: &Known) -> Attempt<usize> {
        if known.index == Index::Flat {
            return Ok(0);
        }
        let index: DescribeIndexResponse =
            self.client.call("DescribeIndex", self.request(&known.collection)).await?;
        let rows = index.index_descriptions.first().map_or(0, |index| index.indexed_rows);
        Ok(usize::try_from(rows).unwrap_or(0))
    }

    /// Names of our collections.
    pub(super) async fn names(&self) -> Attempt<Vec<String>> {
        let request = ShowCollectionsRequest { db_name: self.client.database() };
        let shown: ShowCollectionsResponse = self.client.call("ShowCollections", request).await?;
        let prefix = &self.client.address.prefix;
        let mut names: Vec<String> =
            shown.collection_names.iter().filter_map(|called| name_of(prefix, called)).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) async fn all(&self) -> Attempt<Vec<Info>> {
        let of = async |name: String| match self.info_of(&name).await {
            Ok(info) => Ok(Some(info)),
            // Dropped meanwhile, or another program's under a name of ours.
            Err(Failure::Ours(Error::NoCollection { .. } | Error::Foreign { .. })) => Ok(None),
            Err(failure) if failure.is_of_a_missing_collection() => Ok(None),
            Err(failure) => Err(failure),
        };
        let mut all = Vec::new();
        // Each waits for the cluster's clock, some of them together.
        for names in self.names().await?.chunks(32) {
            all.extend(try_join_all(names.iter().cloned().map(of)).await?.into_iter().flatten());
        }
        Ok(all)
    }

    pub(super) async fn create(&self, name: &str, spec: &Spec) -> Attempt<Info> {
        let names = self.names().await?;
        if names.iter().any(|known| known == name) {
            return Err(Error::Exists { name: name.to_owned() }.into());
        }
        if names.len() >= check::MAX_COLLECTIONS {
            return Err(
                Error::Full { reason: format!("{} collections at most", check::MAX_COLLECTIONS) }.into()
            );
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nonce = format!("{:x}-{}", now.as_nanos(), std::process::id());
        let index = self.client.address.index;
        let description =
            Description { occlude: VERSION, spec: spec.clone(), created: now.as_secs(), index, nonce };
        let collection = called(&self.client.address.prefix, name);
        let schema = CollectionSchema {
            name: collection.clone(),
            description: serde_json::to_string(&description).unwrap_or_default(),
            fields: vec![
                FieldSchema {
                    is_primary_key: true,
                    ..field("id", data_type::VARCHAR, &[("max_length", ID_BYTES)])
                },
                field("vector", data_type::FLOAT_VECTOR, &[("dim", spec.dim)]),
                field("payload", data_type::JSON, &[]),
                FieldSchema {
                    element_type: data_type::INT64,
                    ..field("facts", data_type::ARRAY, &[("max_capacity", MAX)])
                },
            ],
        };
        let request = CreateCollectionRequest {
            db_name: self.client.database(),
            collection_name: collection.clone(),
            schema: schema.encode_to_vec(),
            // One log: what is written at once is read in order.
            shards_num: 1,
            consistency_level: consistency::STRONG,
        };
        match self.client.call::<_, Status>("CreateCollection", request).await {
            Err(failure) if failure.is_of_a_taken_name() => {
                return Err(Error::Exists { name: name.to_owned() }.into());
            }
            done => done?,
        };
        let known = self.find(name).await?;
        self.make_ready(&known).await?;
        self.info(&known).await
    }

    /// Makes a collection's index, and has it loaded, where that is not so.
    pub(super) async fn make_ready(&self, known: &Known) -> Attempt<()> {
        let collection = known.collection.as_str();
        let (kind, parameters) = match known.index {
            Index::Hnsw => ("HNSW", HNSW),
            Index::Flat => ("FLAT", "{}"),
        };
        let parameters = [("index_type", kind), ("metric_type", "IP"), ("params", parameters)];
        let index = CreateIndexRequest {
            db_name: self.client.database(),
            collection_name: collection.to_owned(),
            field_name: "vector".to_owned(),
            extra_params: parameters.map(|(key, value)| KeyValuePair::new(key, value)).into(),
            index_name: "vector".to_owned(),
        };
        let _: Status = self.client.call("CreateIndex", index).await?;
        let _: Status = self.client.call("LoadCollection", self.request(collection)).await?;
        let state =
            GetLoadStateRequest { collection_name: collection.to_owned(), db_name: self.client.database() };
        let began = Instant::now();
        loop {
            let found: GetLoadStateResponse = self.client.call("GetLoadState", state.clone()).await?;
            if found.state == LOADED {
                return Ok(());
            }
            if began.elapsed() > READY {
                let (server, reason) =
                    (self.client.address.to_string(), format!("`{collection}` is still being loaded"));
                return Err(Error::Unavailable { server, reason }.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn drop_one(&self, name: &str) -> Attempt<()> {
        let known = self.find(name).await?;
        let _: Status = self.client.call("DropCollection", self.request(&known.collection)).await?;
        Ok(())
    }

    pub(super) async fn note_identity(&self, name: &str, spec: &Spec) -> Attempt<Info> {
        let known = self.find(name).await?;
        let there = &known.spec;
        if (&there.fingerprint, there.dim) != (&spec.fingerprint, spec.dim) {
            let (expected, found) = (there.maker().to_owned(), spec.maker().to_owned());
            return Err(Error::Fingerprint { collection: name.to_owned(), expected, found }.into());
        }
        match (&there.identity, &spec.identity) {
            (Some(known), Some(told)) if known != told => {
                return Err(there.other_maker(name, told).into());
            }
            (None, Some(told)) => {
                let request = AlterCollectionRequest {
                    db_name: self.client.database(),
                    collection_name: known.collection.clone(),
                    properties: vec![KeyValuePair::new(IDENTITY, told.clone())],
                };
                let _: Status = self.client.call("AlterCollection", request).await?;
            }
            _ => {}
        }
        let known = self.find(name).await?;
        self.info(&known).await
    }

    /// Has what was written so far put into segments of its own, which are indexed.
    pub(super) async fn seal(&self, known: &Known) -> Attempt<()> {
        let request = super::message::FlushRequest {
            db_name: self.client.database(),
            collection_names: vec![known.collection.clone()],
        };
        let _: Answer = self.client.call("Flush", request).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in ["a", "shop-2_x", "_", "-", "__h", "_-h_", "h-_"] {
            let called = called("occlude", name);
            assert!(called.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{called}");
            assert_eq!(name_of("occlude", &called).as_deref(), Some(name));
        }
        for other in ["occlude", "occludes_a", "occlude_a_b", "occlude_a_", "occlude_A", "x", "occlude_"] {
            assert_eq!(name_of("occlude", other), None, "{other}");
        }
    }
}
