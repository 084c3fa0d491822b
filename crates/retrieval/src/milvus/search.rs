//! Searching one collection. Milvus orders by its own sums of products, which differ from this library's in their last bits;
//! scores and order are this library's, of what Milvus proposes.

use prost::Message;

use super::Milvus;
use super::address::Index;
use super::client::Freshness;
use super::facts::{expression, quoted};
use super::failure::Attempt;
use super::message::{
    EXPRESSION, KeyValuePair, PlaceholderGroup, PlaceholderValue, SearchRequest, SearchResultData,
    SearchResults, data_type,
};
use super::read::{Pages, ROWS};
use super::schema::Known;
use crate::check;
use crate::engine::{Hit, Query, Record, Target, With};
use crate::error::Error;
use crate::top::{Found, Top};
use crate::vector::{dot, to_bytes};

/// Candidates of the index per hit, at least, and at most: twice those of the other engines, whose index proposes more of what
/// is near (recall at 10 of 20,000 vectors around 100 centres: 0.935 with 128); Milvus takes no more.
const CANDIDATES: usize = 8;
const MIN_CANDIDATES: usize = 256;
const MAX_CANDIDATES: usize = 32_768;
/// Rows of a search, at most.
const WINDOW: usize = 16_384;
/// Rows that are fetched beyond the hits, so that the last of these is seen to be one.
const SLACK: usize = 16;
/// How often a search is made again of which rows were replaced under it; then it goes without them.
const TRIES: usize = 5;

type Best = Top<String, Record>;

/// A search that makes sense.
struct Search<'a> {
    known: &'a Known,
    target: Vec<f32>,
    query: &'a Query,
}

impl Milvus {
    pub(super) async fn nearest(&self, known: &Known, query: &Query) -> Attempt<Vec<Hit>> {
        check::within("`k`", query.k, check::MAX_K)?;
        let target = match &query.target {
            Target::Vector(vector) => check::target(vector, known.spec.dim)?,
            Target::Id(id) => self.stored(known, id).await?,
        };
        let search = Search { known, target, query };
        let best = if query.exact && known.index != Index::Flat {
            self.one_by_one(&search).await?
        } else {
            self.proposed(&search).await?
        };
        let hit = |Found { score, id, what }: Found<String, Record>| {
            let vector = what.vector.filter(|_| query.with.vector);
            Hit { vector, payload: what.payload, score, id }
        };
        Ok(best.sorted().into_iter().map(hit).collect())
    }

    async fn stored(&self, known: &Known, id: &str) -> Attempt<Vec<f32>> {
        let with = With { vector: true, payload: false };
        let ids = [id.to_owned()];
        let none = || Error::NoPoint { collection: known.name.clone(), id: id.to_owned() };
        let record = self.by_ids(known, &ids, None, with, self.client.freshness()).await?.pop();
        let record = record.ok_or_else(none)?;
        Ok(record.vector.unwrap_or_default())
    }

    /// What Milvus finds; more of it, until nothing that was not fetched can be a hit.
    async fn proposed(&self, search: &Search<'_>) -> Attempt<Best> {
        let mut limit = search.query.k + SLACK;
        loop {
            let (records, furthest) = self.fetch(search, limit).await?;
            let (found, best) = (records.len(), search.best(records));
            let decided = best.worst().is_some_and(|worst| furthest + search.error() < f64::from(worst));
            if found < limit && best.len() < search.query.k && search.has_more(self, found).await? {
                return self.one_by_one(search).await;
            }
            if found < limit || decided || limit == WINDOW {
                return Ok(best);
            }
            limit = (4 * limit).min(WINDOW);
        }
    }

    /// The rows that Milvus finds nearest, and the score of the last of them. Vectors and payloads are asked for behind the
    /// ids, as Milvus itself does where it is asked for all at once: but it fails where a row was replaced in between. What
    /// replaced it has to match the filter, too.
    async fn fetch(&self, search: &Search<'_>, limit: usize) -> Attempt<(Vec<Record>, f64)> {
        let (mut tries, mut fresh) = (0, Freshness::ANY);
        let (condition, with) = (search.condition(), search.with());
        loop {
            let found = self.near(search, limit).await?;
            let ids = found.ids.and_then(|ids| ids.str_id).unwrap_or_default().data;
            let records = self.by_ids(search.known, &ids, condition.as_deref(), with, fresh).await?;
            tries += 1;
            if records.len() == ids.len() || tries == TRIES {
                let scores = found.scores.into_iter().map(f64::from);
                return Ok((records, scores.fold(f64::INFINITY, f64::min)));
            }
            // Another server may have answered, which lags behind.
            fresh = self.client.freshness();
        }
    }

    async fn near(&self, search: &Search<'_>, limit: usize) -> Attempt<SearchResultData> {
        let placeholders = PlaceholderGroup {
            placeholders: vec![PlaceholderValue {
                tag: "$0".to_owned(),
                data_type: data_type::FLOAT_VECTOR,
                values: vec![to_bytes(&search.target)],
            }],
        };
        let candidates = (CANDIDATES * limit).clamp(MIN_CANDIDATES, MAX_CANDIDATES);
        let parameters = [
            ("anns_field", "vector".to_owned()),
            ("topk", limit.to_string()),
            ("metric_type", "IP".to_owned()),
            ("params", format!("{{\"ef\":{candidates}}}")),
            ("round_decimal", "-1".to_owned()),
        ];
        let fresh = self.client.freshness();
        let request = SearchRequest {
            db_name: self.client.database(),
            collection_name: search.known.collection.clone(),
            dsl: search.condition().unwrap_or_default(),
            placeholder_group: placeholders.encode_to_vec(),
            dsl_type: EXPRESSION,
            search_params: parameters.map(|(key, value)| KeyValuePair::new(key, value)).into(),
            guarantee_timestamp: fresh.guarantee_timestamp,
            nq: 1,
            consistency_level: fresh.consistency_level,
        };
        let found: SearchResults = self.client.call("Search", request).await?;
        Ok(found.results.unwrap_or_default())
    }

    /// Compares with every row that the filter matches, here: an index of Milvus cannot be asked to look at all.
    async fn one_by_one(&self, search: &Search<'_>) -> Attempt<Best> {
        let vectors = With { vector: true, payload: false };
        let mut pages = Pages::new(self, search.known, search.query.filter.as_ref(), vectors);
        let mut best = Top::new(search.query.k);
        while let Some(records) = pages.next(ROWS).await? {
            let wanted =
                |record: &Record| !matches!(&search.query.target, Target::Id(id) if *id == record.id);
            records.into_iter().filter(wanted).for_each(|record| search.show(record, &mut best));
        }
        if !search.query.with.payload {
            return Ok(best);
        }
        let ids: Vec<String> = best.sorted().into_iter().map(|found| found.id).collect();
        let (condition, with) = (search.condition(), search.with());
        let records = self.by_ids(search.known, &ids, condition.as_deref(), with, Freshness::ANY).await?;
        Ok(search.best(records))
    }
}

impl Search<'_> {
    /// The vector is needed for the score.
    fn with(&self) -> With {
        With { vector: true, ..self.query.with }
    }

    /// What rows have to fulfil.
    fn condition(&self) -> Option<String> {
        let filter = self.query.filter.as_ref().filter(|filter| !filter.is_empty()).map(expression);
        let other = match &self.query.target {
            Target::Id(id) => Some(format!("id != {}", quoted(id))),
            Target::Vector(_) => None,
        };
        match (filter, other) {
            (Some(filter), Some(other)) => Some(format!("{filter} and {other}")),
            (filter, other) => filter.or(other),
        }
    }

    /// Whether more rows match than an index found: the coarse one, in which fresh rows lie, looks at a part of them.
    async fn has_more(&self, milvus: &Milvus, found: usize) -> Attempt<bool> {
        if self.known.index == Index::Flat {
            return Ok(false);
        }
        let itself = usize::from(matches!(self.query.target, Target::Id(_)));
        Ok(milvus.number(self.known, self.query.filter.as_ref(), Freshness::ANY).await? > found + itself)
    }

    fn best(&self, records: Vec<Record>) -> Best {
        let mut best = Top::new(self.query.k);
        records.into_iter().for_each(|record| self.show(record, &mut best));
        best
    }

    fn show(&self, record: Record, best: &mut Best) {
        let score = record.vector.as_ref().map_or(f32::MIN, |vector| dot(vector, &self.target));
        best.show(Found { score, id: record.id.clone(), what: record });
    }

    /// By how much two sums of products can differ that were added up in different orders: vectors have length 1, and each
    /// of `dim` additions rounds by 2^-24 at most, on either side.
    fn error(&self) -> f64 {
        self.known.spec.dim as f64 * f64::from(f32::EPSILON)
    }
}
