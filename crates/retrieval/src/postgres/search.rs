//! Searching one collection. The database orders by its own sums of products, which differ from this library's in their last
//! bits; scores and order are this library's, of what the database proposes.

use futures_util::TryStreamExt;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::Postgres;
use super::failure::Attempt;
use super::schema::Known;
use super::statement::Statement;
use crate::candidates::candidates;
use crate::check;
use crate::engine::{Hit, Query, Target};
use crate::error::Error;
use crate::top::{Found, Top};
use crate::vector::dot;

/// What a candidate of the index costs beside a row that is compared in order: as of the other engine.
const COST: usize = 40;
/// The index looks at no more of them at once.
const MOST_CANDIDATES: usize = 1000;
/// Matches of a filter, at most, that are compared one by one: the index would pass by many more rows to find as few, and
/// miss some.
const RARE: usize = 5_000;
/// Rows that are fetched beyond the hits, so that the last of these is seen to be one.
const SLACK: usize = 16;

/// A row that may be a hit; by its id in a [`Top`].
struct Candidate {
    vector: Vec<f32>,
    payload: Option<String>,
}

type Best = Top<String, Candidate>;

/// A search that makes sense.
struct Search<'a> {
    collection: &'a Known,
    target: Vec<f32>,
    query: &'a Query,
}

impl Postgres {
    pub(super) async fn nearest(
        &self,
        client: &Client,
        collection: &Known,
        query: &Query,
    ) -> Attempt<Vec<Hit>> {
        check::within("`k`", query.k, check::MAX_K)?;
        let target = match &query.target {
            Target::Vector(vector) => check::target(vector, collection.spec.dim)?,
            Target::Id(id) => self.stored(client, collection, id).await?,
        };
        let search = Search { collection, target, query };
        let candidates = candidates(query.k, collection.count);
        let cheap = collection.count.saturating_mul(collection.spec.dim) <= self.exact_numbers;
        let near = collection.near && !query.exact && !cheap;
        let many = candidates.saturating_mul(COST) <= collection.count;
        if near && many && !search.is_rare(client).await? {
            let best = self.approximate(client, &search, candidates).await?;
            // Fewer than were asked for: what matches is far away.
            if let Some(best) = best {
                return self.hits(best, query);
            }
        }
        let best = self.exact(client, &search).await?;
        self.hits(best, query)
    }

    async fn stored(&self, client: &Client, collection: &Known, id: &str) -> Attempt<Vec<f32>> {
        let mut select = Statement::default();
        let bound = select.bind_id(id);
        select.push(&format!("SELECT vector::real[] FROM {} WHERE id = {bound}", collection.table()));
        let none = || Error::NoPoint { collection: collection.name.clone(), id: id.to_owned() };
        Ok(select.first(client).await?.ok_or_else(none)?.try_get(0)?)
    }

    /// Candidates of the index; None where it finds fewer than were asked for.
    async fn approximate(
        &self,
        client: &Client,
        search: &Search<'_>,
        candidates: usize,
    ) -> Attempt<Option<Best>> {
        let mut select = Statement::default();
        let (target, condition) = search.bind(&mut select);
        let (table, dim) = (search.collection.table(), search.collection.spec.dim);
        select.push(&format!(
            "SELECT id, vector::real[], {payload}, n FROM (SELECT id, vector, payload, count(*) OVER () AS n FROM ( \
                 SELECT id, vector, payload FROM {table} WHERE {condition} \
                 ORDER BY (vector::halfvec({dim})) <#> {target}::halfvec({dim}) LIMIT {candidates} \
             ) near ORDER BY vector <#> {target}::vector, id LIMIT {limit}) best",
            payload = search.payload(),
            limit = search.query.k + SLACK,
        ));
        // Of the session; every search that uses the index says it first.
        let breadth = candidates.min(MOST_CANDIDATES);
        client.batch_execute(&format!("SET hnsw.ef_search = {breadth}")).await?;
        let rows = select.query(client).await?;
        let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get(3))?;
        if usize::try_from(found).unwrap_or(0) < candidates {
            return Ok(None);
        }
        let mut best = Top::new(search.query.k);
        rows.iter().try_for_each(|row| self.show(row, search, &mut best))?;
        Ok(Some(best))
    }

    /// Compares with every row.
    async fn exact(&self, client: &Client, search: &Search<'_>) -> Attempt<Best> {
        let mut select = Statement::default();
        let (target, condition) = search.bind(&mut select);
        let limit = search.query.k + SLACK;
        select.push(&format!(
            "SELECT id, vector::real[], {payload}, distance FROM ( \
                 SELECT id, vector, payload, vector <#> {target}::vector AS distance FROM {table} WHERE {condition} \
                 ORDER BY distance, id LIMIT {limit}) best",
            payload = search.payload(),
            table = search.collection.table(),
        ));
        let rows = select.query(client).await?;
        let mut best = Top::new(search.query.k);
        rows.iter().try_for_each(|row| self.show(row, search, &mut best))?;
        let furthest = rows
            .iter()
            .map(|row| row.try_get(3))
            .try_fold(f64::NEG_INFINITY, |furthest: f64, distance| {
                distance.map(|distance: f64| furthest.max(distance))
            })?;
        let worst = best.worst().map(f64::from);
        // What was not fetched scores so much at most.
        if rows.len() < limit || worst.is_some_and(|worst| search.error() - furthest < worst) {
            return Ok(best);
        }
        self.among_equals(client, search).await
    }

    /// [`Self::exact`], where many rows are about as far as the last hit: all of them are looked at.
    async fn among_equals(&self, client: &Client, search: &Search<'_>) -> Attempt<Best> {
        let mut select = Statement::default();
        let (target, condition) = search.bind(&mut select);
        let (table, k) = (search.collection.table(), search.query.k);
        let slack = select.bind(2.0 * search.error(), Type::FLOAT8);
        select.push(&format!(
            "WITH last AS MATERIALIZED (SELECT max(distance) + {slack} AS distance FROM ( \
                 SELECT vector <#> {target}::vector AS distance FROM {table} WHERE {condition} ORDER BY 1 LIMIT {k}) best) \
             SELECT id, vector::real[], {payload} FROM {table} \
             WHERE {condition} AND vector <#> {target}::vector <= (SELECT distance FROM last)",
            payload = search.payload(),
        ));
        let mut best = Top::new(k);
        let rows = select.rows(client).await?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            self.show(&row, search, &mut best)?;
        }
        Ok(best)
    }

    fn show(&self, row: &Row, search: &Search<'_>, best: &mut Best) -> Attempt<()> {
        let (id, vector, payload) = (self.id(row)?, row.try_get::<_, Vec<f32>>(1)?, row.try_get(2)?);
        let score = dot(&vector, &search.target);
        best.show(Found { score, id, what: Candidate { vector, payload } });
        Ok(())
    }

    fn hits(&self, best: Best, query: &Query) -> Attempt<Vec<Hit>> {
        let hit = |Found { score, id, what }: Found<String, Candidate>| {
            let payload = what.payload.map(|text| self.payload(&id, &text)).transpose()?;
            Ok(Hit { vector: query.with.vector.then_some(what.vector), payload, score, id })
        };
        best.sorted().into_iter().map(hit).collect()
    }
}

impl Search<'_> {
    /// Whether the filter matches few rows; counted no further than that.
    async fn is_rare(&self, client: &Client) -> Attempt<bool> {
        let Some(filter) = self.query.filter.as_ref().filter(|filter| !filter.is_empty()) else {
            return Ok(false);
        };
        let mut select = Statement::default();
        let condition = select.filter(filter);
        select.push(&format!(
            "SELECT count(*) FROM (SELECT FROM {} WHERE {condition} LIMIT {}) found",
            self.collection.table(),
            RARE + 1
        ));
        let found: i64 = select.first(client).await?.map_or(Ok(0), |row| row.try_get(0))?;
        Ok(usize::try_from(found).unwrap_or(0) <= RARE)
    }

    /// The target and the condition on rows, for a statement.
    fn bind(&self, select: &mut Statement) -> (String, String) {
        let target = select.bind_numbers(&self.target);
        let mut condition =
            self.query.filter.as_ref().map_or_else(|| "true".to_owned(), |f| select.filter(f));
        if let Target::Id(id) = &self.query.target {
            let id = select.bind_id(id);
            condition = format!("{condition} AND id <> {id}");
        }
        (target, condition)
    }

    fn payload(&self) -> &'static str {
        if self.query.with.payload { "payload" } else { "NULL::text" }
    }

    /// By how much two sums of products can differ that were added up in different orders: vectors have length 1, and each
    /// of `dim` additions rounds by 2^-24 at most, on either side.
    fn error(&self) -> f64 {
        self.collection.spec.dim as f64 * f64::from(f32::EPSILON)
    }
}
