//! Training and evaluation from shards in a bucket of a real S3 server (SeaweedFS): the same bits as from the same shards on
//! the disk, kept or not; and what becomes of a run whose bucket is gone.

#![cfg(feature = "object-store")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use occlude_weed::{SECRETS, Weed};

const FLAGS: &str = "--recipe saliency-moco-small --arch resnet18 --image-size 32 --batch-size 8 --device cpu \
    --threads 1 --workers 2 --cache 0 --log-every 1 --seed 3";
/// Where the shards lie.
const ADDRESS: &str = "s3://occlude/data";

fn pictures(dir: &Path) {
    for i in 0..40u32 {
        let class = dir.join(if i % 2 == 0 { "a" } else { "b" });
        fs::create_dir_all(&class).expect("a folder");
        let pixel = |x: u32, y: u32| image::Rgb([(x * (i + 1)) as u8, (y * 3 + i * x) as u8, (i * 6) as u8]);
        image::RgbImage::from_fn(48, 40, pixel).save(class.join(format!("{i:02}.png"))).expect("written");
    }
}

/// `occlude-train` with a cache of its own.
fn train(weed: &Weed, dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-train"));
    weed.tell(&mut command);
    command.env("OCCLUDE_CACHE", dir.join("cache")).env_remove("OCCLUDE_SHARD_CACHE").args(arguments);
    command
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(command: &mut Command) -> (String, String) {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{}", told(&output));
    (String::from_utf8_lossy(&output.stdout).into_owned(), told(&output))
}

fn pretrain(weed: &Weed, dir: &Path, data: &str, out: &str) -> Command {
    epochs(weed, dir, data, (out, "2"))
}

fn epochs(weed: &Weed, dir: &Path, data: &str, (out, epochs): (&str, &str)) -> Command {
    let out = dir.join(out);
    let own = ["pretrain", data, "--out", out.to_str().expect("UTF-8"), "--epochs", epochs];
    train(weed, dir, &own.into_iter().chain(FLAGS.split_whitespace()).collect::<Vec<_>>())
}

/// Losses of all steps, as they were written.
fn losses(dir: &Path, run: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(run).join("metrics.jsonl")).expect("metrics");
    let loss = |line: &str| -> Option<String> {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (value["kind"] == "step").then(|| value["loss"].to_string())
    };
    text.lines().filter_map(loss).collect()
}

fn kept(dir: &Path) -> usize {
    let is_shard = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "tar");
    fs::read_dir(dir.join("cache/shards")).map_or(0, |all| all.flatten().filter(is_shard).count())
}

#[test]
fn a_run_from_a_bucket_is_one_from_the_disk() {
    let Some(weed) = Weed::start() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let dir = dir.path();
    let local = dir.join("shards");
    pictures(&dir.join("pictures"));
    let [from, to] = [dir.join("pictures"), local.clone()].map(|p| p.to_str().expect("UTF-8").to_owned());
    done(&mut train(&weed, dir, &["dataset", "shards", &from, &to, "--size", "60kB"]));
    let mut shards = 0;
    let mut largest = 0;
    for entry in fs::read_dir(&local).expect("listed") {
        let entry = entry.expect("an entry");
        let bytes = fs::read(entry.path()).expect("read");
        let name = entry.file_name().into_string().expect("UTF-8");
        if name.ends_with(".tar") {
            shards += 1;
            largest = largest.max(bytes.len());
        }
        weed.put(&format!("data/{name}"), bytes);
    }
    assert!(shards > 2, "{shards} shards");

    done(&mut pretrain(&weed, dir, &to, "local"));
    let expected = losses(dir, "local");
    assert!(!expected.is_empty());
    // nothing kept; some; all; then all from what was kept
    let rooms =
        [("none", "0".to_owned(), 0), ("some", format!("{largest}B"), 1), ("all", "1GB".to_owned(), shards)];
    for (run, room, count) in rooms {
        let (_, said) = done(pretrain(&weed, dir, ADDRESS, run).env("OCCLUDE_SHARD_CACHE", room));
        assert_eq!(losses(dir, run), expected, "{run}: {said}");
        assert_eq!(kept(dir), count, "{run}: {said}");
        assert_eq!(said.contains("read picture by picture"), run == "some", "{run}: {said}");
    }
    let (_, said) = done(&mut pretrain(&weed, dir, ADDRESS, "again"));
    assert_eq!((losses(dir, "again"), said.contains("fetching")), (expected, false), "{said}");

    let last = fs::read_to_string(dir.join("local/last")).expect("read");
    let checkpoint = dir.join("local").join(last.trim());
    let knn = |data: &str| {
        let checkpoint = checkpoint.to_str().expect("UTF-8");
        let flags = ["knn", checkpoint, data, data, "--device", "cpu", "--k", "3", "--json"];
        let found: serde_json::Value =
            serde_json::from_str(&done(&mut train(&weed, dir, &flags)).0).expect("JSON");
        found["results"].clone()
    };
    let found = knn(ADDRESS);
    assert!(found[0]["top1"].is_number(), "{found}");
    assert_eq!(found, knn(&to));
    let (checked, _) = done(&mut train(&weed, dir, &["dataset", "check", ADDRESS]));
    assert!(checked.contains("40"), "{checked}");
    refusals(&weed, dir);
    lost(weed, dir);
}

fn refusals(weed: &Weed, dir: &Path) {
    weed.put("photos/a.png", "no picture".as_bytes().to_vec());
    let refused = |command: &mut Command, parts: &[&str]| {
        let output = command.output().expect("started");
        let said = told(&output);
        assert!(
            !output.status.success() && parts.iter().all(|part| said.contains(part)),
            "{parts:?}: {said}"
        );
    };
    refused(
        &mut pretrain(weed, dir, "s3://occlude/photos", "x"),
        &["`s3://occlude/photos` holds 1 pictures and no tar shard", "dataset shards"],
    );
    refused(&mut pretrain(weed, dir, "s3://occlude/none", "x"), &["below `s3://occlude/none`", "hint:"]);
    refused(
        pretrain(weed, dir, ADDRESS, "x").env("OCCLUDE_SHARD_CACHE", "much"),
        &["OCCLUDE_SHARD_CACHE is `much`", "`200GB`"],
    );
    refused(
        pretrain(weed, dir, ADDRESS, "x").env("OCCLUDE_BUCKET_PATIENCE", "long"),
        &["OCCLUDE_BUCKET_PATIENCE is `long`", "whole seconds"],
    );
    let mut without = pretrain(weed, dir, ADDRESS, "x");
    for (name, _) in SECRETS {
        without.env_remove(name);
    }
    without.env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{}", occlude_weed::port()));
    refused(&mut without, &["`s3://occlude/data`", "no credentials in the environment"]);
}

/// A run that keeps nothing loses its bucket.
fn lost(weed: Weed, dir: &Path) {
    let mut command = epochs(&weed, dir, ADDRESS, ("lost", "100000"));
    command.env("OCCLUDE_SHARD_CACHE", "0").env("OCCLUDE_BUCKET_PATIENCE", "5");
    command.args(["--save-minutes", "0.001"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("started");
    let began = Instant::now();
    // its first checkpoint may be there before the first line, and a line before its end
    let steps = || fs::read_to_string(dir.join("lost/metrics.jsonl")).map_or(0, |text| text.lines().count());
    while !dir.join("lost/last").exists() || steps() < 9 {
        let ended = child.try_wait().expect("waited").is_some();
        assert!(!ended && began.elapsed() < Duration::from_secs(120), "ended: {ended}");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(weed);
    while child.try_wait().expect("waited").is_none() {
        assert!(began.elapsed() < Duration::from_secs(180), "it waits for ever");
        std::thread::sleep(Duration::from_millis(200));
    }
    let output = child.wait_with_output().expect("ended");
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("from its bucket") && said.contains("`--resume` continues"), "{said}");
    assert_eq!(said.matches("cannot read").count(), 1, "no picture is called broken: {said}");
}
