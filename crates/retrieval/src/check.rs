//! Bounds of what comes in.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::engine::{Point, Spec};
use crate::error::{Error, Result};
use crate::vector::unit;

/// Most numbers in a vector.
pub const MAX_DIM: usize = 16_384;
/// Most bytes of an id.
pub const MAX_ID_BYTES: usize = 256;
/// Most hits of a search, and points of a page.
pub const MAX_K: usize = 10_000;
/// Most points of an upsert, and ids of a request.
pub const MAX_BATCH: usize = 10_000;
/// Most bytes of a payload as JSON.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 16;
/// How deep arrays and objects of a payload may lie in each other, the payload itself counted.
pub const MAX_PAYLOAD_DEPTH: usize = 32;

/// Most collections of a store.
pub(crate) const MAX_COLLECTIONS: usize = 1000;

const MAX_NAME: usize = 64;
/// Of a fingerprint and of a model's name.
const MAX_LABEL: usize = 1024;

pub(crate) fn name(name: &str) -> Result<()> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::Name { name: name.chars().take(MAX_NAME + 1).collect() })
}

pub(crate) fn spec(spec: &Spec) -> Result<()> {
    within("`dim`", spec.dim, MAX_DIM)?;
    within("bytes of `fingerprint`", spec.fingerprint.len(), MAX_LABEL)?;
    if let Some(identity) = &spec.identity {
        within("bytes of `identity`", identity.len(), MAX_LABEL)?;
    }
    within("bytes of `model`", spec.model.len(), MAX_LABEL)
}

pub(crate) fn within(what: &str, found: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&found) {
        Ok(())
    } else {
        Err(Error::value(what, format!("1 to {most}"), found.to_string()))
    }
}

pub(crate) fn at_most(what: &str, found: usize, most: usize) -> Result<()> {
    if found <= most { Ok(()) } else { Err(Error::value(what, format!("{most} at most"), found.to_string())) }
}

/// The target of a search, scaled to length 1.
pub(crate) fn target(vector: &[f32], dim: usize) -> Result<Vec<f32>> {
    scaled("the query vector", vector, dim)
}

fn scaled(whose: &str, vector: &[f32], dim: usize) -> Result<Vec<f32>> {
    if vector.len() != dim {
        return Err(Error::value(whose, format!("{dim} numbers"), vector.len().to_string()));
    }
    unit(vector).map_err(|why| Error::value(whose, "finite numbers, not all of them 0", why))
}

/// A point as it is stored.
pub(crate) struct Checked<'a> {
    pub(crate) id: &'a str,
    pub(crate) vector: Vec<f32>,
    pub(crate) payload: String,
}

pub(crate) fn point<'a>(point: &'a Point, dim: usize) -> Result<Checked<'a>> {
    let Point { id, vector, payload } = point;
    within("bytes of a point's id", id.len(), MAX_ID_BYTES)?;
    let vector = scaled(&format!("vector of point `{id}`"), vector, dim)?;
    if depth(payload) > MAX_PAYLOAD_DEPTH {
        return Err(Error::Deep { what: format!("payload of point `{id}`"), limit: MAX_PAYLOAD_DEPTH });
    }
    let unwritten = |e: serde_json::Error| {
        Error::value(format!("payload of point `{id}`"), "what JSON can hold", e.to_string())
    };
    let payload = serde_json::to_string(payload).map_err(unwritten)?;
    at_most(&format!("bytes of the payload of point `{id}`"), payload.len(), MAX_PAYLOAD_BYTES)?;
    Ok(Checked { id, vector, payload })
}

/// The last of each id, in order.
pub(crate) fn points<'a>(points: &'a [Point], dim: usize) -> Result<Vec<Checked<'a>>> {
    at_most("points at once", points.len(), MAX_BATCH)?;
    let last: BTreeMap<&str, usize> = points.iter().zip(0..).map(|(p, i)| (p.id.as_str(), i)).collect();
    let mut kept = Vec::with_capacity(last.len());
    for (i, given) in points.iter().enumerate() {
        // those that another one follows are checked too
        let id = given.id.as_str();
        let checked = point(given, dim)?;
        if last.get(id) == Some(&i) {
            kept.push(checked);
        }
    }
    Ok(kept)
}

/// Counted without recursion: a payload that was not parsed may be deeper than the stack.
fn depth(payload: &Map<String, Value>) -> usize {
    let mut level: Vec<&Value> = payload.values().collect();
    for depth in 1..=MAX_PAYLOAD_DEPTH {
        if !level.iter().any(|v| v.is_array() || v.is_object()) {
            return depth;
        }
        level = level.into_iter().flat_map(children).collect();
    }
    MAX_PAYLOAD_DEPTH + 1
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "shop-2_x", &"z".repeat(64)] {
            assert!(name(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a b", "a/b", "..", "é", &"z".repeat(65), "a\0"] {
            assert!(name(bad).unwrap_err().to_string().contains("hint:"), "{bad}");
        }
    }

    #[test]
    fn payloads_have_a_depth() {
        let of = |json: &str| depth(&serde_json::from_str(json).unwrap());
        assert_eq!(of("{}"), 1);
        assert_eq!(of(r#"{"a": 1}"#), 1);
        assert_eq!(of(r#"{"a": []}"#), 2);
        assert_eq!(of(r#"{"a": [1, {"b": 2}]}"#), 3);
        let mut deep = Value::Null;
        for _ in 0..40 {
            deep = Value::Array(vec![deep]);
        }
        let payload = Map::from_iter([("a".to_owned(), deep)]);
        let deep = Point { id: "p".to_owned(), vector: vec![1.0], payload };
        let message = point(&deep, 1).err().unwrap().to_string();
        assert!(message.contains("deeper than 32") && message.contains("`p`"), "{message}");
    }
}
