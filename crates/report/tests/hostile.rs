//! Whatever a run's files hold, the page's tags are those that a harmless run has.

use std::fs;
use std::path::Path;

use occlude_report::html;
use proptest::prelude::*;
use serde_json::{Value, json};

/// The tags of a page with the names of their attributes. Reads as HTML's tokeniser does: `<` and a letter or a slash
/// begin a tag, quotes hide `>`, the content of scripts and styles is no markup.
fn tags(page: &str) -> Vec<String> {
    let (mut out, mut rest) = (Vec::new(), page);
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '!' | '?')) {
            continue;
        }
        let (tag, after) = tag(rest);
        rest = after;
        for raw in ["script", "style"] {
            if tag.split(' ').next() == Some(raw) {
                let end = rest.find(&format!("</{raw}")).expect("an end tag");
                rest = &rest[end..];
            }
        }
        out.push(tag);
    }
    out
}

/// The name and the attributes' names of the tag that `text` begins with, and what follows it.
fn tag(text: &str) -> (String, &str) {
    let (mut name, mut quote) = (String::new(), None);
    for (i, c) in text.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '>' => return (name, &text[i + 1..]),
            None if c == '"' || c == '\'' => quote = Some(c),
            None => name.push(c),
        }
    }
    panic!("a tag without an end: {name}");
}

/// A run that says `text` wherever text may stand, and `key` as names.
fn run(dir: &Path, text: &str, key: &str) {
    fs::create_dir_all(dir).unwrap();
    let config =
        json!({ "recipe": text, "arch": text, "epochs": 9, key: text, "nested": { key: [text, 1] } });
    let environment = json!({ key: { key: text } });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("environment.json"), environment.to_string()).unwrap();
    let lines: Vec<Value> = vec![
        json!({ "kind": "step", "epoch": 0, "step": 10, "loss": 4, key: 1 }),
        json!({ "kind": "epoch", "epoch": 0, "step": 10, "loss": 4, key: 1 }),
        json!({ "kind": "epoch", "epoch": 1, "step": 20, "loss": 3, key: 2 }),
        json!({ "kind": "knn", "epoch": 1, "step": 20, format!("knn{key}"): 0.5 }),
        json!({ "kind": "event", "epoch": 1, "step": 20, "event": text, "message": text }),
        json!({ "kind": text, "step": text }),
    ];
    let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
    fs::write(dir.join("metrics.jsonl"), lines.join("\n")).unwrap();
}

/// The tags of the pages of one run and of two.
fn pages(text: &str, key: &str) -> [Vec<String>; 2] {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    run(&one, text, key);
    run(&two, "z", "z");
    let pages = [html::render(&one).unwrap(), html::render_comparison(&[one, two]).unwrap()];
    // long names may break where their parts join, and messages hold code: places, not foreign tags
    pages.map(|page| {
        tags(&page).into_iter().filter(|tag| !["wbr", "code", "/code"].contains(&tag.as_str())).collect()
    })
}

fn hostile() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "<script>",
        "</script>",
        "</style>",
        "<img src=x onerror=alert(1)>",
        "\"",
        "'",
        "&lt;",
        "&",
        "-->",
        "<!--",
        "javascript:",
        "\" onload=\"x",
        "' x='",
        "\0",
        "\u{2028}",
        "a",
        "`",
        "_",
        ".",
        "]]>",
        "<svg/onload=x>",
        "é",
    ]);
    prop::collection::vec(pieces, 1..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn hostile_text_makes_no_tag(text in hostile(), key in hostile()) {
        // a letter in front: the same kinds of values as the harmless run, in the same order
        prop_assert_eq!(pages(&format!("q{text}"), &format!("q{key}")), pages("q", "q"));
    }

    #[test]
    fn no_content_of_the_files_is_fatal(metrics in prop::collection::vec(any::<u8>(), 0..200), config in ".{0,40}") {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("metrics.jsonl"), metrics).unwrap();
        fs::write(dir.path().join("config.json"), config).unwrap();
        prop_assert!(html::render(dir.path()).is_ok());
    }

    #[test]
    fn no_number_is_fatal(values in prop::collection::vec((any::<u64>(), any::<f64>()), 1..80)) {
        let dir = tempfile::tempdir().unwrap();
        let line = |&(step, value): &(u64, f64)| {
            json!({ "kind": "step", "epoch": step, "step": step, "loss": value, "seconds": value, "lr": value }).to_string()
        };
        let kinds = ["step", "epoch", "knn", "event"];
        let lines: Vec<_> = values.iter().enumerate().map(|(i, v)| line(v).replace("\"step\",\"e", &format!("\"{}\",\"e", kinds[i % 4]))).collect();
        fs::write(dir.path().join("metrics.jsonl"), lines.join("\n")).unwrap();
        let page = html::render(dir.path());
        prop_assert!(page.is_ok());
        prop_assert!(!page.unwrap().contains("NaN"));
        prop_assert!(html::render_comparison(&[dir.path(), dir.path()]).is_ok());
    }
}

#[test]
fn the_tokeniser_sees_what_a_browser_sees() {
    assert_eq!(
        tags("<p a=\"<b>\">1 < 2<br></p><script>\"<i>\"</script>"),
        ["p a=", "br", "/p", "script", "/script"]
    );
    assert_ne!(tags("<p a=\"\" onload=\"x\">"), tags("<p a=\"x\">"));
}
