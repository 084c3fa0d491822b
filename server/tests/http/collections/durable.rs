//! What a full disk and a crash leave.

use std::path::Path;
use std::process::Command;

use occlude_retrieval::{Options, Store};
use serde_json::{Value, json};

use super::colour;
use crate::binary::Running;

/// A disk that is full says so, to who adds and to who watches; deleting works.
#[test]
fn a_full_disk_is_told_and_can_be_cleaned() {
    let disk = tempfile::tempdir().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "none"]).arg(disk.path()).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        occlude_skip::test("mount", "run it where file systems can be mounted, e.g. as root");
        return;
    }
    let unmount = Unmount(disk.path());
    let server = Running::start(&["--data", disk.path().join("data").to_str().unwrap()]);
    server.wait_for("ready");
    let send = |method: &str, path: &str, body: Value| {
        server.send(method, path, "application/json", body.to_string().as_bytes())
    };
    let text = |i: usize| json!({"id": i.to_string(), "image": colour([9, 9, i as u8]), "payload": {"t": "x".repeat(60_000)}});
    assert!(send("PUT", "/v1/collections/c", json!({})).contains("201"));
    assert!(server.get("/readyz").contains("\"collections\":{\"writable\":true,\"problem\":null}"));
    let full = (0..200).map(|i| send("POST", "/v1/collections/c/points", json!({"points": [text(i)]})));
    let full = full.into_iter().find(|a| !a.starts_with("HTTP/1.1 200")).unwrap();
    assert!(full.starts_with("HTTP/1.1 507") && full.contains("\"storage_full\""), "{full}");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"writable\":false"), "{ready}");
    assert!(ready.contains("no space left on the disk"), "{ready}");
    assert!(server.get("/metrics").contains("occlude_collections_writable 0"));
    let told =
        Command::new(env!("CARGO_BIN_EXE_occlude-serve")).args(["health", &server.address]).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stdout).contains("no space left on the disk"));
    // Nothing is left, not for the log either.
    let mut others = std::fs::File::create(disk.path().join("others")).unwrap();
    while std::io::Write::write_all(&mut others, &[7; 512]).is_ok() {}
    let gone = send("POST", "/v1/collections/c/points/delete", json!({"ids": ["0", "1", "2"]}));
    assert!(gone.contains("\"count\":3"), "{gone}");
    assert!(send("DELETE", "/v1/collections/c", json!({})).starts_with("HTTP/1.1 204"));
    std::fs::remove_file(disk.path().join("others")).unwrap();
    server.wait_for("are writable again");
    assert!(server.get("/readyz").contains("\"writable\":true"));
    drop((server, unmount));
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// `kill -9` while points are added: what was acknowledged is there, bit for bit, and each request wholly or not at all.
/// `OCCLUDE_KILLS` says how often (3 by default).
#[test]
fn a_kill_loses_nothing_that_was_acknowledged() {
    let kills: u64 = std::env::var("OCCLUDE_KILLS").map_or(3, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--data", dir.path().to_str().unwrap()];
    let vector = |request: u64, i: u64| -> Vec<f32> {
        (0..8).map(|j| ((request * 31 + i * 7 + j) % 97) as f32 - 40.5).collect()
    };
    let identity: Value = {
        let server = Running::start(&flags);
        server.wait_for("ready");
        let made = server.send("PUT", "/v1/collections/c", "application/json", b"");
        let json: Value = serde_json::from_str(made.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        json["identity"].clone()
    };
    let (mut sent, mut acknowledged) = (0u64, Vec::new());
    for kill in 0..kills {
        let server = Running::start(&flags);
        server.wait_for("ready");
        let id = server.id();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(20 + (kill * 7919) % 180));
            Command::new("kill").args(["-KILL", &id.to_string()]).status().unwrap();
        });
        loop {
            let points: Vec<Value> =
                (0..20).map(|i| json!({"id": format!("{sent}-{i}"), "vector": vector(sent, i)})).collect();
            let body = json!({"points": points, "identity": identity}).to_string();
            let answer =
                server.try_send("POST", "/v1/collections/c/points", "application/json", body.as_bytes());
            sent += 1;
            match answer {
                Some(answer) if answer.contains("\"added\":20") => acknowledged.push(sent - 1),
                Some(answer) if !answer.is_empty() => panic!("{answer}"),
                _ => break,
            }
        }
        killer.join().unwrap();
    }
    assert!(!acknowledged.is_empty(), "killed before anything was acknowledged");
    let store = Store::open(dir.path(), &Options::default()).unwrap();
    store.check().unwrap();
    let with = occlude_retrieval::With { vector: true, payload: false };
    let get = |request: u64| {
        let ids: Vec<String> = (0..20).map(|i| format!("{request}-{i}")).collect();
        occlude_retrieval::Engine::get(&store, "c", &ids, with).unwrap()
    };
    for request in 0..sent {
        let found = get(request);
        assert!(
            found.len() == 20 || found.is_empty() && !acknowledged.contains(&request),
            "{request}: {}",
            found.len()
        );
        for (i, record) in found.iter().enumerate() {
            let raw = vector(request, i as u64);
            let norm = raw.iter().map(|v| v * v).sum::<f32>().sqrt();
            let close = |(a, b): (&f32, &f32)| (a - b / norm).abs() < 1e-6;
            assert!(record.vector.as_ref().unwrap().iter().zip(&raw).all(close), "{request}-{i}");
        }
    }
    eprintln!("{kills} kills: {} of {sent} requests acknowledged, all there", acknowledged.len());
}
