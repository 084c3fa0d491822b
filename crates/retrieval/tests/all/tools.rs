//! What the tests share.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use occlude_retrieval::{Engine, Filter, Location, Metric, Options, Point, Query, Spec, Store, With};
use serde_json::{Map, Value};

pub(crate) const PRINT: &str = "5eed";

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(dir, &Options::default()).unwrap()
}

/// Where a test keeps its collections.
pub(crate) struct Home {
    /// As a user names it.
    location: OsString,
    _folder: Option<tempfile::TempDir>,
}

impl Home {
    /// A folder: SQLite.
    pub(crate) fn folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { location: folder.path().into(), _folder: Some(folder) }
    }

    /// A database: PostgreSQL, or Milvus.
    #[cfg(any(feature = "milvus", feature = "postgres"))]
    pub(crate) fn database(url: String) -> Self {
        Self { location: url.into(), _folder: None }
    }

    pub(crate) fn open(&self) -> Arc<dyn Engine> {
        self.open_with(&Options::default())
    }

    /// With an approximate index from the first row on, once it is made.
    pub(crate) fn approximate(&self) -> Arc<dyn Engine> {
        self.open_with(&Options { exact_numbers: 0, ..Options::default() })
    }

    pub(crate) fn open_with(&self, options: &Options) -> Arc<dyn Engine> {
        Location::parse(&self.location).unwrap().open(options).unwrap()
    }
}

/// Each of these functions is a test of every engine, and takes the home of its collections.
macro_rules! of_every_engine {
    ($($name:ident),+ $(,)?) => {
        of_engines_with_transactions!($($name),+);

        #[cfg(feature = "milvus")]
        mod milvus {
            $(#[test]
            fn $name() {
                let Some(server) = crate::cluster::shared() else { return };
                super::$name(&crate::tools::Home::database(server.url()));
            })+
        }
    };
}

/// Likewise, of those that show others a change wholly or not at all.
macro_rules! of_engines_with_transactions {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test]
            fn $name() {
                super::$name(&crate::tools::Home::folder());
            })+
        }

        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test]
            fn $name() {
                let Some(cluster) = crate::database::shared() else { return };
                super::$name(&crate::tools::Home::database(cluster.url()));
            })+
        }
    };
}

pub(crate) use {of_engines_with_transactions, of_every_engine};

/// A store whose collections have an approximate index from the first row on.
pub(crate) fn approximate(dir: &Path) -> Store {
    Store::open(dir, &Options { exact_numbers: 0, ..Options::default() }).unwrap()
}

pub(crate) fn spec(dim: usize) -> Spec {
    Spec { dim, fingerprint: PRINT.into(), identity: None, model: "resnet50".into(), metric: Metric::Cosine }
}

pub(crate) fn payload(value: Value) -> Map<String, Value> {
    let Value::Object(map) = value else { panic!("no object: {value}") };
    map
}

pub(crate) fn point(id: &str, vector: &[f32], value: Value) -> Point {
    Point { id: id.to_owned(), vector: vector.to_vec(), payload: payload(value) }
}

pub(crate) fn filter(value: Value) -> Filter {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn ids(store: &dyn Engine, name: &str, query: &Query) -> Vec<String> {
    store.search(name, PRINT, query).unwrap().into_iter().map(|h| h.id).collect()
}

pub(crate) const ALL: With = With { vector: true, payload: true };

/// A vector scaled to length 1, as the documentation says.
pub(crate) fn unit(vector: &[f32]) -> Vec<f32> {
    let mut sum = 0f64;
    for v in vector {
        sum += f64::from(*v) * f64::from(*v);
    }
    vector.iter().map(|v| (f64::from(*v) / sum.sqrt()) as f32).collect()
}

/// A small generator (xorshift64*): tests are to see the same numbers every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound
    }

    pub(crate) fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// About normal: the sum of six.
    pub(crate) fn normal(&mut self) -> f32 {
        ((0..6).map(|_| self.uniform()).sum::<f32>() - 3.0) * std::f32::consts::SQRT_2
    }

    pub(crate) fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.normal()).collect()
    }
}

/// Vectors around centres, as embeddings of classes lie.
pub(crate) struct Clusters {
    random: Random,
    centres: Vec<Vec<f32>>,
    spread: f32,
}

impl Clusters {
    pub(crate) fn new(seed: u64, count: usize, dim: usize, spread: f32) -> Self {
        let mut random = Random(seed);
        let centres = (0..count).map(|_| random.vector(dim)).collect();
        Self { random, centres, spread }
    }

    pub(crate) fn next(&mut self) -> Vec<f32> {
        let centre = self.random.below(self.centres.len());
        let (random, spread) = (&mut self.random, self.spread);
        self.centres[centre].iter().map(|c| c + spread * random.normal()).collect()
    }
}
