//! What every tool does when it is used wrongly: the exit status of docs, a message that names the culprit, and
//! nothing on stdout.

use occlude_tests::{pictures, run};
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A job that failed.
const FAILED: i32 = 1;
/// A command line that makes no sense.
const USAGE: i32 = 2;

/// A folder with one good tree, one empty folder, one text file under an image's and a model's names.
fn place() -> &'static PathBuf {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = run::scratch("usage");
        pictures::tree(&folder.join("good"), 2, 3);
        fs::create_dir(folder.join("empty")).unwrap();
        for name in ["text.safetensors", "text.onnx", "text.pth"] {
            fs::write(folder.join(name), "this is no model\n").unwrap();
        }
        folder
    })
}

/// Runs `line` with `@` standing for the folder; checks status, message and silence.
fn refused(tool: &str, line: &str, code: i32, names: &str) {
    let line = line.replace('@', &place().display().to_string());
    let said = run::words(tool, &line);
    assert_eq!(said.code, code, "`{tool} {line}`\nstdout: {}\nstderr: {}", said.stdout, said.stderr);
    assert!(said.stderr.contains(names), "`{tool} {line}` does not name `{names}`:\n{}", said.stderr);
    assert_eq!(said.stdout, "", "`{tool} {line}` wrote data");
}

#[test]
fn help_and_version_are_data() {
    for tool in xtask::paths::TOOLS {
        for flag in ["--help", "--version"] {
            let said = run::words(tool, flag).ok();
            assert!(said.stdout.contains("occlude"), "{tool} {flag}: {}", said.stdout);
            assert_eq!(said.stderr, "");
        }
    }
}

#[test]
fn unknown_flags_are_wrong_usage() {
    refused(
        "occlude-train",
        "pretrain @/good --recipe moco-v2 --out @/run --no-such-flag",
        USAGE,
        "--no-such-flag",
    );
    refused("occlude-export", "onnx a b --no-such-flag", USAGE, "--no-such-flag");
    refused("occlude-detectron", "convert a b --no-such-flag", USAGE, "--no-such-flag");
    refused("occlude-serve", "--model a --no-such-flag", USAGE, "--no-such-flag");
}

#[test]
fn missing_files_are_named() {
    refused("occlude-train", "pretrain @/nowhere --recipe moco-v2 --out @/run", FAILED, "nowhere");
    refused("occlude-train", "knn @/gone.safetensors @/good @/good", FAILED, "gone.safetensors");
    refused("occlude-train", "embed @/gone.safetensors @/good", FAILED, "gone.safetensors");
    refused(
        "occlude-train",
        "bn-refresh @/gone.safetensors @/good --out @/new.safetensors",
        FAILED,
        "gone.safetensors",
    );
    refused("occlude-train", "localise @/gone.safetensors @/good --masks @/nowhere", FAILED, "nowhere");
    refused("occlude-export", "onnx @/gone.safetensors @/out.onnx", FAILED, "gone.safetensors");
    refused("occlude-export", "hub @/gone.safetensors @/hub", FAILED, "gone.safetensors");
    refused("occlude-export", "verify @/gone.onnx @/gone.safetensors @/good", FAILED, "gone.");
    refused("occlude-export", "inspect @/gone.safetensors", FAILED, "gone.safetensors");
    refused("occlude-detectron", "convert @/gone.safetensors @/out.pkl", FAILED, "gone.safetensors");
    refused("occlude-detectron", "pseudo-boxes @/good --model @/gone.onnx -o @/c.json", FAILED, "gone.onnx");
    refused("occlude-serve", "--model @/gone.onnx --port 0", FAILED, "gone.onnx");
}

#[test]
fn files_of_another_kind_are_named() {
    refused("occlude-train", "knn @/text.safetensors @/good @/good", FAILED, "text.safetensors");
    refused(
        "occlude-train",
        "bn-refresh @/text.safetensors @/good --out @/new.safetensors",
        FAILED,
        "text.safetensors",
    );
    refused("occlude-export", "onnx @/text.pth @/out.onnx", FAILED, "text.pth");
    refused("occlude-export", "inspect @/text.onnx", FAILED, "text.onnx");
    refused("occlude-detectron", "convert @/text.safetensors @/out.pkl", FAILED, "text.safetensors");
    refused("occlude-detectron", "pseudo-boxes @/good --model @/text.onnx -o @/c.json", FAILED, "text.onnx");
    refused("occlude-serve", "--model @/text.onnx --port 0", FAILED, "text.onnx");
    assert!(
        !place().join("out.onnx").exists() && !place().join("out.pkl").exists(),
        "nothing is left behind"
    );
}

#[test]
fn a_run_that_cannot_work_is_refused_before_it_starts() {
    refused("occlude-train", "pretrain @/empty --recipe moco-v2 --out @/run", FAILED, "empty");
    refused(
        "occlude-train",
        "pretrain @/good --recipe moco-v2 --out @/run --batch-size 4096",
        FAILED,
        "4096",
    );
    refused("occlude-train", "pretrain @/good --out @/run --recipe no-such-recipe", USAGE, "no-such-recipe");
    refused(
        "occlude-train",
        "pretrain @/good --recipe moco-v2 --out @/run --arch resnet19",
        USAGE,
        "resnet19",
    );
    refused(
        "occlude-train",
        "pretrain @/good --recipe moco-v2 --out @/run --resume @/gone.safetensors",
        FAILED,
        "gone.safetensors",
    );
    refused(
        "occlude-train",
        "pretrain @/good --recipe saliency-moco --out @/run --mask-course 0.6 0.2 0.9",
        USAGE,
        "--mask-course",
    );
    assert!(!place().join("run").exists(), "no run folder is left behind");
}

#[test]
fn contradicting_server_flags_are_wrong_usage() {
    refused("occlude-serve", "--model @/text.onnx --max-batch 0", USAGE, "--max-batch");
    refused("occlude-serve", "--model @/text.onnx --max-batch 9 --max-queue 4", USAGE, "--max-queue");
}

/// What a recipe becomes with its flags: the sizes that follow from the view on stdout, and on stderr what is hardly ever
/// meant. The same is told when a run begins, whose `config.json` has the sizes.
#[test]
fn pretrain_tells_what_follows_from_its_flags_and_warns() {
    let show = |flags: &str| {
        let line = format!("pretrain @/nowhere --recipe saliency-moco {flags} --show-config");
        run::words("occlude-train", &line.replace('@', &place().display().to_string())).ok()
    };
    let plain = show("");
    let filter = json!({ "high_pass": { "side": 11, "sigma": 5.0 }, "focal_query": 200, "focal_negative": 130, "cells": 7 });
    assert_eq!((&plain.json()["resolved"]["masking"], plain.stderr.as_str()), (&filter, ""));
    let small = show("--image-size 112 --strategy blur");
    let blur = json!({ "blur": { "side": 15, "sigma": 5.0 }, "cells": 4 });
    assert_eq!((&small.json()["resolved"]["masking"], small.stderr.as_str()), (&blur, ""));
    let published = show("--image-size 112 --strategy blur --fills published").json();
    assert_eq!(published["resolved"]["masking"]["blur"], json!({ "side": 31, "sigma": 10.0 }));
    let warning = "warning: `--alpha 2` with 4096 negatives at temperature 0.2: ";
    let warned = show("--queue 4096");
    assert!(warned.stderr.starts_with(warning) && warned.stderr.contains("s* = 0.83"), "{}", warned.stderr);
    // A run warns before it looks at the pictures, which are nowhere.
    let line = format!(
        "pretrain {}/nowhere --recipe saliency-moco --queue 4096 --device cpu --out",
        place().display()
    );
    let said = run::words("occlude-train", &format!("{line} {}", place().join("run-warned").display()));
    assert_eq!(said.code, FAILED, "{}", said.stderr);
    assert!(said.stderr.starts_with(warning) && said.stderr.contains("nowhere"), "{}", said.stderr);
}

/// A reader that has read enough, or a terminal that is gone, is no reason to panic.
#[test]
fn the_trainer_survives_closed_outputs() {
    let tool = run::tool("occlude-train");
    let line =
        format!("{} pretrain x --recipe moco-v2 --show-config | head -n 1; {0} doctor 2>&-", tool.display());
    let said = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(out.starts_with('{') && !err.contains("panicked"), "{out}\n{err}");
    assert!(matches!(said.status.code(), Some(0 | 1)), "{:?}", said.status);
}
