//! `embed` from and into a bucket of a real S3 server (SeaweedFS): killed processes, and what can be wrong with addresses.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use occlude_weed::{Key, ObjectStore, ObjectStoreExt, SECRETS, Weed, block_on, port};

use crate::shards::{embed, killed_and_again, rows, shards, whole};

fn command(weed: &Weed, arguments: &[&str]) -> Command {
    let mut command = embed("tiny.onnx", arguments);
    weed.tell(&mut command);
    command
}

#[test]
fn buckets_are_read_and_filled_by_processes_that_are_killed() {
    let Some(weed) = Weed::start() else { return };
    let (made, names) = shards(12, 20, 300);
    for (name, bytes) in made {
        weed.put(&format!("in/{name}"), bytes);
    }
    let arguments = ["s3://occlude/in", "--out", "s3://occlude/out"];
    killed_and_again(&|| command(&weed, &arguments), 11);
    let found = block_on(async {
        let client = weed.client();
        let listed: Vec<_> = client.list(Some(&Key::from("out"))).try_collect().await.unwrap();
        let mut found = BTreeMap::new();
        for meta in listed {
            let bytes = client.get(&meta.location).await.unwrap().bytes().await.unwrap();
            found.insert(meta.location.to_string(), rows(bytes));
        }
        found
    });
    assert_eq!(found.len(), 12, "{:?}", found.keys());
    whole(&found, &names);
    let again = command(&weed, &arguments).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && said.contains("0 written with 0 rows (0 broken), 12 already there"),
        "{said}"
    );
    // pictures that are objects of their own, into a folder
    let folder = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "b/2.png", "b/.hidden.png", "b/notes.txt"] {
        let picture = crate::shards::noise(name.len() as u32, 40);
        weed.put(&format!("photos/{name}"), picture);
    }
    let out = folder.path().to_str().unwrap();
    let run = command(&weed, &["s3://occlude/photos/", "--out", out]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 written with 2 rows (0 broken)"), "{said}");
    wrong_addresses(&weed);
}

fn wrong_addresses(weed: &Weed) {
    let refused = |command: &mut Command, parts: &[&str]| {
        let start = Instant::now();
        let run = command.output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
        assert!(start.elapsed() < Duration::from_secs(60), "it waited for {:?}", start.elapsed());
    };
    let into = |out: &'static str| command(weed, &["s3://occlude/in", "--out", out]);
    refused(&mut into("s3://no-such-bucket/out"), &["`s3://no-such-bucket/out`", "hint: create the bucket"]);
    refused(&mut into("s3://occlude/in/out"), &["lies in the input"]);
    let mut empty = command(weed, &["s3://occlude/nothing", "--out", "s3://occlude/out"]);
    refused(&mut empty, &["no tar shards and no pictures below `s3://occlude/nothing`"]);
    refused(into("s3://occlude/out").env("AWS_SECRET_ACCESS_KEY", "wrong"), &["hint: the credentials"]);
    // a port that nobody listens on
    let closed = format!("http://127.0.0.1:{}", port());
    refused(into("s3://occlude/out").env("AWS_ENDPOINT", closed), &["`s3://occlude/in`", "AWS_"]);
    let mut without = into("s3://occlude/out");
    for (name, _) in SECRETS {
        without.env_remove(name);
    }
    // where a cloud's own machines would ask for credentials
    without.env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{}", port()));
    refused(&mut without, &["`s3://occlude/in`", "hint: no credentials in the environment"]);
}
