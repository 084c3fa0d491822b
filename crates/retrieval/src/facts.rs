//! What filters can see of a payload: where its paths lead.
//!
//! A filter asks what a path leads to, and looks into every array on its way. For databases that cannot do that, the paths are
//! followed when a point is written: its facts are a list of each path, spelled as in a filter's `key`, with the scalars that
//! it leads to. `{"a": [{"b": 1}, {"b": [2]}]}` has the facts `a` with none and `a.b` with 1 and 2. A condition then is about
//! one list.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::filter::MAX_KEY_BYTES;

/// Path to the scalars that it leads to. A path that leads to objects alone has none, one to `null` is missing; strings longer
/// than any that a filter can ask for are left out.
pub(crate) type Facts<'a> = BTreeMap<String, Vec<&'a Value>>;

/// The facts of a payload.
pub(crate) fn facts(payload: &Map<String, Value>) -> Facts<'_> {
    let mut facts = Facts::new();
    follow(payload, None, &mut facts);
    facts
}

fn follow<'a>(object: &'a Map<String, Value>, path: Option<&str>, facts: &mut Facts<'a>) {
    for (key, value) in object {
        let path = path.map_or_else(|| key.clone(), |path| format!("{path}.{key}"));
        // No filter leads there: its keys are split at dots, and not longer.
        if !key.contains('.') && path.len() <= MAX_KEY_BYTES {
            note(value, &path, facts);
        }
    }
}

fn note<'a>(value: &'a Value, path: &str, facts: &mut Facts<'a>) {
    match value {
        Value::Null => {}
        Value::Array(items) => items.iter().for_each(|item| note(item, path, facts)),
        Value::Object(object) => {
            facts.entry(path.to_owned()).or_default();
            follow(object, Some(path), facts);
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            facts.entry(path.to_owned()).or_default().extend(can_be_asked(value).then_some(value));
        }
    }
}

/// Whether a filter can ask for this scalar.
pub(crate) fn can_be_asked(value: &Value) -> bool {
    value.as_str().is_none_or(|text| text.len() <= MAX_KEY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn assert_facts(payload: &Value, expected: &Value) {
        let found = facts(payload.as_object().unwrap());
        assert_eq!(&serde_json::to_value(found).unwrap(), expected);
    }

    #[test]
    fn paths_are_followed_through_objects_and_arrays() {
        assert_facts(&json!({}), &json!({}));
        assert_facts(&json!({"a": 1, "b": "x", "c": true}), &json!({"a": [1], "b": ["x"], "c": [true]}));
        assert_facts(
            &json!({"a": [[1, [2]], {"b": [3, {"b": 4}]}]}),
            &json!({"a": [1, 2], "a.b": [3], "a.b.b": [4]}),
        );
        assert_facts(&json!({"n": null, "e": [], "o": {}, "m": [null]}), &json!({"o": []}));
        assert_facts(&json!({"": {"": 1}, "a": {"": 2}}), &json!({"": [], ".": [1], "a": [], "a.": [2]}));
        // No filter leads there.
        assert_facts(&json!({"a.b": 1}), &json!({}));
    }

    #[test]
    fn what_no_filter_can_ask_for_is_there_without_its_value() {
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        assert_facts(&json!({"a": long}), &json!({"a": []}));
        assert_facts(&Value::Object(Map::from_iter([(long, json!(1))])), &json!({}));
    }
}
