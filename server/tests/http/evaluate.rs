//! `occlude-serve evaluate` beside NumPy, and what it says of folders that cannot be judged.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::binary::Running;
use crate::common::*;

const CLASSES: [&str; 3] = ["ash", "birch", "cedar"];

/// Pictures of three classes, each with a tint of its own under much noise, so that some are mistaken.
fn forest(root: &Path, each: usize, mut state: u32) {
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for (class, name) in CLASSES.iter().enumerate() {
        std::fs::create_dir_all(root.join(name)).unwrap();
        for i in 0..each {
            let tint: Vec<u8> = (0..3).map(|c| noise() / 3 + if c == class { 40 } else { 0 }).collect();
            let pixels: Vec<u8> =
                tint.iter().cycle().take(48 * 40 * 3).map(|t| t.saturating_add(noise() / 2)).collect();
            std::fs::write(root.join(name).join(format!("{i}.png")), png_of(48, 40, &pixels)).unwrap();
        }
    }
}

fn tool(arguments: &[&str], model: &str) -> Output {
    let model = format!("small={}", fixture(model).display());
    Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
        .args(arguments)
        .args(["--model", &model, "--provider", "cpu"])
        .output()
        .unwrap()
}

fn evaluated(arguments: &[&str], model: &str) -> Value {
    let output = tool(&[&["evaluate", "--json"], arguments].concat(), model);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    let output = tool(&[&["evaluate"], arguments].concat(), "tiny.onnx");
    assert!(!output.status.success() && output.stdout.is_empty());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Class and embedding of every picture, as `embed` writes them.
fn embeddings(folder: &Path, out: &Path) -> Vec<(String, Value)> {
    let args = ["embed", folder.to_str().unwrap(), "--out", out.to_str().unwrap(), "--force"];
    assert!(tool(&args, "tiny-features.onnx").status.success());
    let lines = std::fs::read_to_string(out).unwrap();
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).unwrap();
        (row["path"].as_str().unwrap().to_owned(), row["embedding"].clone())
    };
    lines.lines().map(row).collect()
}

fn class(path: &str) -> &str {
    path.split('/').next().unwrap()
}

fn numpy(queries: &[(String, Value)], gallery: &[(String, Value)], itself: bool) -> Value {
    let vectors = |rows: &[(String, Value)]| rows.iter().map(|(_, v)| v.clone()).collect::<Vec<_>>();
    let relevant: Vec<Vec<usize>> = queries
        .iter()
        .map(|(q, _)| (0..gallery.len()).filter(|&at| class(&gallery[at].0) == class(q)).collect())
        .collect();
    let same: Vec<Option<usize>> = (0..queries.len()).map(|at| itself.then_some(at)).collect();
    let task = json!({
        "queries": vectors(queries), "gallery": vectors(gallery), "relevant": relevant, "same": same, "k": [1, 2, 7],
    });
    let python = std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`");
    let mut child = Command::new(python)
        .args(["-c", include_str!("evaluate.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// Figures are sums of few fractions: they agree to the last digits or not at all.
fn agrees(row: &Value, expected: &Value) {
    let close = |ours: &Value, theirs: &Value| {
        let (ours, theirs) = (ours["percent"].as_f64().unwrap(), theirs.as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-9, "{ours}, expected {theirs}");
    };
    let (recall, theirs) = (row["recall"].as_array().unwrap(), expected["recall"].as_array().unwrap());
    assert_eq!(recall.len(), theirs.len());
    recall.iter().zip(theirs).for_each(|(a, b)| close(a, b));
    close(&row["map"], &expected["map"]);
}

#[test]
fn figures_equal_those_of_numpy() {
    let dir = tempfile::tempdir().unwrap();
    let (queries, gallery) = (dir.path().join("queries"), dir.path().join("gallery"));
    forest(&queries, 9, 5);
    forest(&gallery, 14, 77);
    let folders = [queries.to_str().unwrap(), gallery.to_str().unwrap()];
    let out = dir.path().join("e.jsonl");
    let (asked, found) = (embeddings(&queries, &out), embeddings(&gallery, &out));

    let ours = evaluated(&[folders[0], folders[1], "--k", "7,1,2", "--approximate"], "tiny-features.onnx");
    let theirs = numpy(&asked, &found, false);
    agrees(&ours["exact"], &theirs);
    assert_eq!((&ours["judged"], &ours["k"]), (&json!(27), &json!([1, 2, 7])));
    let first = ours["exact"]["recall"][0]["percent"].as_f64().unwrap();
    assert!((10.0..100.0).contains(&first), "noise decides nothing, or all: {first}");
    // So few pictures are compared all, whatever index there is.
    assert_eq!(ours["approximate"]["neighbours"]["percent"], 100.0);
    assert_eq!(ours["approximate"]["recall"], ours["exact"]["recall"]);

    // A folder in itself: no picture finds itself.
    let ours = evaluated(&[folders[1], folders[1], "--k", "1,2,7"], "tiny-features.onnx");
    agrees(&ours["exact"], &numpy(&found, &found, true));

    // Of the foreground, as the server answers it.
    let server = Running::bare(&["--model", fixture("tiny-features.onnx").to_str().unwrap()]);
    server.wait_for("ready");
    let pooled = |root: &Path, rows: &[(String, Value)]| -> Vec<(String, Value)> {
        let of = |(path, _): &(String, Value)| {
            let picture = std::fs::read(root.join(path)).unwrap();
            let answer = server.post(&picture, "/v1/embed?pool=foreground");
            let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            (path.clone(), json["results"][0]["embedding"].clone())
        };
        rows.iter().map(of).collect()
    };
    let ours = evaluated(&[folders[0], folders[1], "--k", "1,2,7"], "tiny-features.onnx");
    agrees(&ours["foreground"], &numpy(&pooled(&queries, &asked), &pooled(&gallery, &found), false));
}

#[test]
fn pairs_and_broken_pictures_and_what_cannot_be_judged() {
    let dir = tempfile::tempdir().unwrap();
    let (queries, gallery) = (dir.path().join("queries"), dir.path().join("gallery"));
    forest(&queries, 2, 5);
    forest(&gallery, 3, 5);
    std::fs::write(queries.join("ash/broken.png"), "no picture").unwrap();
    let folders = [queries.to_str().unwrap(), gallery.to_str().unwrap()];
    let pairs = dir.path().join("pairs.csv");
    // The first two pictures of both folders are the same ones.
    std::fs::write(
        &pairs,
        "query,match\nash/0.png,ash/0.png\nash/1.png,ash/1.png\nash/broken.png,ash/0.png\n",
    )
    .unwrap();
    let ours = evaluated(&[folders[0], folders[1], "--pairs", pairs.to_str().unwrap()], "tiny.onnx");
    assert_eq!(
        (&ours["queries"], &ours["judged"], &ours["foreground"]),
        (&json!(7), &json!(2), &Value::Null)
    );
    assert_eq!(ours["exact"]["map"]["percent"], 100.0);

    let output = tool(&["evaluate", folders[0], folders[1]], "tiny.onnx");
    let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("6 of 7 queries, 9 pictures in the gallery") && text.contains("mAP"), "{text}");
    assert!(log.contains("broken.png"), "{log}");

    std::fs::write(&pairs, "query,match\nash/9.png,ash/0.png\n").unwrap();
    let said = refused(&[folders[0], folders[1], "--pairs", pairs.to_str().unwrap()]);
    assert!(said.contains("line 2: `ash/9.png` is not a picture below"), "{said}");
    let flat = queries.join("ash");
    let said = refused(&[flat.to_str().unwrap(), folders[1]]);
    assert!(said.contains("has no sub-folders"), "{said}");
}
