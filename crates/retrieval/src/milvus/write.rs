//! What changes points. Milvus has no transactions: a change that is too large for one message is made in several, and one
//! that ends half way has been made in part.

use std::collections::BTreeSet;

use super::Milvus;
use super::address::Consistency;
use super::client::Freshness;
use super::facts::{NONE, among};
use super::failure::Attempt;
use super::message::{DeleteRequest, MutationResult, UpsertRequest};
use super::read::{Pages, ROWS};
use super::rows::{self, Row, fields};
use super::schema::Known;
use crate::check;
use crate::engine::{Point, Upserted, With};
use crate::error::Error;
use crate::filter::Filter;

/// Bytes of points in one message; Milvus takes 64 MiB.
const MESSAGE: usize = 32 << 20;

impl Milvus {
    pub(super) async fn put(&self, known: &Known, points: &[Point]) -> Attempt<Upserted> {
        let rows = check::points(points, known.spec.dim)?.into_iter().map(Row::new);
        let rows: Vec<Row<'_>> = rows.collect::<Result<_, _>>()?;
        let mut done = Upserted::default();
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |row: &&Row<'_>| {
                bytes += row.bytes();
                bytes <= MESSAGE
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let there = self.there(known, now.iter().map(|row| row.point.id)).await?.len();
            let request = UpsertRequest {
                db_name: self.client.database(),
                collection_name: known.collection.clone(),
                fields_data: rows::columns(now, known.spec.dim),
                num_rows: u32::try_from(now.len()).unwrap_or(u32::MAX),
            };
            let result: MutationResult = self.client.call("Upsert", request).await?;
            self.changed(known, &result).await?;
            done.replaced += there;
            done.added += now.len().saturating_sub(there);
        }
        Ok(done)
    }

    pub(super) async fn remove(&self, known: &Known, ids: &[String]) -> Attempt<usize> {
        let wanted: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        if wanted.is_empty() {
            return Ok(0);
        }
        let there = self.there(known, wanted.into_iter()).await?;
        self.erase(known, &there).await?;
        Ok(there.len())
    }

    pub(super) async fn remove_where(&self, known: &Known, filter: &Filter) -> Attempt<usize> {
        let mut pages = Pages::new(self, known, Some(filter), With { vector: false, payload: false });
        let mut gone = 0;
        while let Some(records) = pages.next(ROWS).await? {
            let ids: Vec<String> = records.into_iter().map(|record| record.id).collect();
            self.erase(known, &ids).await?;
            gone += ids.len();
        }
        Ok(gone)
    }

    async fn erase(&self, known: &Known, ids: &[String]) -> Attempt<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let request = DeleteRequest {
            db_name: self.client.database(),
            collection_name: known.collection.clone(),
            expr: among(ids.iter().map(String::as_str)),
        };
        let result: MutationResult = self.client.call("Delete", request).await?;
        self.changed(known, &result).await
    }

    /// What comes after a change is to see it.
    async fn changed(&self, known: &Known, result: &MutationResult) -> Attempt<()> {
        if !result.err_index.is_empty() {
            let (server, reason) = (
                self.client.address.to_string(),
                format!("{} points were not written", result.err_index.len()),
            );
            return Err(Error::Server { server, reason }.into());
        }
        self.client.changed(result.timestamp);
        // 2.3 does not tell when it deleted something; an answer that waited for everything has seen that.
        if result.timestamp == 0 && self.client.address.consistency == Consistency::Session {
            let fields = fields(With { vector: false, payload: false });
            self.rows(known, NONE.to_owned(), fields, Some(1), Freshness::STRONG).await?;
        }
        Ok(())
    }
}
