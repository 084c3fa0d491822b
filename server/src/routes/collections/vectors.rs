//! From what a client sends to vectors: points to keep, and targets to search for.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::Extensions;
use occlude_retrieval::{Info, MAX_ID_BYTES, Point, Query, Spec, Target, With};
use serde_json::{Map, Value};

use super::{LIMIT, MAX_POINTS, NewPoint, Search, Upsert, filter};
use crate::error::{ApiError, Kind};
use crate::inference::model::Model;
use crate::pictures::encoding::{Upload, encode_all};
use crate::routes::bounds::too_many;
use crate::routes::coded::{Item, unpack};
use crate::routes::negotiate::within;
use crate::serving::admission::Admitted;
use crate::serving::model_used::ModelName;
use crate::serving::state::AppState;

/// A collection, and what the answer says about the loaded model that its vectors are of.
pub(super) struct Collection {
    pub(super) info: Info,
    pub(super) served: Extensions,
}

impl Collection {
    pub(super) async fn find(state: &AppState, name: String) -> Result<Self, ApiError> {
        let info = state.on_store(move |s| s.collection(&name)).await?;
        let mut served = Extensions::new();
        if let Some(model) = loaded(state, &info) {
            served.insert(ModelName::from(&model.info));
        }
        Ok(Self { info, served })
    }

    /// What its pictures are encoded by. Not kept while a body comes in: who sends slowly keeps no model that is to be
    /// unloaded.
    fn model(&self, state: &AppState) -> Result<Arc<Model>, ApiError> {
        loaded(state, &self.info).ok_or_else(|| {
            let Spec { model, identity, .. } = &self.info.spec;
            let Some(identity) = identity else { return unidentified(&self.info) };
            let message = format!(
                "collection `{}` was filled by the model `{model}` ({identity}), which is not loaded",
                self.info.name
            );
            ApiError::new(Kind::WrongModel, message)
                .hint("serve that model alongside the others, send vectors, or fill a new collection")
        })
    }

    async fn encode(
        &self,
        state: &AppState,
        admitted: &mut Admitted,
        uploads: Vec<Upload>,
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        let model = self.model(state)?;
        let answers = encode_all(state, &model, admitted, uploads).await?;
        Ok(answers.into_iter().map(|a| a.encoded.embedding).collect())
    }

    /// The points of a JSON upsert with their payloads, and the identity of who made their vectors.
    pub(super) async fn points(
        &self,
        state: &AppState,
        admitted: &mut Admitted,
        asked: Upsert,
        payloads: Vec<Map<String, Value>>,
    ) -> Result<(Vec<Point>, String), ApiError> {
        if asked.points.len() > MAX_POINTS {
            let message =
                format!("{} points in one request, at most {MAX_POINTS} are accepted", asked.points.len());
            return Err(ApiError::new(Kind::TooManyImages, message).hint("split the request"));
        }
        distinct(asked.points.iter().map(|p| p.id.as_str()), "points")?;
        let vectors = asked.points.iter().filter(|p| p.vector.is_some()).count();
        let maker = match self.maker(asked.identity, asked.fingerprint)? {
            Some(given) => given,
            None if vectors == 0 => self.info.spec.maker().to_owned(),
            None => return Err(unnamed_vector()),
        };
        let (mut points, mut uploads, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (point, payload)) in asked.points.into_iter().zip(payloads).enumerate() {
            let NewPoint { id, vector, image, .. } = point;
            let vector = match (vector, image) {
                (Some(vector), None) => vector,
                (None, Some(data)) => {
                    uploads.push(unpack(i, Item::Named { name: id.clone(), data })?);
                    places.push(i);
                    Vec::new()
                }
                _ => return Err(one_of(&format!("`vector` or `image` in points[{i}], `{id}`"))),
            };
            points.push(Point { id, vector, payload });
        }
        let limit = state.limits().max_images;
        if uploads.len() > limit {
            return Err(too_many(limit));
        }
        if !uploads.is_empty() {
            let encoded = self.encode(state, admitted, uploads).await?;
            for (i, vector) in places.into_iter().zip(encoded) {
                if let Some(point) = points.get_mut(i) {
                    point.vector = vector;
                }
            }
        }
        Ok((points, maker))
    }

    /// Who made a client's vectors, in its own words: the identity, or the fingerprint where it says as much.
    fn maker(
        &self,
        identity: Option<String>,
        fingerprint: Option<String>,
    ) -> Result<Option<String>, ApiError> {
        let spec = &self.info.spec;
        let Some(given) = fingerprint else { return Ok(identity) };
        if spec.identity.is_none() && given == spec.fingerprint {
            return Err(unidentified(&self.info));
        }
        match identity {
            // The store refuses another fingerprint as it refuses another identity.
            Some(identity) if given == spec.fingerprint || given == spec.maker() => Ok(Some(identity)),
            None if given == spec.fingerprint && given != spec.maker() => {
                let message = "a `fingerprint` identifies weights and preprocessing of the model that made a vector, \
                               but not its precision";
                Err(ApiError::new(Kind::InvalidRequest, message)
                    .hint("send `identity`, which responses of /v1/embed carry as well"))
            }
            _ => Ok(Some(given)),
        }
    }

    /// The points of a form of files.
    pub(super) async fn files(
        &self,
        state: &AppState,
        admitted: &mut Admitted,
        files: Vec<Upload>,
    ) -> Result<(Vec<Point>, String), ApiError> {
        let names = files.iter().map(|f| f.name.clone().ok_or_else(|| nameless(f.place)));
        let names = unique(names.collect::<Result<Vec<_>, _>>()?, "files")?;
        let encoded = self.encode(state, admitted, files).await?;
        let point = |(id, vector)| Point { id, vector, payload: Map::new() };
        Ok((names.into_iter().zip(encoded).map(point).collect(), self.info.spec.maker().to_owned()))
    }

    /// What a search asks of the store, and the identity of who made what it looks for.
    pub(super) async fn query(
        &self,
        state: &AppState,
        admitted: &mut Admitted,
        search: Search,
        pictures: Vec<Upload>,
    ) -> Result<(Query, String), ApiError> {
        let own = self.info.spec.maker().to_owned();
        let k = within("limit", search.limit.unwrap_or(LIMIT.0), (1, LIMIT.1))?;
        let filter = filter(search.filter)?;
        let one = pictures.len() == 1;
        let (target, maker) = match (search.vector, search.id, pictures) {
            (None, None, pictures) if one => {
                let vector = self.encode(state, admitted, pictures).await?.pop();
                (Target::Vector(vector.unwrap_or_default()), own)
            }
            (Some(vector), None, none) if none.is_empty() => {
                let maker = self.maker(search.identity, search.fingerprint)?;
                (Target::Vector(vector), maker.ok_or_else(unnamed_vector)?)
            }
            (None, Some(id), none) if none.is_empty() => (Target::Id(id), own),
            _ => return Err(one_of("one picture, `vector` or `id`")),
        };
        let with = With { vector: search.with_vector, payload: search.with_payload.unwrap_or(true) };
        Ok((Query { target, k, filter, exact: search.exact, with }, maker))
    }
}

/// The model that a collection's vectors are of, where it is loaded.
fn loaded(state: &AppState, info: &Info) -> Option<Arc<Model>> {
    let identity = info.spec.identity.as_deref();
    state.models().into_iter().find(|m| identity == Some(m.info.identity.as_str()))
}

/// The name of a form's field says nothing about the file in it.
fn nameless(place: usize) -> ApiError {
    let error = ApiError::new(Kind::InvalidRequest, "the file has no name to use as the id of its point");
    error
        .at(place, None)
        .hint("send a form with file names (curl -F file=@photo.jpg), or JSON with an `id` for each point")
}

/// `ids` where none is there twice: which of two points was meant, nobody could tell.
pub(super) fn unique(ids: Vec<String>, list: &str) -> Result<Vec<String>, ApiError> {
    distinct(ids.iter().map(String::as_str), list).map(|()| ids)
}

fn distinct<'a>(ids: impl Iterator<Item = &'a str>, list: &str) -> Result<(), ApiError> {
    let mut places = HashMap::new();
    for (place, id) in ids.enumerate() {
        if let Some(before) = places.insert(id, place) {
            let short: String = id.chars().take(MAX_ID_BYTES).collect();
            let message = format!("the id `{short}` appears twice: {list}[{before}] and {list}[{place}]");
            return Err(ApiError::new(Kind::BadRequest, message).hint("send each id once"));
        }
    }
    Ok(())
}

fn unnamed_vector() -> ApiError {
    ApiError::new(Kind::InvalidRequest, "a `vector` without the `identity` of the model that made it")
        .hint("responses of /v1/embed carry it; vectors of another model would be silently wrong")
}

/// Nobody knows the precision of what is in it.
fn unidentified(info: &Info) -> ApiError {
    let (collection, fingerprint) = (info.name.clone(), info.spec.fingerprint.clone());
    occlude_retrieval::Error::Unidentified { collection, fingerprint }.into()
}

pub(super) fn one_of(what: &str) -> ApiError {
    ApiError::new(Kind::InvalidRequest, format!("expected either {what}"))
}
