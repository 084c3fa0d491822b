//! A disk that others have filled: a small file system of this test's own.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use occlude_retrieval::{Engine, Kind, Options, Store};
use serde_json::json;

use crate::tools::*;

/// A file system of some megabytes, for as long as it lives.
struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`, and a word about it, where the machine does not let the test have one.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(dir.path()).output();
        if mounted.is_ok_and(|m| m.status.success()) {
            return Some(Self(dir));
        }
        occlude_skip::test("mount", "run it where file systems can be mounted, e.g. as root");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut file = File::create(self.path().join("others")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        while file.write_all(&[7]).is_ok() {}
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn points_can_be_deleted_from_a_full_disk() {
    let Some(disk) = Disk::new() else { return };
    let dir = disk.path().join("data");
    let options = Options { reserve: 512 << 10, ..Options::default() };
    let store = Store::open(&dir, &options).unwrap();
    store.create_collection("c", &spec(64)).unwrap();
    store.create_collection("d", &spec(64)).unwrap();
    let mut random = Random(1);
    let points: Vec<_> = (0..200).map(|i| point(&i.to_string(), &random.vector(64), json!({}))).collect();
    store.upsert("c", PRINT, &points).unwrap();
    store.probe().unwrap();
    disk.fill();
    assert_eq!(store.probe().unwrap_err().kind(), Kind::Full);
    let more: Vec<_> = (0..4000).map(|i| point(&format!("m{i}"), &random.vector(64), json!({}))).collect();
    assert_eq!(store.upsert("c", PRINT, &more).unwrap_err().kind(), Kind::Full);
    // As many as the log takes without the reserve would be deleted in any case.
    let ids: Vec<String> = points.iter().map(|p| p.id.clone()).collect();
    for some in ids.chunks(100) {
        assert_eq!(store.delete("c", some).unwrap(), 100);
    }
    assert_eq!(store.count("c", None).unwrap(), 0);
    store.drop_collection("d").unwrap();
    assert!(!dir.join("reserve").exists() || store.probe().is_err());
    std::fs::remove_file(disk.path().join("others")).unwrap();
    store.maintain(&|| true).unwrap();
    assert!(dir.join("reserve").exists(), "there is room again");
    store.probe().unwrap();
    store.upsert("c", PRINT, &points).unwrap();
}
