//! Facts of a payload (`crate::facts`) in a form in which PostgreSQL compares as [`Filter`](crate::Filter) does: an object
//! from each path to its list.
//!
//! PostgreSQL's `jsonb` compares by value as filters do, but for two things, which are spelled otherwise: numbers, and the
//! characters U+0000 (which it cannot hold) and U+0001.

use std::fmt::Write;

use serde_json::{Map, Number, Value};

use crate::facts::can_be_asked;

/// The facts of a payload, as JSON for `jsonb`.
pub(super) fn facts(payload: &Map<String, Value>) -> String {
    let mut json = String::from("{");
    for (path, values) in crate::facts::facts(payload) {
        let comma = if json.len() > 1 { "," } else { "" };
        let values: Vec<String> = values.into_iter().filter_map(scalar).collect();
        let _ = write!(json, "{comma}{}:[{}]", quoted(&path), values.join(","));
    }
    json + "}"
}

/// A value as JSON in which `jsonb` compares it; none where no filter can ask for it.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(exact(number)),
        Value::String(text) => can_be_asked(value).then(|| quoted(text)),
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

    #[test]
    fn a_payload_is_an_object_of_lists() {
        let of = |payload: Value| facts(payload.as_object().unwrap());
        assert_eq!(of(json!({})), "{}");
        assert_eq!(of(json!({"a": [{"b": 1.0}, {"b": "\0"}]})), r#"{"a":[],"a.b":[1,"\u00010"]}"#);
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
