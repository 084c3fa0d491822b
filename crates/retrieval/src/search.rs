//! Searching one collection: exactly where that is cheap, else by candidates that are compared exactly.

use std::sync::Mutex;

use crate::candidates::candidates;
use crate::collection::Collection;
use crate::database::Database;
use crate::engine::{Hit, Query, Target};
use crate::error::{Error, Result};
use crate::filter::Filter;
use crate::lock::{lock, read};
use crate::rows::{Row, Rows, TopRows};
use crate::top::{Found, Top};
use crate::{check, engine::With};

/// A candidate costs as much as so many rows that are compared in order, links and jumps in memory included:
/// measured at 100,000 rows of 512 numbers.
const COST: usize = 40;
/// Looks for hits whose payloads are there when they are read.
const ATTEMPTS: usize = 4;

/// A search that makes sense, with its filter's matches at hand.
struct Search<'a> {
    collection: &'a Collection,
    query: &'a [f32],
    k: usize,
    /// The point that the search goes out from.
    except: Option<&'a str>,
    matching: Option<&'a [i64]>,
}

/// Searches. `writer` is whom a search waits for that others' writing has overtaken; `exact_numbers`: comparing with so many
/// numbers of rows is cheap.
pub(crate) fn search(
    collection: &Collection,
    query: &Query,
    database: &Database,
    writer: &Mutex<Database>,
    exact_numbers: usize,
) -> Result<Vec<Hit>> {
    check::within("`k`", query.k, check::MAX_K)?;
    let (target, except) = match &query.target {
        Target::Vector(vector) => (check::target(vector, collection.dim())?, None),
        Target::Id(id) => (stored(collection, id, database)?, Some(id.as_str())),
    };
    // A point that a search finds in memory may be replaced or deleted before its payload is read: the next attempt finds
    // what is there then. During the last one nobody writes.
    for attempt in 1..=ATTEMPTS {
        let held = (attempt == ATTEMPTS).then(|| lock(writer));
        let base = Search { collection, query: &target, k: query.k, except, matching: None };
        let found = collection.at_once(
            filter(query),
            database,
            held.is_none().then_some(writer),
            |matching| if query.exact { None } else { base.among(matching).near(exact_numbers) },
            |rows, matching, near| base.among(matching).run(rows, near, query.with.vector),
        )?;
        let wanted = found.len();
        let hits = with_payloads(found, query.with, database)?;
        if hits.len() == wanted || attempt == ATTEMPTS {
            return Ok(hits);
        }
    }
    Ok(Vec::new())
}

fn filter(query: &Query) -> Option<&Filter> {
    query.filter.as_ref().filter(|f| !f.is_empty())
}

fn stored(collection: &Collection, id: &str, database: &Database) -> Result<Vec<f32>> {
    let none = || Error::NoPoint { collection: collection.stored.name.clone(), id: id.to_owned() };
    // from the file: memory may lag behind a commit
    database.vector_of(collection.stored.uid, id, collection.dim())?.ok_or_else(none)
}

/// A hit with its row's number.
type Numbered = (i64, Hit);

fn with_payloads(found: Vec<Numbered>, with: With, database: &Database) -> Result<Vec<Hit>> {
    let mut hits = Vec::with_capacity(found.len());
    for (seq, mut hit) in found {
        if with.payload {
            let Some(payload) = database.payload(seq)? else { continue };
            hit.payload = Some(payload);
        }
        hits.push(hit);
    }
    Ok(hits)
}

impl<'a> Search<'a> {
    /// The same among the rows of those numbers.
    fn among<'b>(&self, matching: Option<&'b [i64]>) -> Search<'b>
    where
        'a: 'b,
    {
        Search { matching, ..*self }
    }

    /// `near`: what [`Self::near`] gave.
    fn run(&self, rows: &Rows, near: Option<(Vec<i64>, i64)>, vectors: bool) -> Vec<Numbered> {
        let approximate = near.and_then(|(seqs, upto)| self.approximate(rows, &seqs, upto));
        let top = approximate.unwrap_or_else(|| self.exact(rows));
        let hit = |Found { score, id, what: row }: Found<&str, Row<'_>>| {
            let vector = vectors.then(|| row.vector.to_vec());
            (row.seq, Hit { id: id.to_owned(), score, vector, payload: None })
        };
        top.sorted().into_iter().map(hit).collect()
    }

    /// Candidates and up to which row the index has them all; `None` where comparing with all is cheaper.
    fn near(&self, exact_numbers: usize) -> Option<(Vec<i64>, i64)> {
        let rows = read(&self.collection.rows).len();
        let matching = self.matching.map_or(rows, <[i64]>::len).min(rows);
        if matching.saturating_mul(self.collection.dim()) <= exact_numbers {
            return None;
        }
        let ann = read(&self.collection.ann);
        let ann = ann.as_ref()?;
        // of the rows in the index, so many are still there and match
        let share = (ann.len().max(1) as f64 / matching.max(1) as f64).max(1.0);
        let wanted = (candidates(self.k, rows) as f64 * share) as usize;
        if wanted.saturating_mul(COST) > matching {
            return None;
        }
        // an index that fails is as good as none
        ann.near(self.query, wanted).ok().map(|seqs| (seqs, ann.upto()))
    }

    /// `None` if there are fewer candidates left than hits wanted.
    fn approximate<'r>(&self, rows: &'r Rows, seqs: &[i64], upto: i64) -> Option<TopRows<'r>> {
        let mut top = Top::new(self.k);
        let matches = |seq: i64| self.matching.is_none_or(|m| m.binary_search(&seq).is_ok());
        for row in seqs.iter().filter(|seq| matches(**seq)).filter_map(|seq| rows.get(*seq)) {
            self.show(row, &mut top);
        }
        if top.len() < self.k {
            return None;
        }
        for row in rows.after(upto).filter(|row| matches(row.seq)) {
            self.show(row, &mut top);
        }
        Some(top)
    }

    fn exact<'r>(&self, rows: &'r Rows) -> TopRows<'r> {
        let mut top = Top::new(self.k);
        match self.matching {
            Some(seqs) => rows.among(seqs).for_each(|row| self.show(row, &mut top)),
            None => rows.after(0).for_each(|row| self.show(row, &mut top)),
        }
        top
    }

    fn show<'r>(&self, row: Row<'r>, top: &mut TopRows<'r>) {
        if self.except != Some(row.id) {
            row.show(self.query, top);
        }
    }
}
