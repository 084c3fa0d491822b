//! Pages of whole runs.

use std::fs;
use std::path::Path;

use occlude_report::{Error, html};
use serde_json::json;

/// A picture of 2x1 pixels, as far as its header goes.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x02\0\0\0\x01\x08\x02\0\0\0";

fn run(dir: &Path, loss: f64, queue: u64) {
    fs::create_dir_all(dir).unwrap();
    let config = json!({ "recipe": "moco-v2", "arch": "resnet18", "epochs": 2, "moco": { "queue": queue, "dim": 128 } });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("environment.json"), r#"{"device":"cpu"}"#).unwrap();
    fs::write(dir.join("first_batch.png"), PNG).unwrap();
    let mut lines = String::new();
    for epoch in 0..2u64 {
        for step in [5, 10] {
            let value = loss / (epoch + 1) as f64;
            lines += &json!({ "kind": "step", "epoch": epoch, "step": 10 * epoch + step, "loss": value, "acc1": 0.25, "data_wait": 0.5, "seconds": 30 }).to_string();
            lines += "\n";
        }
        lines += &json!({ "kind": "epoch", "epoch": epoch, "step": 10 * (epoch + 1), "loss": loss / (epoch + 1) as f64, "images_per_s": 96.4, "data_wait": 0.5, "seconds": 61 }).to_string();
        lines += "\n";
        lines += &json!({ "kind": "knn", "epoch": epoch, "step": 10 * (epoch + 1), "k": 20, "top1": 0.4 + 0.05 * epoch as f64 }).to_string();
        lines += "\n";
    }
    lines += "{\"kind\":\"event\",\"step\":20,\"epoch\":1,\"event\":\"collapse_warning\",\"message\":\"spread below `0.1`\"}\n";
    lines += "{\"kind\":\"ste";
    fs::write(dir.join("metrics.jsonl"), lines).unwrap();
}

#[test]
fn a_page_tells_a_run() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 4.0, 0);
    let path = html::write(dir.path()).unwrap();
    assert_eq!(path, dir.path().join("report.html"));
    let page = fs::read_to_string(path).unwrap();
    for expected in [
        ">finished<",
        "2 of 2",
        "<dd>2</dd>",
        "45.0 %",
        "k = 20, epoch 2",
        "96.4",
        "2 min 02 s",
        "collapse warning",
        "<code>0.1</code>",
        "50 % of the last epoch was spent waiting",
        "data:image/png;base64,iVBORw0KGgo",
        "Loss; steps: 4 at step 5, 2 at step 20, lowest 2, highest 4",
        ">queue<",
        ">device<",
    ] {
        assert!(page.contains(expected), "`{expected}` is missing");
    }
    // nothing is fetched: the only addresses are those of data
    for attribute in ["src=\"", "href=\""] {
        assert!(page.split(attribute).skip(1).all(|rest| rest.starts_with("data:")));
    }
    assert!(!page.contains("@import") && !page.contains("url("));
}

#[test]
fn every_picture_has_a_text_and_every_curve_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 4.0, 0);
    let page = html::render(dir.path()).unwrap();
    assert!(
        page.split("<img ")
            .skip(1)
            .all(|img| img.split('>').next().is_some_and(|tag| tag.contains("alt=\"A")))
    );
    let curves: Vec<_> = page.split("<svg ").skip(1).collect();
    assert!(curves.len() > 3);
    assert!(curves.iter().all(|svg| svg.split('>').next().is_some_and(|tag| tag.contains("aria-label"))));
}

#[test]
fn runs_are_compared_by_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a/run"), dir.path().join("b/run"));
    run(&a, 4.0, 0);
    run(&b, 6.0, 4096);
    let out = dir.path().join("comparison.html");
    html::compare(&[&a, &b], &out).unwrap();
    let page = fs::read_to_string(out).unwrap();
    assert!(page.contains("run (1)") && page.contains("run (2)"));
    assert!(page.contains("kNN accuracy, k = 20"));
    let settings = page.split("What differs").nth(1).unwrap();
    assert!(settings.contains("4096") && !settings.contains("dim"), "{settings}");
    assert!(matches!(html::compare(&[] as &[&Path], &a), Err(Error::Nothing)));
}

#[test]
fn a_page_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 4.0, 0);
    let error = html::write_to(dir.path(), &dir.path().join("no/such/folder.html")).unwrap_err();
    assert!(error.to_string().starts_with("cannot write `"), "{error}");
    fs::remove_file(dir.path().join("metrics.jsonl")).unwrap();
    fs::create_dir(dir.path().join("metrics.jsonl")).unwrap();
    let error = html::render(dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read `"), "{error}");
}
