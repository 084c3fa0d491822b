//! What filters can see of a payload, in a form in which PostgreSQL compares as [`Filter`](crate::Filter) does.
//!
//! A filter asks what a path leads to, and looks into every array on its way. So the paths are followed when a point is
//! written: its facts are an object from each path, spelled as in a filter's `key`, to the scalars that it leads to. `{"a":
//! [{"b": 1}, {"b": [2]}]}` has the facts `{"a": [], "a.b": [1, 2]}`. A condition then is about one list. PostgreSQL's `jsonb`
//! compares by value as filters do, but for three things, which are spelled otherwise: numbers, the characters U+0000
//! (which it cannot hold) and U+0001, and strings longer than any that a filter can ask for (which are left out).

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Number, Value};

use crate::filter::MAX_KEY_BYTES;

/// Path to the scalars, as JSON, that it leads to. A path that leads to objects alone has none, one to `null` is missing.
type Facts = BTreeMap<String, Vec<String>>;

/// The facts of a payload, as JSON for `jsonb`.
pub(super) fn facts(payload: &Map<String, Value>) -> String {
    let mut facts = Facts::new();
    follow(payload, None, &mut facts);
    let mut json = String::from("{");
    for (path, values) in &facts {
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, "{comma}{}:[{}]", quoted(path), values.join(","));
    }
    json + "}"
}

fn follow(object: &Map<String, Value>, path: Option<&str>, facts: &mut Facts) {
    for (key, value) in object {
        let path = path.map_or_else(|| key.clone(), |path| format!("{path}.{key}"));
        // No filter leads there: its keys are split at dots, and not longer.
        if !key.contains('.') && path.len() <= MAX_KEY_BYTES {
            note(value, &path, facts);
        }
    }
}

fn note(value: &Value, path: &str, facts: &mut Facts) {
    match value {
        Value::Null => {}
        Value::Array(items) => items.iter().for_each(|item| note(item, path, facts)),
        Value::Object(object) => {
            facts.entry(path.to_owned()).or_default();
            follow(object, Some(path), facts);
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            facts.entry(path.to_owned()).or_default().extend(scalar(value));
        }
    }
}

/// A value as JSON in which `jsonb` compares it; none where no filter can ask for it.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(exact(number)),
        Value::String(text) => (text.len() <= MAX_KEY_BYTES).then(|| quoted(text)),
        other => Some(other.to_string()),
    }
}

/// A number whose decimal value is ordered beside others as its binary one: a whole number with all its digits, a fraction
/// with the fewest that tell it from other doubles. (The whole numbers next to a fraction are doubles, too: the digits
/// lie between them as the fraction does.)
pub(super) fn exact(number: &Number) -> String {
    match number.as_f64() {
        Some(double) if number.is_f64() && double.fract() == 0.0 => format!("{double:.0}"),
        Some(double) if number.is_f64() => double.to_string(),
        _ => number.to_string(),
    }
}

/// A string as JSON without the character that `jsonb` cannot hold.
pub(super) fn quoted(text: &str) -> String {
    Value::String(plain(text)).to_string()
}

/// The text without U+0000; two texts that differ still do.
pub(super) fn plain(text: &str) -> String {
    text.replace('\u{1}', "\u{1}1").replace('\0', "\u{1}0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(payload: &Value) -> String {
        facts(payload.as_object().unwrap())
    }

    #[test]
    fn paths_are_followed_through_objects_and_arrays() {
        assert_eq!(of(&json!({})), "{}");
        assert_eq!(of(&json!({"a": 1, "b": "x", "c": true})), r#"{"a":[1],"b":["x"],"c":[true]}"#);
        assert_eq!(
            of(&json!({"a": [[1, [2]], {"b": [3, {"b": 4}]}]})),
            r#"{"a":[1,2],"a.b":[3],"a.b.b":[4]}"#
        );
        assert_eq!(of(&json!({"n": null, "e": [], "o": {}, "m": [null]})), r#"{"o":[]}"#);
        assert_eq!(of(&json!({"": {"": 1}, "a": {"": 2}})), r#"{"":[],".":[1],"a":[],"a.":[2]}"#);
        assert_eq!(of(&json!({"a.b": 1})), "{}", "no filter leads there");
    }

    #[test]
    fn what_no_filter_can_ask_for_is_there_without_its_value() {
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        assert_eq!(of(&json!({"a": long})), r#"{"a":[]}"#);
        assert_eq!(of(&Value::Object(Map::from_iter([(long, json!(1))]))), "{}");
    }

    #[test]
    fn texts_stay_apart_without_zeros() {
        let texts = ["\0", "\u{1}", "\u{1}0", "\u{1}1", "0", "\0\u{1}", "\u{1}\0", ""];
        let plain: std::collections::BTreeSet<String> = texts.into_iter().map(super::plain).collect();
        assert!(plain.len() == texts.len() && plain.iter().all(|t| !t.contains('\0')), "{plain:?}");
    }

    #[test]
    fn numbers_are_written_with_their_values() {
        let of = |json: &str| exact(&serde_json::from_str(json).unwrap());
        for (json, expected) in [
            ("3", "3"),
            ("3.0", "3"),
            ("-0.0", "-0"),
            ("18446744073709551615", "18446744073709551615"),
            ("0.1", "0.1"),
            ("1e-7", "0.0000001"),
            ("1.152921504606847e18", "1152921504606846976"),
            ("2251799813685248.5", "2251799813685248.5"),
        ] {
            assert_eq!(of(json), expected, "{json}");
        }
        assert_eq!(of("1.7976931348623157e308").len(), 309);
        assert!(of("5e-324").ends_with("0005") && of("5e-324").len() == 326);
    }
}
