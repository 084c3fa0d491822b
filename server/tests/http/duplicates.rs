//! `occlude-serve duplicates`: copies are found, whatever they are called.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::*;

fn tool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_occlude-serve")).args(arguments).output().unwrap()
}

fn picture(path: &Path, tint: u8) {
    let pixels: Vec<u8> =
        ramp(48, 40).iter().enumerate().map(|(i, v)| if i % 3 == 0 { tint } else { v / 2 }).collect();
    std::fs::write(path, png_of(48, 40, &pixels)).unwrap();
}

#[test]
fn copies_are_one_group() {
    let dir = tempfile::tempdir().unwrap();
    let (pictures, data) = (dir.path().join("pictures"), dir.path().join("data"));
    std::fs::create_dir(&pictures).unwrap();
    for (name, tint) in [("a", 0), ("b", 120), ("c", 0), ("d", 250), ("e", 0), ("f", 120)] {
        picture(&pictures.join(format!("{name}.png")), tint);
    }
    let (pictures, data) = (pictures.to_str().unwrap(), data.to_str().unwrap());
    let model = format!("tiny={}", fixture("tiny.onnx").display());
    let indexed =
        ["index", pictures, "--model", &model, "--provider", "cpu", "--collection", "all", "--data", data];
    assert!(tool(&indexed).status.success());
    let found = ["duplicates", "--data", data, "--collection", "all", "--threshold", "0.99999"];
    let json = tool(&[&found[..], &["--json"]].concat());
    assert!(json.status.success(), "{}", String::from_utf8_lossy(&json.stderr));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["points"], 6);
    let ids: Vec<String> =
        report["groups"].as_array().unwrap().iter().map(|group| group["ids"].to_string()).collect();
    assert_eq!(ids, [r#"["a.png","c.png","e.png"]"#, r#"["b.png","f.png"]"#]);
    assert_eq!(report["groups"][0]["pairs"].as_array().unwrap().len(), 3);
    let text = String::from_utf8(tool(&[&found[..], &["--exact"]].concat()).stdout).unwrap();
    assert!(text.contains("2 groups") && text.contains("3 points beyond the first"), "{text}");
    let missing = tool(&["duplicates", "--data", data, "--collection", "other"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("`other`"));
}
