//! The approximate index: proposes rows that may be near, never decides.

use std::path::Path;
use std::sync::{Condvar, Mutex};

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use crate::candidates;
use crate::vector::quantise;

/// Neighbours a node is linked with: `M` of the paper.
const CONNECTIVITY: usize = 16;
/// Candidates looked at when a node is linked: `efConstruction`.
pub(crate) const EXPANSION_ADD: usize = 128;

/// Searches at the same time. A further one waits: the library refuses it.
const SEARCHES: usize = 64;
/// Room that is made when there is none left, as a part of what there is.
const GROWTH: usize = 4;

/// An index of 8-bit vectors by their row's number in the database. Rows are never removed: those that are gone
/// are passed over by who asks, and the whole is built anew when they are many.
pub(crate) struct Ann {
    index: Index,
    /// Rows up to this number are inside, as far as they were there when their turn came.
    upto: i64,
    seats: Seats,
    /// Rows at the last save.
    saved: usize,
}

/// What a file holds, as the database remembers it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) dim: usize,
    pub(crate) rows: usize,
    pub(crate) upto: i64,
}

/// Which code writes and reads files: they are only read by the same.
pub(crate) fn format() -> String {
    format!("usearch {} i8 cos {CONNECTIVITY} {EXPANSION_ADD}", usearch::version())
}

impl Ann {
    /// With room for `rows` and some more.
    pub(crate) fn new(dim: usize, rows: usize) -> Result<Self, String> {
        let index = Index::new(&options(dim)).map_err(|e| e.to_string())?;
        let ann = Self { index, upto: 0, seats: Seats::new(SEARCHES), saved: 0 };
        ann.reserve(rows.max(64))?;
        Ok(ann)
    }

    fn reserve(&self, rows: usize) -> Result<(), String> {
        self.index.reserve_capacity_and_threads(rows, SEARCHES).map_err(|e| e.to_string())
    }

    /// Rows inside, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.index.size()
    }

    /// Rows up to this number are inside.
    pub(crate) fn upto(&self) -> i64 {
        self.upto
    }

    /// Rows that the last saved file lacks.
    pub(crate) fn unsaved(&self) -> usize {
        self.len().saturating_sub(self.saved)
    }

    /// The file has all there is.
    pub(crate) fn set_saved(&mut self, rows: usize) {
        self.saved = rows;
    }

    /// Adds a row; alone, without searches beside it.
    pub(crate) fn add(&mut self, seq: i64, vector: &[f32]) -> Result<(), String> {
        if self.index.capacity() <= self.index.size() {
            self.reserve(self.index.size() + self.index.size() / GROWTH + 64)?;
        }
        self.index.add(seq.cast_unsigned(), &quantise(vector)).map_err(|e| e.to_string())?;
        self.upto = seq;
        Ok(())
    }

    /// Adds rows in order of their numbers, on so many threads.
    pub(crate) fn add_all(&mut self, rows: &[(i64, Vec<f32>)], threads: usize) -> Result<(), String> {
        let [first, .., (last, _)] = rows else {
            return rows.iter().try_for_each(|(seq, vector)| self.add(*seq, vector));
        };
        // the first one alone: an empty index has nowhere to start from
        self.add(first.0, &first.1)?;
        let wanted = self.index.size() + rows.len();
        if self.index.capacity() < wanted {
            self.reserve(wanted + wanted / GROWTH + 64)?;
        }
        let index = &self.index;
        let add = |(seq, vector): &(i64, Vec<f32>)| {
            index.add(seq.cast_unsigned(), &quantise(vector)).map_err(|e| e.to_string())
        };
        let rest = rows.get(1..).unwrap_or_default();
        let each = rest.len().div_ceil(threads.clamp(1, SEARCHES));
        std::thread::scope(|scope| {
            let parts = rest.chunks(each).map(|part| scope.spawn(move || part.iter().try_for_each(add)));
            let parts: Vec<_> = parts.collect();
            parts
                .into_iter()
                .try_for_each(|p| p.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
        })?;
        self.upto = *last;
        Ok(())
    }

    /// Numbers of about `wanted` rows that may be nearest, those deleted since included.
    pub(crate) fn near(&self, query: &[f32], wanted: usize) -> Result<Vec<i64>, String> {
        if self.len() == 0 {
            return Ok(Vec::new());
        }
        let query = quantise(query);
        let _seat = self.seats.take();
        let found = self.index.search(&query, wanted.min(self.len())).map_err(|e| e.to_string())?;
        Ok(found.keys.into_iter().map(u64::cast_signed).collect())
    }

    /// Writes the index to a file.
    pub(crate) fn save(&self, path: &Path) -> Result<Shape, String> {
        let path = path.to_str().ok_or("the path is not UTF-8")?;
        self.index.save(path).map_err(|e| e.to_string())?;
        Ok(Shape { dim: self.index.dimensions(), rows: self.len(), upto: self.upto })
    }

    /// Reads a file that this code wrote: who calls has made sure that it did, bit for bit, for the library
    /// trusts what it reads.
    pub(crate) fn load(path: &Path, shape: &Shape) -> Result<Self, String> {
        let name = path.to_str().ok_or("the path is not UTF-8")?;
        let mut ann = Self::new(shape.dim, 0)?;
        ann.index.load(name).map_err(|e| e.to_string())?;
        let found = Shape { dim: ann.index.dimensions(), rows: ann.len(), upto: shape.upto };
        if found != *shape || ann.index.scalar_kind() != ScalarKind::I8 {
            return Err(format!("expected {shape:?}, found {found:?}"));
        }
        // what was set when the index was made is forgotten by loading
        ann.reserve(shape.rows + shape.rows / GROWTH + 64)?;
        ann.index.change_expansion_add(EXPANSION_ADD);
        ann.index.change_expansion_search(candidates::LEAST);
        ann.upto = shape.upto;
        ann.saved = shape.rows;
        Ok(ann)
    }
}

fn options(dim: usize) -> IndexOptions {
    IndexOptions {
        dimensions: dim,
        metric: MetricKind::Cos,
        quantization: ScalarKind::I8,
        connectivity: CONNECTIVITY,
        expansion_add: EXPANSION_ADD,
        expansion_search: candidates::LEAST,
        multi: false,
    }
}

/// So many may sit at once.
struct Seats {
    free: Mutex<usize>,
    left: Condvar,
}

struct Seat<'a>(&'a Seats);

impl Seats {
    fn new(free: usize) -> Self {
        Self { free: Mutex::new(free), left: Condvar::new() }
    }

    fn take(&self) -> Seat<'_> {
        let free = crate::lock::lock(&self.free);
        let waited = self.left.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
        Seat(self)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        *crate::lock::lock(&self.0.free) += 1;
        self.0.left.notify_one();
    }
}
