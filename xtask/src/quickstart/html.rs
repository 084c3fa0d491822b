//! Small pieces of the result page: escaping, data URIs, frames, tables.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// Text made safe for HTML and for attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An image inside the page.
pub(super) fn picture(bytes: &[u8], alt: &str) -> String {
    let kind = match bytes {
        [0xff, 0xd8, ..] => "jpeg",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        _ => "png",
    };
    format!("<img src=\"data:image/{kind};base64,{}\" alt=\"{}\">", STANDARD.encode(bytes), escape(alt))
}

/// An image file inside the page; its name where it cannot be read.
pub(super) fn picture_file(path: &Path, alt: &str) -> String {
    match std::fs::read(path) {
        Ok(bytes) => picture(&bytes, alt),
        Err(_) => format!("<em>{}</em>", escape(&path.display().to_string())),
    }
}

/// A two-column table.
pub(super) fn rows(rows: &[(String, String)]) -> String {
    let body: String =
        rows.iter().map(|(k, v)| format!("<tr><th>{}</th><td>{}</td></tr>", escape(k), escape(v))).collect();
    format!("<table>{body}</table>")
}

/// A page inside the page.
pub(super) fn frame(page: &str, title: &str) -> String {
    format!("<iframe srcdoc=\"{}\" title=\"{}\"></iframe>", escape(page), escape(title))
}

/// What the rows of the kNN table are, in the order of its answer.
const FEATURES: [(&str, &str); 6] = [
    ("checkpoint", "this encoder"),
    ("untrained", "untrained encoder"),
    ("pixels", "raw pixels"),
    ("checkpoint-whitened", "this encoder, whitened"),
    ("untrained-whitened", "untrained encoder, whitened"),
    ("pixels-whitened", "raw pixels, whitened"),
];
/// Neighbours that the verdict is about.
const VERDICT: u64 = 10;

/// The kNN answer as a matrix.
struct KnnMatrix {
    /// The values of k, ascending.
    ks: Vec<u64>,
    /// For each kind of features its name and, per k, its score in per cent.
    rows: Vec<(String, Vec<Option<f64>>)>,
}

fn knn_matrix(knn: &Value) -> KnnMatrix {
    let results = knn.get("results").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut ks: Vec<u64> = results.iter().filter_map(|r| r.get("k")?.as_u64()).collect();
    ks.sort_unstable();
    ks.dedup();
    let mut names: Vec<&str> = Vec::new();
    for name in results.iter().filter_map(|r| r.get("features")?.as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let score = |name: &str, k: u64| {
        let row = results.iter().find(|r| r["features"] == name && r["k"] == k)?;
        row.get("top1")?.as_f64().map(|top1| top1 * 100.0)
    };
    let shown = |name: &str| {
        let known = FEATURES.iter().find(|(features, _)| *features == name);
        known.map_or(name, |(_, shown)| shown).to_owned()
    };
    let rows = names.iter().map(|n| (shown(n), ks.iter().map(|k| score(n, *k)).collect())).collect();
    KnnMatrix { ks, rows }
}

/// The kNN table in a sentence: how far the encoder is above its floors, all whitened, or all not.
pub(super) fn verdict(knn: &Value, whitened: bool) -> String {
    let results = knn.get("results").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let largest = results.iter().filter_map(|r| r.get("k")?.as_u64()).filter(|k| *k <= VERDICT).max();
    let score = |name: &str| {
        let row = results.iter().find(|r| r["features"] == name && r["k"].as_u64() == largest)?;
        row.get("top1")?.as_f64().map(|top1| top1 * 100.0)
    };
    let ending = if whitened { "-whitened" } else { "" };
    let of = |name: &str| score(&format!("{name}{ending}"));
    let (Some(own), Some(untrained), Some(pixels)) = (of("checkpoint"), of("untrained"), of("pixels")) else {
        return "no floors to compare with".to_owned();
    };
    let than = |floor: f64| match own - floor {
        apart if apart < 0.0 => format!("{:.1} points less than", -apart),
        apart => format!("{apart:.1} points more than"),
    };
    let more = if own <= untrained.max(pixels) { ": it needs more epochs, or more images" } else { "" };
    // An encoder that needs no whitening is held against floors without; with it, they may be higher.
    let higher = [("pixels-whitened", "raw pixels"), ("untrained-whitened", "the untrained encoder")]
        .into_iter()
        .filter(|_| !whitened)
        .filter_map(|(name, shown)| Some((score(name)?, shown)).filter(|(floor, _)| *floor > own))
        .map(|(floor, shown)| format!("; whitened, {shown} would have {floor:.1} %"))
        .collect::<String>();
    format!(
        "{own:.1} % right by {} neighbours: {} the untrained encoder, {} raw pixels{more}{higher}",
        largest.unwrap_or_default(),
        than(untrained),
        than(pixels)
    )
}

/// The kNN table for a terminal.
pub(super) fn knn_text(knn: &Value) -> String {
    let KnnMatrix { ks, rows } = knn_matrix(knn);
    let mut text = format!("{:17}{:<28}", "", "top-1 %");
    text.extend(ks.iter().map(|k| format!("{:>8}", format!("k={k}"))));
    for (name, scores) in rows {
        let _ = write!(text, "\n{:17}{name:<28}", "");
        text.extend(scores.iter().map(|s| s.map_or(format!("{:>8}", "-"), |s| format!("{s:>8.1}"))));
    }
    text
}

/// The kNN table for the page.
pub(super) fn knn_html(knn: &Value) -> String {
    let KnnMatrix { ks, rows } = knn_matrix(knn);
    let mut html = String::from("<table><tr><th>top-1 %</th>");
    html.extend(ks.iter().map(|k| format!("<th>k = {k}</th>")));
    for (name, scores) in rows {
        let _ = write!(html, "</tr><tr><th>{}</th>", escape(&name));
        html.extend(scores.iter().map(|s| s.map_or("<td>-</td>".to_owned(), |s| format!("<td>{s:.1}</td>"))));
    }
    html + "</tr></table>"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_knn_table_has_a_row_per_kind_of_features() {
        let knn = json!({"results": [
            {"features": "checkpoint", "k": 20, "top1": 0.5}, {"features": "checkpoint", "k": 1, "top1": 0.25},
            {"features": "pixels", "k": 1, "top1": 0.125},
        ]});
        let KnnMatrix { ks, rows } = knn_matrix(&knn);
        assert_eq!(ks, [1, 20]);
        assert_eq!(rows[0], ("this encoder".to_owned(), vec![Some(25.0), Some(50.0)]));
        assert_eq!(rows[1].1, [Some(12.5), None]);
        assert!(knn_text(&knn).contains("k=20") && knn_html(&knn).contains("<td>50.0</td>"));
        assert!(knn_matrix(&Value::Null).rows.is_empty());
    }

    #[test]
    fn the_verdict_compares_what_is_treated_alike_and_does_not_flatter() {
        let row = |features: &str, k: u64, top1: f64| json!({"features": features, "k": k, "top1": top1});
        let raw = [row("checkpoint", 5, 0.5), row("untrained", 5, 0.25), row("pixels", 5, 0.75)];
        let said = verdict(&json!({ "results": raw }), false);
        assert!(
            said.contains("50.0 % right by 5") && said.contains("25.0 points more than the untrained"),
            "{said}"
        );
        assert!(said.contains("25.0 points less than raw pixels: it needs more"), "{said}");
        let whitened = [
            row("checkpoint", 10, 0.1),
            row("checkpoint-whitened", 10, 0.75),
            row("untrained-whitened", 10, 0.5),
            row("pixels-whitened", 10, 0.25),
            row("checkpoint-whitened", 20, 0.0),
        ];
        let said = verdict(&json!({ "results": whitened }), true);
        assert!(
            said.contains("75.0 % right by 10") && said.contains("50.0 points more than raw pixels"),
            "{said}"
        );
        assert!(!said.contains("it needs"), "{said}");
        let said = verdict(&json!({ "results": whitened }), false);
        assert!(!said.contains("whitened"), "no floor that is not whitened: {said}");
        let both =
            [raw.as_slice(), &[row("pixels-whitened", 5, 0.8), row("untrained-whitened", 5, 0.4)]].concat();
        let said = verdict(&json!({ "results": both }), false);
        assert!(said.ends_with("whitened, raw pixels would have 80.0 %"), "{said}");
        assert!(verdict(&Value::Null, true).contains("no floors"));
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<a \"b\">&"), "&lt;a &quot;b&quot;&gt;&amp;");
    }

    #[test]
    fn a_page_inside_cannot_leave_its_frame() {
        let frame = frame("<p title=\"a\">&amp;</p>", "run");
        assert!(frame.contains("srcdoc=\"&lt;p title=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;\""), "{frame}");
    }
}
