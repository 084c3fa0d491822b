//! docs/server.md is true: its commands run, its tables are complete.

use std::path::Path;
use std::process::Command;

use clap::{Arg, ArgAction, CommandFactory};
use occlude_serve::{Args, Kind};

use crate::binary::{Running, pictures, python};
use crate::common::*;

fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/server.md");
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn every_command_works() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("gallery"));
    let photo = image::RgbImage::from_raw(300, 200, ramp(300, 200)).unwrap();
    photo.save(dir.path().join("photo.jpg")).unwrap();
    photo.save(dir.path().join("other.png")).unwrap();
    let model = format!("model={}", fixture("tiny.onnx").display());
    let (gallery, data) = (dir.path().join("gallery"), dir.path().join("data"));
    let folders = ["--gallery", gallery.to_str().unwrap(), "--data", data.to_str().unwrap()];
    let server = Running::bare(&[&["--model", &model][..], &folders].concat());
    server.wait_for("ready");
    let (mut commands, mut inside) = (0, false);
    for line in text().lines() {
        match line {
            "```sh" => inside = true,
            "```" => inside = false,
            command if inside => {
                let command = here(command, &server);
                let output =
                    Command::new("sh").args(["-euc", &command]).current_dir(dir.path()).output().unwrap();
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "`{command}`: {error} (curl is needed)");
                commands += 1;
            }
            _ => {}
        }
    }
    assert!(commands >= 28, "{commands}");
    for array in ["embedding.npy", "embeddings.npy", "saliency.npy"] {
        assert!(std::fs::read(dir.path().join(array)).unwrap().starts_with(b"\x93NUMPY"), "{array}");
    }
    for drawn in ["overlay.png", "heat.png", "mask.png", "thumbnail.jpg"] {
        image::open(dir.path().join(drawn)).unwrap();
    }
}

/// The text with the address of the server that runs.
fn here(text: &str, server: &Running) -> String {
    let text = text.replace("http://127.0.0.1:8080", &format!("http://{}", server.address));
    text.replace("127.0.0.1:8080", &server.address)
}

#[test]
fn every_python_example_works() {
    let dir = tempfile::tempdir().unwrap();
    let photo = image::RgbImage::from_raw(300, 200, ramp(300, 200)).unwrap();
    photo.save(dir.path().join("photo.jpg")).unwrap();
    let model = format!("model={}", fixture("tiny.onnx").display());
    let server = Running::bare(&["--model", &model, "--grpc-port", "0"]);
    let grpc = server.grpc_address();
    server.wait_for("ready");
    let text = text().replace("127.0.0.1:8001", &grpc);
    let examples: Vec<_> =
        text.split("```python\n").skip(1).filter_map(|t| t.split("\n```").next()).collect();
    assert!(examples.len() >= 3, "{}", examples.len());
    for example in examples {
        python(&here(example, &server), &server, dir.path());
    }
}

#[test]
fn every_error_is_listed_with_its_status() {
    let text = text();
    for kind in Kind::ALL {
        let (status, code) = kind.status();
        let row = format!("| {} | `{code}` | ", status.as_u16());
        assert!(text.contains(&row), "{row}");
    }
    let rows = text.lines().filter(|l| l.starts_with("| 4") || l.starts_with("| 5")).count();
    assert_eq!(rows, Kind::ALL.len());
}

/// The bounds of collections are those of the library.
#[test]
fn bounds_are_the_librarys() {
    use occlude_retrieval::{
        MAX_CLAUSES, MAX_DEPTH, MAX_ID_BYTES, MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_DEPTH, MAX_VALUES,
    };
    let text = text();
    for row in [
        format!("| ids | 1 to {MAX_ID_BYTES} bytes of UTF-8 |"),
        format!("| payloads | {MAX_PAYLOAD_BYTES} bytes as JSON, nested {MAX_PAYLOAD_DEPTH} deep,"),
        format!(
            "| filters | {MAX_CLAUSES} conditions, nested {MAX_DEPTH} deep; keys of {MAX_KEY_BYTES} bytes, {MAX_VALUES} values"
        ),
        "1 to 64 of `a-z`, `0-9`, `_` and `-`".to_owned(),
        "`modified` (nanoseconds since 1970)".to_owned(),
    ] {
        assert!(text.contains(&row), "{row}");
    }
}

/// The variables that are lists are those of the flags that may be given several times, in their order.
#[test]
fn lists_are_the_flags_that_may_be_given_several_times() {
    let (text, command) = (text(), Args::command());
    let sentence = text.split_once("- Lists (").and_then(|(_, rest)| rest.split_once(')')).unwrap().0;
    let told: Vec<&str> = sentence.split(',').map(|name| name.trim().trim_matches('`')).collect();
    let lists = command.get_arguments().filter(|a| matches!(a.get_action(), ArgAction::Append));
    let name = |a: &Arg| format!("OCCLUDE_SERVE_{}", a.get_long().unwrap().replace('-', "_").to_uppercase());
    assert_eq!(told, lists.map(name).collect::<Vec<_>>());
}

#[test]
fn every_flag_is_listed_and_described() {
    let (text, command) = (text(), Args::command());
    for argument in command.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
        let flag = format!("`--{}", argument.get_long().unwrap());
        assert!(text.contains(&flag), "{flag} is not in docs/server.md");
        assert!(argument.get_help().is_some(), "{flag} has no help");
    }
}
