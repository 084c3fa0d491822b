//! The commands for whole folders: collections that are filled from one, and embeddings in a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Output};

use occlude_preprocess::names::unescape;
use serde_json::{Value, json};

use crate::binary::{Running, pictures};
use crate::common::*;

fn tool(arguments: &[&str], flags: &[&str]) -> Output {
    let model = format!("small={}", fixture("tiny.onnx").display());
    Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
        .args(arguments)
        .args(["--model", &model, "--provider", "cpu"])
        .args(flags)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "stdout carries data only");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_folder_is_indexed_and_later_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, data) = (dir.path().join("photos"), dir.path().join("data"));
    pictures(&photos);
    let folder = photos.to_str().unwrap();
    let flags = ["--data", data.to_str().unwrap(), "--collection", "c", "--thumbnails", "--prune"];
    let index = || said(&tool(&["index", folder], &flags));
    let first = index();
    assert!(
        first.contains("2 encoded, 0 already present, 1 skipped, 0 deleted") && first.contains("broken.png"),
        "{first}"
    );
    std::fs::write(photos.join("blue/c.png"), png(30, 30, [0, 0, 9])).unwrap();
    std::fs::write(photos.join("blue/b.png"), png(31, 30, [0, 0, 99])).unwrap();
    std::fs::remove_file(photos.join("red/a.png")).unwrap();
    let second = index();
    assert!(second.contains("2 encoded, 0 already present, 1 skipped, 1 deleted"), "{second}");
    let third = index();
    assert!(third.contains("0 encoded, 2 already present, 1 skipped, 0 deleted"), "{third}");

    let server = Running::start(&["--data", data.to_str().unwrap()]);
    server.wait_for("collection `c`: 2 points");
    server.wait_for("ready");
    let collection = server.send("GET", "/v1/collections/c", "application/json", b"");
    assert!(collection.contains(r#""model":"small""#), "{collection}");
    let body =
        json!({"id": "blue/b.png", "filter": {"must": [{"key": "class", "match": "blue"}]}}).to_string();
    let found = server.send("POST", "/v1/collections/c/search", "application/json", body.as_bytes());
    assert!(found.contains("blue/c.png") && found.contains("data:image/jpeg;base64,"), "{found}");
    let locked = said(&tool(&["index", folder], &flags));
    assert!(locked.contains("open in another process"), "{locked}");
}

/// Ids are paths, and not every path is one.
#[test]
fn a_path_that_is_too_long_for_an_id_stops_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, data) = (dir.path().join("photos"), dir.path().join("data"));
    pictures(&photos);
    let deep = photos.join("blue").join("d".repeat(200)).join("e".repeat(100));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("c.png"), png(30, 30, [0, 0, 9])).unwrap();
    let flags = ["--data", data.to_str().unwrap(), "--collection", "c"];
    let index = || said(&tool(&["index", photos.to_str().unwrap()], &flags));
    let first = index();
    assert!(first.contains("2 encoded, 0 already present, 2 skipped, 0 deleted"), "{first}");
    assert!(first.contains("eee/c.png") && first.contains("at most 256"), "{first}");
    assert!(index().contains("0 encoded, 2 already present, 2 skipped, 0 deleted"));
}

#[test]
fn a_folder_is_embedded_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    pictures(&photos);
    let folder = photos.to_str().unwrap();
    let out = |name: &str| dir.path().join(name);
    let embed = |name: &str, flags: &[&str]| {
        let path = out(name);
        let all: Vec<&str> =
            ["--out", path.to_str().unwrap()].into_iter().chain(flags.iter().copied()).collect();
        tool(&["embed", folder], &all)
    };
    for name in ["e.npy", "e.parquet", "e.jsonl"] {
        let run = embed(name, &[]);
        assert!(run.status.success(), "{}", said(&run));
        assert!(said(&run).contains("wrote 2 embeddings"), "{}", said(&run));
        assert!(!out(&format!("{name}.partial")).exists());
    }
    let lines = std::fs::read_to_string(out("e.jsonl")).unwrap();
    let rows: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((rows[0]["path"].as_str(), rows[0]["class"].as_str()), (Some("blue/b.png"), Some("blue")));
    let npy = std::fs::read(out("e.npy")).unwrap();
    let numbers: Vec<f32> =
        npy[npy.len() - 64..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    let told: Vec<f32> = rows.iter().flat_map(|r| floats(&r["embedding"])).collect();
    assert_eq!(numbers, told);
    assert_eq!(std::fs::read_to_string(out("e.paths.txt")).unwrap(), "blue/b.png\nred/a.png\n");
    assert!(std::fs::read(out("e.parquet")).unwrap().starts_with(b"PAR1"));
    // The server says the same.
    let server = Running::start(&[]);
    server.wait_for("ready");
    let answer = server.post(&std::fs::read(photos.join("blue/b.png")).unwrap(), "/v1/embed");
    let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert!(cosine(&floats(&json["results"][0]["embedding"]), &told[..8]) > 0.999_999);

    assert!(said(&embed("e.npy", &[])).contains("`--force` replaces it"));
    assert!(embed("e.npy", &["--force"]).status.success());
    assert!(said(&embed("e.csv", &[])).contains(".parquet"));
    std::fs::write(out("f.jsonl.partial"), "occlude-embed 1 another 8\n").unwrap();
    let other = embed("f.jsonl", &[]);
    assert!(!other.status.success() && said(&other).contains("model another"), "{}", said(&other));
}

/// A row of the matrix is the line of the same number, whatever is in a name.
#[test]
fn rows_belong_to_their_files_whatever_these_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let (photos, out) = (dir.path().join("photos"), dir.path().join("e.npy"));
    std::fs::create_dir_all(photos.join("50%")).unwrap();
    let names: [&[u8]; 9] = [
        b"a\nb.png",
        b"a%0Ab.png",
        b"a%250Ab.png",
        b"caf\xe8.png",
        b"caf\xe9.png",
        "caf\u{e9}.png".as_bytes(),
        b"50%/x\r\n\t.png",
        b"50%/%.png",
        b" plain .png",
    ];
    let mut state = 7u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for name in names {
        let pixels: Vec<u8> = (0..48 * 40 * 3).map(|_| noise() / 2).collect();
        // Each with a colour of its own under the noise.
        let tint = [noise() / 2, noise() / 2, noise() / 2];
        let pixels: Vec<u8> = pixels.iter().zip(tint.iter().cycle()).map(|(p, t)| p + t).collect();
        std::fs::write(photos.join(OsStr::from_bytes(name)), png_of(48, 40, &pixels)).unwrap();
    }
    let run = tool(&["embed", photos.to_str().unwrap()], &["--out", out.to_str().unwrap()]);
    assert!(run.status.success(), "{}", said(&run));

    let text = std::fs::read_to_string(dir.path().join("e.paths.txt")).unwrap();
    let found: Vec<Vec<u8>> = text.lines().map(unescape).collect();
    let mut sorted = found.clone();
    sorted.sort();
    let mut expected: Vec<_> = names.iter().map(|n| n.to_vec()).collect();
    expected.sort();
    assert_eq!(sorted, expected);
    let npy = std::fs::read(&out).unwrap();
    let numbers: Vec<f32> = npy[npy.len() - found.len() * 8 * 4..]
        .chunks(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let server = Running::start(&[]);
    server.wait_for("ready");
    for (i, name) in found.iter().enumerate() {
        let file = std::fs::read(photos.join(OsStr::from_bytes(name))).unwrap();
        let answer = server.post(&file, "/v1/embed");
        let json: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let own = floats(&json["results"][0]["embedding"]);
        let near = |row: &[f32]| cosine(&own, row);
        let rows: Vec<f64> = numbers.chunks(8).map(near).collect();
        for (j, &cosine) in rows.iter().enumerate() {
            assert_eq!(cosine > 0.999_999, i == j, "{}, row {j}: {rows:?}", name.escape_ascii());
        }
    }
}
