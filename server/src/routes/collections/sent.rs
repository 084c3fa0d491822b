//! What clients send as JSON of any kind: payloads and filters. As a tree it takes a hundred times the memory of its
//! text, so it stays text until that is known to be bounded.

use occlude_retrieval::{Filter, MAX_CLAUSES, MAX_VALUES};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::NewPoint;
use crate::error::{ApiError, Kind};
use crate::routes::json;
use crate::routes::shape::Shape;
use crate::serving::admission::Buffered;

/// Values of a filter at all depths. A condition has at most 7 (itself, its key and a range of four bounds), an inner
/// filter 4, and what is compared with counts apart; the store holds each of them to its own bound.
const MAX_FILTER: usize = 16 * MAX_CLAUSES + MAX_VALUES;

/// A filter, or what is wrong with it: apart from the rest of a body, so that it is said in the store's own words.
pub(super) struct Filtered(Result<Filter, ApiError>);

impl<'de> Deserialize<'de> for Filtered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(read(text.get())))
    }
}

pub(super) fn filter(sent: Option<Filtered>) -> Result<Option<Filter>, ApiError> {
    sent.map(|Filtered(read)| read).transpose()
}

fn read(text: &str) -> Result<Filter, ApiError> {
    if Shape::of(text.as_bytes()).values() > MAX_FILTER {
        let message = format!(
            "`filter` has more than {MAX_FILTER} values: expected {MAX_CLAUSES} conditions and {MAX_VALUES} values to \
             compare with at most"
        );
        return Err(ApiError::new(Kind::InvalidRequest, message));
    }
    let tree: Value = json::parse(text.as_bytes())?;
    Ok(Filter::try_from(tree)?)
}

/// The text of a value that is there; `null` is one, too.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::deserialize(deserializer).map(Some)
}

/// Takes the payloads of points as trees, with room for what they take in memory.
pub(super) fn payloads(
    points: &mut [NewPoint],
    room: &Buffered,
) -> Result<Vec<Map<String, Value>>, ApiError> {
    let tree = |(i, point): (usize, &mut NewPoint)| {
        let Some(text) = point.payload.take() else { return Ok(Map::new()) };
        let text = text.get();
        room.take(text.len().saturating_add(Shape::of(text.as_bytes()).bytes()))?;
        serde_json::from_str(text).map_err(|e| json::error(&format!("points[{i}].payload"), &e))
    };
    points.iter_mut().enumerate().map(tree).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_filter_that_the_store_takes_is_read() {
        let range = json!({"key": "a", "range": {"gt": 1, "gte": 1, "lt": 1, "lte": 1}});
        let inner = json!({"must": [range], "must_not": [], "should": []});
        let all = json!({"must": vec![inner; MAX_CLAUSES / 2]});
        let full = json!({"should": vec![range; MAX_CLAUSES]});
        let any = json!({"must": [{"key": "a", "any": vec!["x"; MAX_VALUES]}]});
        for most in [all, full, any] {
            assert!(read(&most.to_string()).is_ok());
        }
        for more in [json!({"must": vec![json!({}); MAX_FILTER]}), json!({"must": vec![0; MAX_FILTER]})] {
            let error = read(&more.to_string()).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidRequest);
            assert!(error.message.starts_with("`filter` has more than 8192 values"), "{error}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(read(&format!("{deep}{}", "]".repeat(100_000))).unwrap_err().kind, Kind::BadRequest);
    }
}
