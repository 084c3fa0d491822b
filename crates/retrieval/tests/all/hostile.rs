//! Files that are not what the store wrote.

use std::fs;
use std::path::{Path, PathBuf};

use occlude_retrieval::{Engine, Kind, Options, Point, Query, Store};
use serde_json::json;

use crate::tools::*;

const DIM: usize = 16;

type Damage = fn(&Path);

fn refused(dir: &Path) -> (Kind, String) {
    let error = Store::open(dir, &Options::default()).err().expect("the store is refused");
    (error.kind(), error.to_string())
}

fn filled(dir: &Path) -> Vec<Point> {
    let store = approximate(dir);
    store.create_collection("c", &spec(DIM)).unwrap();
    let mut random = Random(5);
    let points: Vec<Point> =
        (0..300).map(|i| point(&format!("{i:03}"), &random.vector(DIM), json!({"i": i}))).collect();
    store.upsert("c", PRINT, &points).unwrap();
    assert_eq!(store.maintain(&|| true).unwrap().indexed, 300);
    points
}

fn caches(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    all.filter(|p| p.to_str().unwrap().contains("cache-")).collect()
}

fn works(store: &Store, points: &[Point]) {
    for point in points.iter().step_by(7) {
        assert_eq!(ids(store, "c", &Query::vector(point.vector.clone(), 1)), [point.id.as_str()]);
    }
}

#[test]
fn a_saved_index_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let points = filled(dir.path());
    assert_eq!(caches(dir.path()).len(), 1);
    let store = approximate(dir.path());
    assert_eq!(store.collection("c").unwrap().indexed, 300);
    works(&store, &points);
    let done = store.maintain(&|| true).unwrap();
    assert_eq!((done.indexed, done.rebuilt, done.saved), (0, 0, 0));
    store.upsert("c", PRINT, &[point("new", &[1.0; DIM], json!({}))]).unwrap();
    assert_eq!(ids(&store, "c", &Query::vector(vec![1.0; DIM], 1)), ["new"], "not in the index yet");
    assert_eq!(store.maintain(&|| true).unwrap().indexed, 1);
    drop(store);
    assert_eq!(caches(dir.path()).len(), 1, "the one before is deleted");
    assert_eq!(approximate(dir.path()).collection("c").unwrap().indexed, 301);
}

#[test]
fn a_broken_index_is_built_anew() {
    let breakages: [(&str, Damage); 6] = [
        ("cut", |p| fs::write(p, &fs::read(p).unwrap()[..1000]).unwrap()),
        ("empty", |p| fs::write(p, []).unwrap()),
        ("gone", |p| fs::remove_file(p).unwrap()),
        ("longer", |p| fs::write(p, [fs::read(p).unwrap(), vec![0]].concat()).unwrap()),
        ("another", |p| {
            let len = fs::metadata(p).unwrap().len() as usize;
            fs::write(p, vec![0xff; len]).unwrap();
        }),
        ("one bit", |p| {
            let mut bytes = fs::read(p).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(p, bytes).unwrap();
        }),
    ];
    for (name, damage) in breakages {
        let dir = tempfile::tempdir().unwrap();
        let points = filled(dir.path());
        let [file] = caches(dir.path()).try_into().unwrap();
        damage(&file);
        let store = approximate(dir.path());
        assert_eq!(store.collection("c").unwrap().indexed, 0, "{name}");
        assert!(caches(dir.path()).is_empty(), "{name}");
        works(&store, &points);
        assert_eq!(store.maintain(&|| true).unwrap().indexed, 300, "{name}");
        works(&store, &points);
    }
}

#[test]
fn an_index_of_another_state_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let before = fs::read(dir.path().join("store.sqlite")).unwrap();
    let store = approximate(dir.path());
    let turned: Vec<Point> = (0..300).map(|i| point(&format!("{i:03}"), &[1.0; DIM], json!({}))).collect();
    store.upsert("c", PRINT, &turned).unwrap();
    store.maintain(&|| true).unwrap();
    drop(store);
    // a copy of the database is put back, the index is left as it is
    fs::write(dir.path().join("store.sqlite"), before).unwrap();
    assert_eq!(approximate(dir.path()).collection("c").unwrap().indexed, 0);
}

#[test]
fn files_of_dropped_collections_go() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    fs::write(dir.path().join("cache-99.tmp"), b"left by a crash").unwrap();
    let store = approximate(dir.path());
    assert_eq!(caches(dir.path()).len(), 1);
    store.drop_collection("c").unwrap();
    assert!(caches(dir.path()).is_empty());
}

#[test]
fn a_foreign_file_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.sqlite");
    for bytes in [&b"SQLite format 3\0 not really"[..], &[7; 9000], b"#!/bin/sh\nexit 1\n"] {
        fs::write(&file, bytes).unwrap();
        let (kind, message) = refused(dir.path());
        assert_eq!(kind, Kind::Corrupt, "{message}");
        assert!(message.contains("store.sqlite") && message.contains("is not a "), "{message}");
        assert_eq!(fs::read(&file).unwrap(), bytes, "it is left as it is");
    }
}

#[test]
fn another_programs_database_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.sqlite");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE places (url TEXT)").unwrap();
    drop(other);
    let before = fs::read(&file).unwrap();
    let (kind, message) = refused(dir.path());
    assert_eq!(kind, Kind::Corrupt);
    assert!(message.contains("another program's"), "{message}");
    assert_eq!(fs::read(&file).unwrap(), before, "it is left as it is");
}

#[test]
fn a_database_of_a_later_release_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let database = rusqlite::Connection::open(dir.path().join("store.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 3).unwrap();
    drop(database);
    let (_, message) = refused(dir.path());
    assert!(
        message.contains("schema version 3, this release knows 2") && message.contains("hint:"),
        "{message}"
    );
}

#[test]
fn a_damaged_database_is_told() {
    // what no crash leaves behind, by another hand: vectors cut, of other numbers, gone; payloads that are none
    for (statement, expected) in [
        ("UPDATE vectors SET vector = x'00' WHERE seq = 3", "the vector of point `002`"),
        ("UPDATE vectors SET vector = zeroblob(64) WHERE seq = 3", "the vector of point `002`"),
        ("DELETE FROM vectors WHERE seq = 3", "the vector of point `002`"),
        ("UPDATE collections SET metric = 'l9'", "unknown metric `l9`"),
        ("UPDATE collections SET dim = 'many'", "many"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        let database = rusqlite::Connection::open(dir.path().join("store.sqlite")).unwrap();
        database.execute_batch(statement).unwrap();
        drop(database);
        let (kind, message) = refused(dir.path());
        assert_eq!(kind, Kind::Corrupt, "{statement}: {message}");
        assert!(message.contains(expected) || expected == "many", "{statement}: {message}");
    }
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let database = rusqlite::Connection::open(dir.path().join("store.sqlite")).unwrap();
    database.execute_batch("UPDATE points SET payload = '{' WHERE seq = 3").unwrap();
    drop(database);
    let store = approximate(dir.path());
    let error = store.get("c", &["002".into()], ALL).unwrap_err();
    assert!(error.to_string().contains("the payload of point `002`"), "{error}");
    assert_eq!(store.get("c", &["003".into()], ALL).unwrap().len(), 1, "the others are there");
}

#[test]
fn pages_overwritten_are_found_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let file = dir.path().join("store.sqlite");
    let database = rusqlite::Connection::open(&file).unwrap();
    database.execute_batch("UPDATE state SET clean = 0").unwrap();
    drop(database);
    let mut bytes = fs::read(&file).unwrap();
    let len = bytes.len();
    bytes[len / 2..len / 2 + 8192].fill(0xaa);
    fs::write(&file, bytes).unwrap();
    let (kind, message) = refused(dir.path());
    assert_eq!(kind, Kind::Corrupt, "{message}");
}

#[test]
fn a_folder_that_cannot_be_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, b"x").unwrap();
    let (kind, message) = refused(&file.join("store"));
    assert_eq!(kind, Kind::Io, "{message}");
    assert!(message.contains("file"), "{message}");
}
