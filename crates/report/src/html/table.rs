//! JSON as tables.

use maud::{Markup, html};
use serde_json::Value;

/// Rows that a table shows.
const ROWS: usize = 2000;

/// Names and values of everything in `value`; what is nested has a name with dots.
pub(super) fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    collect("", value, &mut rows);
    rows
}

fn collect(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(object) if !object.is_empty() => {
            object.iter().for_each(|(key, value)| collect(&below(key), value, rows));
        }
        other => rows.push((name.to_owned(), plain(other))),
    }
}

/// A value on a line.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// Tables, one for what lies on top and one for each object in it.
pub(super) fn tables(value: &Value, top: &str) -> Markup {
    let Value::Object(object) = value else { return table(top, &flatten(value)) };
    let nested = |value: &Value| value.as_object().is_some_and(|o| !o.is_empty());
    let flat: Vec<_> =
        object.iter().filter(|(_, v)| !nested(v)).map(|(k, v)| (k.clone(), plain(v))).collect();
    html! {
        div.tables {
            @if !flat.is_empty() { (table(top, &flat)) }
            @for (key, value) in object.iter().filter(|(_, v)| nested(v)) { (table(key, &flatten(value))) }
        }
    }
}

fn table(caption: &str, rows: &[(String, String)]) -> Markup {
    html! {
        table.pairs {
            caption { (caption) }
            tbody {
                @for (name, value) in rows.iter().take(ROWS) { tr { th scope="row" { (breakable(name)) } td { (value) } } }
            }
        }
    }
}

/// Lets a long name break where its parts join.
pub(super) fn breakable(name: &str) -> Markup {
    html! { @for part in name.split_inclusive(['_', '.']) { (part) wbr; } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_values_have_names_with_dots() {
        let rows = flatten(&json!({ "a": 1, "b": { "c": [0.5, 2], "d": null, "e": {} }, "f": ["x", "y z"] }));
        let rows: Vec<_> = rows.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(rows, [("a", "1"), ("b.c", "0.5, 2"), ("b.d", "–"), ("b.e", "{}"), ("f", "x y z")]);
    }

    #[test]
    fn objects_have_tables_of_their_own() {
        let page = tables(&json!({ "a": 1, "b": { "<c>": "<d>" } }), "general").into_string();
        assert_eq!(page.matches("<table").count(), 2);
        assert!(page.contains("&lt;c&gt;") && page.contains("&lt;d&gt;"), "{page}");
    }
}
