//! What only reads: each answer is of one state of the database.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::Postgres;
use super::failure::Attempt;
use super::schema::server_error;
use super::statement::Statement;
use crate::engine::{Page, Record, With};
use crate::error::Error;
use crate::filter::Filter;

/// The columns of a point: `vector` and `payload` where they are wanted.
pub(super) fn columns(with: With) -> String {
    let vector = if with.vector { "vector::real[]" } else { "NULL::real[]" };
    let payload = if with.payload { "payload" } else { "NULL::text" };
    format!("id, {vector}, {payload}")
}

impl Postgres {
    pub(super) async fn by_ids(
        &self,
        client: &Client,
        name: &str,
        ids: &[String],
        with: With,
    ) -> Attempt<Vec<Record>> {
        let collection = self.find(client, name, "").await?;
        let mut select = Statement::default();
        let wanted = select.bind_ids(ids.iter().map(String::as_str));
        select.push(&format!(
            "SELECT {} FROM {} WHERE id = ANY ({wanted})",
            columns(with),
            collection.table()
        ));
        let mut found = BTreeMap::new();
        for row in select.query(client).await? {
            let record = self.record(&row)?;
            found.insert(record.id.clone(), record);
        }
        // An id that is asked for twice is answered twice.
        Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
    }

    pub(super) async fn page(&self, client: &Client, name: &str, page: &Page) -> Attempt<Vec<Record>> {
        let collection = self.find(client, name, "").await?;
        let mut select = Statement::default();
        // No id is empty.
        let after = select.bind_id(page.after.as_deref().unwrap_or_default());
        let filter = page.filter.as_ref().map(|filter| select.filter(filter));
        let limit = select.bind(i64::try_from(page.limit).unwrap_or(i64::MAX), Type::INT8);
        select.push(&format!(
            "SELECT {} FROM {} WHERE id > {after} AND {} ORDER BY id LIMIT {limit}",
            columns(page.with),
            collection.table(),
            filter.as_deref().unwrap_or("true")
        ));
        select.query(client).await?.iter().map(|row| self.record(row)).collect()
    }

    pub(super) async fn number(
        &self,
        client: &Client,
        name: &str,
        filter: Option<&Filter>,
    ) -> Attempt<usize> {
        let collection = self.find(client, name, "").await?;
        let Some(filter) = filter.filter(|filter| !filter.is_empty()) else { return Ok(collection.count) };
        let mut select = Statement::default();
        let condition = select.filter(filter);
        select.push(&format!("SELECT count(*) FROM {} WHERE {condition}", collection.table()));
        let count: i64 = select.first(client).await?.map_or(Ok(0), |row| row.try_get(0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// A row of [`columns`].
    fn record(&self, row: &Row) -> Attempt<Record> {
        let id = self.id(row)?;
        let text: Option<&str> = row.try_get(2)?;
        let payload = text.map(|text| self.payload(&id, text)).transpose()?;
        Ok(Record { vector: row.try_get(1)?, payload, id })
    }

    /// The first column of a row.
    pub(super) fn id(&self, row: &Row) -> Attempt<String> {
        let bytes: Vec<u8> = row.try_get(0)?;
        String::from_utf8(bytes).map_err(|e| self.damaged("an id", &e.to_string()).into())
    }

    pub(super) fn payload(&self, id: &str, text: &str) -> Result<Map<String, Value>, Error> {
        serde_json::from_str(text)
            .map_err(|e| self.damaged(&format!("the payload of point `{id}`"), &e.to_string()))
    }

    fn damaged(&self, what: &str, why: &str) -> Error {
        server_error(&self.address, format!("{what} is not what was written: {why}"))
    }
}
