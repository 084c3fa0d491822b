//! A process that writes, killed again and again at any moment: what it acknowledged is there, bit for bit.
//!
//! `OCCLUDE_KILLS` says how often; few by default, because every one starts a process.

use std::io::{BufRead, BufReader, Write};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use occlude_retrieval::{Engine, Point, Query};
use serde_json::json;

use crate::tools::*;

const DIM: usize = 64;
const BATCH: usize = 20;
/// Every batch takes the place of this many points of the one before.
const SHARED: usize = 5;
const FOLDER: &str = "OCCLUDE_TEST_STORE";

/// Points of a batch: a few with the ids of the batch before, the others new; those of the batch itself differ by `n`.
fn batch(n: usize) -> Vec<Point> {
    let mut random = Random(n as u64 + 77);
    let id = |i: usize| n * (BATCH - SHARED) + i;
    (0..BATCH)
        .map(|i| point(&format!("{:09}", id(i)), &random.vector(DIM), json!({"n": n, "i": i})))
        .collect()
}

/// The process that is killed; in any other one there is nothing to do. Started by `acknowledged_batches_survive`.
#[test]
fn child() {
    let Ok(dir) = std::env::var(FOLDER) else { return };
    let store = approximate(Path::new(&dir));
    let first = store.count("c", None).unwrap().saturating_sub(SHARED) / (BATCH - SHARED);
    let mut out = std::io::stdout().lock();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            loop {
                store.maintain(&|| true).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        writeln!(out, "\nwriting").unwrap();
        for n in first.. {
            store.upsert("c", PRINT, &batch(n)).unwrap();
            writeln!(out, "acknowledged {n}").unwrap();
        }
    });
}

/// Starts the process, kills it after a while; tells the last batch that it acknowledged.
fn run_and_kill(dir: &Path, after: Duration) -> Option<usize> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["killed::child", "--exact", "--nocapture"]).env(FOLDER, dir);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "writing"), "the process did not get so far");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        child.kill().unwrap();
        child.wait().unwrap()
    });
    let last = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok()).last();
    assert!(!killer.join().unwrap().success());
    last
}

#[test]
fn acknowledged_batches_survive() {
    let kills: u64 = std::env::var("OCCLUDE_KILLS").map_or(10, |n| n.parse().expect("a number"));
    let dir = tempfile::tempdir().unwrap();
    let store = approximate(dir.path());
    store.create_collection("c", &spec(DIM)).unwrap();
    drop(store);
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), "seed") | 1;
    println!("seed {seed}");
    let mut random = Random(seed);
    let (mut acknowledged, mut open_ended, mut unanswered, mut indexes) = (0, 0, 0, 0);
    for kill in 0..kills {
        let last = run_and_kill(dir.path(), Duration::from_micros(random.below(150_000) as u64));
        acknowledged = last.map_or(acknowledged, |n| n + 1);
        // each one that died may have written a batch that it had no time to tell of
        open_ended = if last.is_some() { 1 } else { open_ended + 1 };
        if kill % 4 == 3 {
            // the next one after a crash is a writer too
            continue;
        }
        let store = approximate(dir.path());
        let (batches, indexed) = inspect(&store, acknowledged..=acknowledged + open_ended);
        unanswered += batches - acknowledged;
        indexes += usize::from(indexed > 0);
        (acknowledged, open_ended) = (batches, 0);
    }
    println!(
        "{acknowledged} batches, {unanswered} of them there unanswered, {indexes} indexes taken over after a kill"
    );
    assert!(acknowledged > kills as usize, "{acknowledged} batches: the kills hit nothing");
}

/// Checks every point; tells how many batches there are.
fn inspect(store: &occlude_retrieval::Store, expected: RangeInclusive<usize>) -> (usize, usize) {
    store.check().unwrap();
    let info = store.collection("c").unwrap();
    let new = BATCH - SHARED;
    let batches = info.count.saturating_sub(SHARED) / new;
    assert!(
        info.count == 0 || info.count == batches * new + SHARED,
        "{} points: a part of a batch",
        info.count
    );
    assert!(expected.contains(&batches), "{batches} batches, expected {expected:?}");
    for n in 0..batches {
        let points = batch(n);
        // the last few are those of the batch behind
        let kept = if n + 1 == batches { BATCH } else { new };
        let ids: Vec<String> = points[..kept].iter().map(|p| p.id.clone()).collect();
        let records = store.get("c", &ids, ALL).unwrap();
        assert_eq!(records.len(), kept, "batch {n}");
        for (record, point) in records.iter().zip(&points) {
            let (found, expected) = (record.vector.as_ref().unwrap(), unit(&point.vector));
            assert!(found.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", record.id);
            assert_eq!(record.payload.as_ref(), Some(&point.payload));
        }
    }
    if let Some(n) = batches.checked_sub(1) {
        for point in &batch(n) {
            assert_eq!(ids(store, "c", &Query::vector(point.vector.clone(), 1)), [point.id.as_str()]);
        }
    }
    (batches, info.indexed)
}
