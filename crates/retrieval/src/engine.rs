//! What a server needs of a vector store, and the values that go in and out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::filter::Filter;

/// How vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cosine of the angle: -1..1, larger is more alike. Vectors are stored scaled to length 1.
    #[default]
    Cosine,
}

/// What a new collection is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Numbers in a vector, 1 to [`MAX_DIM`](crate::MAX_DIM).
    pub dim: usize,
    /// Fingerprint of the model that makes the vectors: of its weights and preprocessing, for people.
    pub fingerprint: String,
    /// Identity of that model: of all that changes its numbers, precision included. None where a release without
    /// identities made the collection.
    #[serde(default)]
    pub identity: Option<String>,
    /// Name of that model, for people.
    pub model: String,
    /// How vectors are compared.
    #[serde(default)]
    pub metric: Metric,
}

impl Spec {
    /// What vectors are compared by: the identity, or the fingerprint where that is all that is known.
    pub fn maker(&self) -> &str {
        self.identity.as_deref().unwrap_or(&self.fingerprint)
    }

    /// Refuses vectors of another model than `collection`'s.
    #[cfg(any(feature = "milvus", feature = "postgres"))]
    pub(crate) fn check_maker(&self, collection: &str, maker: &str) -> Result<()> {
        if self.maker() == maker { Ok(()) } else { Err(self.other_maker(collection, maker)) }
    }

    /// Why vectors of `maker` are refused where this is what a collection was made for: it is of another model, or
    /// nobody knows of which.
    pub(crate) fn other_maker(&self, collection: &str, maker: &str) -> Error {
        let collection = collection.to_owned();
        match self.identity {
            None => Error::Unidentified { collection, fingerprint: self.fingerprint.clone() },
            Some(_) => {
                Error::Fingerprint { collection, expected: self.maker().to_owned(), found: maker.to_owned() }
            }
        }
    }
}

/// What there is to know of a collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// What it was made for.
    #[serde(flatten)]
    pub spec: Spec,
    /// Points in it.
    pub count: usize,
    /// Rows in the approximate index, replaced and deleted ones included; 0 while all searches are exact.
    pub indexed: usize,
    /// Seconds since 1970.
    pub created: u64,
}

/// A vector with its name and what is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// 1 to [`MAX_ID_BYTES`](crate::MAX_ID_BYTES) bytes, unique within the collection.
    pub id: String,
    /// Of the collection's dimension, finite, of any length but 0.
    pub vector: Vec<f32>,
    /// Anything, up to [`MAX_PAYLOAD_BYTES`](crate::MAX_PAYLOAD_BYTES) as JSON.
    #[serde(default)]
    pub payload: Map<String, Value>,
}

/// What an upsert did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Upserted {
    /// Points that were not there.
    pub added: usize,
    /// Points that took another's place.
    pub replaced: usize,
}

/// What is wanted of a point beside its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct With {
    /// The vector, scaled to length 1.
    pub vector: bool,
    /// The payload.
    pub payload: bool,
}

impl Default for With {
    fn default() -> Self {
        Self { vector: false, payload: true }
    }
}

/// A stored point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// The vector, scaled to length 1, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// The payload, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Map<String, Value>>,
}

/// A part of a collection in the order of ids (of their bytes).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// Only ids larger than this one.
    pub after: Option<String>,
    /// Points at most, 1 to [`MAX_K`](crate::MAX_K).
    pub limit: usize,
    /// Only points that it matches.
    pub filter: Option<Filter>,
    /// What is wanted of each.
    pub with: With,
}

/// What a search looks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// What is like this vector.
    Vector(Vec<f32>),
    /// What is like this point, itself left out.
    Id(String),
}

/// A search.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// Like what.
    pub target: Target,
    /// Hits at most, 1 to [`MAX_K`](crate::MAX_K).
    pub k: usize,
    /// Only points that it matches.
    pub filter: Option<Filter>,
    /// Compare with every point, however many.
    pub exact: bool,
    /// What is wanted of each hit.
    pub with: With,
}

impl Query {
    /// The `k` points most like `vector`, with their payloads.
    pub fn vector(vector: Vec<f32>, k: usize) -> Self {
        Self { target: Target::Vector(vector), k, filter: None, exact: false, with: With::default() }
    }

    /// The `k` points most like the point `id`, with their payloads.
    pub fn id(id: impl Into<String>, k: usize) -> Self {
        Self { target: Target::Id(id.into()), ..Self::vector(Vec::new(), k) }
    }
}

/// A point that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hit {
    /// Its id.
    pub id: String,
    /// Cosine with what was looked for, -1..1.
    pub score: f32,
    /// The vector, scaled to length 1, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vec<f32>>,
    /// The payload, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Map<String, Value>>,
}

/// What [`Engine::maintain`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintained {
    /// Rows that went into an approximate index.
    pub indexed: usize,
    /// Indexes that were built anew, because too many of their rows are gone.
    pub rebuilt: usize,
    /// Indexes that were written to disk.
    pub saved: usize,
    /// Why some could not be: nothing is lost, but the next start builds them anew.
    pub failed: Vec<String>,
}

/// A store of vectors. Errors change nothing; what returned is there after a crash.
pub trait Engine: Send + Sync {
    /// Makes an empty collection. Names are 1 to 64 of `a-z`, `0-9`, `_` and `-`.
    fn create_collection(&self, name: &str, spec: &Spec) -> Result<Info>;

    /// [`Self::create_collection`], or the collection that is there already where it is for vectors of the same
    /// model; tells whether it is new. Of a collection without an identity nobody knows, and [`Self::adopt`] tells.
    fn ensure_collection(&self, name: &str, spec: &Spec) -> Result<(Info, bool)> {
        match self.create_collection(name, spec) {
            Ok(info) => Ok((info, true)),
            Err(Error::Exists { .. }) => {
                let there = self.collection(name)?;
                if there.spec.maker() == spec.maker() {
                    return Ok((there, false));
                }
                if there.spec.fingerprint == spec.fingerprint {
                    return Err(there.spec.other_maker(name, spec.maker()));
                }
                let (expected, found) = (there.spec.maker().to_owned(), spec.maker().to_owned());
                Err(Error::Fingerprint { collection: name.to_owned(), expected, found })
            }
            Err(error) => Err(error),
        }
    }

    /// Notes the identity of `spec` for a collection that has none, where fingerprint and dimension are the same: its
    /// vectors are said to be of that very model. Nothing happens where it has this identity already.
    fn adopt(&self, name: &str, spec: &Spec) -> Result<Info>;

    /// All collections, by name.
    fn collections(&self) -> Result<Vec<Info>>;

    /// One collection.
    fn collection(&self, name: &str) -> Result<Info>;

    /// Deletes a collection with all that is in it.
    fn drop_collection(&self, name: &str) -> Result<()>;

    /// Adds points, or puts them in the place of those with the same ids: all of them, or none. Of points with one
    /// id the last counts. `maker` is the identity of the model that made the vectors ([`Spec::maker`]).
    fn upsert(&self, name: &str, maker: &str, points: &[Point]) -> Result<Upserted>;

    /// Deletes the points with these ids; tells how many there were.
    fn delete(&self, name: &str, ids: &[String]) -> Result<usize>;

    /// Deletes the points that the filter matches; tells how many there were.
    fn delete_where(&self, name: &str, filter: &Filter) -> Result<usize>;

    /// The points with these ids, in the order asked; those that are not there are left out.
    fn get(&self, name: &str, ids: &[String], with: With) -> Result<Vec<Record>>;

    /// A page of points in the order of ids.
    fn scroll(&self, name: &str, page: &Page) -> Result<Vec<Record>>;

    /// How many points there are, or how many the filter matches.
    fn count(&self, name: &str, filter: Option<&Filter>) -> Result<usize>;

    /// What is most like the target, best first; of equal scores the smaller id first. `maker` is that of the target
    /// ([`Spec::maker`]); a search by id states it too.
    fn search(&self, name: &str, maker: &str, query: &Query) -> Result<Vec<Hit>>;

    /// Whether something can be written at present.
    fn probe(&self) -> Result<()>;

    /// Brings the approximate indexes up to date, and saves them where much is new. May take long: it asks `go_on`
    /// every few rows, and stops where that says no. Searches and writes go on meanwhile.
    fn maintain(&self, go_on: &(dyn Fn() -> bool + Sync)) -> Result<Maintained>;
}
