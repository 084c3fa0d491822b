//! What only reads.

use std::collections::BTreeMap;

use super::Milvus;
use super::client::Freshness;
use super::facts::{among, expression, quoted};
use super::failure::Attempt;
use super::message::{KeyValuePair, QueryRequest, QueryResults};
use super::rows::{Columns, fields};
use super::schema::Known;
use crate::engine::{Page, Record, With};
use crate::error::Error;
use crate::filter::Filter;

/// Rows of an answer, at most: Milvus gives 16,384.
pub(super) const ROWS: usize = 10_000;
/// Numbers of an answer's vectors, about: 64 MB.
const NUMBERS: usize = 16 << 20;

impl Milvus {
    /// The rows for which an expression holds, in the order of ids, `limit` at most.
    pub(super) async fn rows(
        &self,
        known: &Known,
        expr: String,
        output_fields: Vec<String>,
        limit: Option<usize>,
        fresh: Freshness,
    ) -> Attempt<Columns> {
        let limit = limit.map(|limit| KeyValuePair::new("limit", limit.to_string()));
        // Without it a page may leave out rows of one segment that come before those of another; with it, it ends there.
        let ordered = KeyValuePair::new("reduce_stop_for_best", "true");
        let request = QueryRequest {
            db_name: self.client.database(),
            collection_name: known.collection.clone(),
            expr,
            output_fields,
            guarantee_timestamp: fresh.guarantee_timestamp,
            query_params: limit.into_iter().flat_map(|limit| [limit, ordered.clone()]).collect(),
            consistency_level: fresh.consistency_level,
        };
        let found: QueryResults = self.client.call("Query", request).await?;
        Ok(Columns::of(found.fields_data))
    }

    /// The points with these ids for which the condition holds, if there is one.
    pub(super) async fn by_ids(
        &self,
        known: &Known,
        ids: &[String],
        condition: Option<&str>,
        with: With,
        fresh: Freshness,
    ) -> Attempt<Vec<Record>> {
        let mut found = BTreeMap::new();
        for part in ids.chunks(most(known.spec.dim, with)) {
            let mut wanted = among(part.iter().map(String::as_str));
            if let Some(condition) = condition {
                wanted = format!("{wanted} and {condition}");
            }
            let columns = self.rows(known, wanted, fields(with), None, fresh).await?;
            for record in self.records(columns, known.spec.dim, with)? {
                found.insert(record.id.clone(), record);
            }
        }
        // An id that is asked for twice is answered twice.
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    /// Which of the ids are there.
    pub(super) async fn there<'a>(
        &self,
        known: &Known,
        ids: impl Iterator<Item = &'a str>,
    ) -> Attempt<Vec<String>> {
        let with = With { vector: false, payload: false };
        Ok(self.rows(known, among(ids), fields(with), None, self.client.freshness()).await?.ids)
    }

    pub(super) async fn page(&self, known: &Known, page: &Page) -> Attempt<Vec<Record>> {
        let mut pages = Pages::new(self, known, page.filter.as_ref(), page.with);
        pages.after.clone_from(&page.after);
        let mut records = Vec::new();
        while records.len() < page.limit
            && let Some(found) = pages.next(page.limit - records.len()).await?
        {
            records.extend(found);
        }
        records.truncate(page.limit);
        Ok(records)
    }

    pub(super) async fn number(
        &self,
        known: &Known,
        filter: Option<&Filter>,
        fresh: Freshness,
    ) -> Attempt<usize> {
        let expr = filter.filter(|filter| !filter.is_empty()).map(expression).unwrap_or_default();
        let columns = self.rows(known, expr, vec!["count(*)".to_owned()], None, fresh).await?;
        let count = columns.counts.first().and_then(|count| usize::try_from(*count).ok());
        count.ok_or_else(|| {
            let server = self.client.address.to_string();
            Error::Server { server, reason: "it was asked for a number and gave none".to_owned() }.into()
        })
    }
}

/// Goes through the rows that a filter matches, in the order of ids. Milvus may give fewer than are asked for though there are
/// more (its issue 32059: where one segment's rows end), or more: the last page is the one that is empty.
pub(super) struct Pages<'a> {
    milvus: &'a Milvus,
    known: &'a Known,
    filter: Option<String>,
    with: With,
    /// The id that the next page begins behind.
    after: Option<String>,
    fresh: Freshness,
}

impl<'a> Pages<'a> {
    pub(super) fn new(milvus: &'a Milvus, known: &'a Known, filter: Option<&Filter>, with: With) -> Self {
        let filter = filter.filter(|filter| !filter.is_empty()).map(expression);
        Self { milvus, known, filter, with, after: None, fresh: milvus.client.freshness() }
    }

    /// The next rows, about as many as are wanted; none when all were seen.
    pub(super) async fn next(&mut self, wanted: usize) -> Attempt<Option<Vec<Record>>> {
        let dim = self.known.spec.dim;
        // No id is empty.
        let mut expr = format!("id > {}", quoted(self.after.as_deref().unwrap_or_default()));
        if let Some(filter) = &self.filter {
            expr = format!("{expr} and {filter}");
        }
        let limit = Some(wanted.min(most(dim, self.with)));
        let columns = self.milvus.rows(self.known, expr, fields(self.with), limit, self.fresh).await?;
        let records = self.milvus.records(columns, dim, self.with)?;
        self.fresh = Freshness::ANY;
        self.after = records.last().map(|record| record.id.clone());
        Ok((!records.is_empty()).then_some(records))
    }
}

/// Rows that are asked for at once.
fn most(dim: usize, with: With) -> usize {
    let numbers = if with.vector { dim } else { 0 };
    // As many numbers as the largest payload has bytes.
    let bytes = if with.payload { 1 << 14 } else { 0 };
    (NUMBERS / (numbers + bytes).max(1)).clamp(1, ROWS)
}
