//! What is SQLite's own: bounds of disk and memory, one process at a time, files of earlier releases.

use occlude_retrieval::{Engine, Kind, Options, Point, Query, Spec, Store};
use serde_json::json;

use crate::operations::fill;
use crate::tools::*;

fn shop() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    fill(&store);
    (dir, store)
}

#[test]
fn a_full_store_says_so_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_disk: Some(2 << 20), ..Options::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    store.create_collection("c", &spec(512)).unwrap();
    let batch = |n: usize| -> Vec<Point> {
        let mut random = Random(n as u64 + 1);
        (0..50).map(|i| point(&format!("{n}-{i}"), &random.vector(512), json!({"n": n}))).collect()
    };
    let full = (0..).find_map(|n| store.upsert("c", PRINT, &batch(n)).err().map(|e| (n, e)));
    let (acknowledged, error) = full.unwrap();
    assert_eq!(error.kind(), Kind::Full, "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    assert!(acknowledged > 3);
    let whole = |store: &Store| {
        assert_eq!(store.count("c", None).unwrap(), acknowledged * 50);
        for n in 0..acknowledged {
            for Point { id, vector, .. } in batch(n) {
                assert_eq!(store.get("c", &[id], ALL).unwrap()[0].vector, Some(unit(&vector)));
            }
        }
        let first = Query::vector(batch(0)[7].vector.clone(), 1);
        assert_eq!(ids(store, "c", &first), ["0-7"]);
    };
    whole(&store);
    assert_eq!(store.delete("c", &["0-0".into()]).unwrap(), 1, "deleting makes room");
    store.upsert("c", PRINT, &batch(0)[..1]).unwrap();
    drop(store);
    let store = open(dir.path());
    whole(&store);
    store.upsert("c", PRINT, &batch(acknowledged)).unwrap();
}

/// The collections of an older release: told once which model filled them, they are as others.
#[test]
fn collections_without_an_identity_are_adopted() {
    let (dir, store) = shop();
    let count = store.count("shop", None).unwrap();
    drop(store);
    let file = rusqlite::Connection::open(dir.path().join("store.sqlite")).unwrap();
    file.execute_batch("ALTER TABLE collections DROP COLUMN identity; PRAGMA user_version = 1").unwrap();
    drop(file);
    let store = open(dir.path());
    let info = store.collection("shop").unwrap();
    assert_eq!((&info.spec.identity, info.count), (&None, count), "nothing is lost");
    let dim = info.spec.dim;
    let mine = Spec { identity: Some("fp32".to_owned()), ..info.spec };
    let error = store.ensure_collection("shop", &mine).unwrap_err();
    assert!(error.kind() == Kind::WrongFingerprint && error.to_string().contains("adopt"), "{error}");
    let points = [point("new", &vec![1.0; dim], json!({}))];
    let error = store.upsert("shop", "fp32", &points).unwrap_err().to_string();
    assert!(error.contains("adopt"), "{error}");
    for other in
        [Spec { fingerprint: "other".to_owned(), ..mine.clone() }, Spec { dim: dim + 1, ..mine.clone() }]
    {
        assert_eq!(store.adopt("shop", &other).unwrap_err().kind(), Kind::WrongFingerprint);
    }
    assert_eq!(store.adopt("shop", &mine).unwrap().spec, mine);
    store.upsert("shop", "fp32", &points).unwrap();
    assert!(!store.ensure_collection("shop", &mine).unwrap().1);
    drop(store);
    assert_eq!(open(dir.path()).collection("shop").unwrap().spec, mine, "for good");
}

#[test]
fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { max_memory: Some(80), ..Options::default() };
    let store = Store::open(dir.path(), &options).unwrap();
    store.create_collection("c", &spec(4)).unwrap();
    store.create_collection("d", &spec(1)).unwrap();
    let points: Vec<Point> = (0..4).map(|i| point(&i.to_string(), &[1.0; 4], json!({}))).collect();
    store.upsert("c", PRINT, &points).unwrap();
    store.upsert("d", PRINT, &[point("x", &[1.0], json!({}))]).unwrap();
    let error = store.upsert("c", PRINT, &[point("5", &[1.0; 4], json!({}))]).unwrap_err();
    assert_eq!(error.kind(), Kind::Full, "{error}");
    assert_eq!(store.count("c", None).unwrap(), 4);
    let replaced = store.upsert("c", PRINT, &points).unwrap();
    assert_eq!((replaced.added, replaced.replaced), (0, 4), "what takes no more room is taken");
    let mixed = [points[0].clone(), point("5", &[1.0; 4], json!({}))];
    assert_eq!(store.upsert("c", PRINT, &mixed).unwrap_err().kind(), Kind::Full);
    store.delete("c", &["0".into()]).unwrap();
    store.upsert("c", PRINT, &[point("5", &[1.0; 4], json!({}))]).unwrap();
}

#[test]
fn a_store_is_open_once() {
    let (dir, store) = shop();
    let error = Store::open(dir.path(), &Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::Locked);
    assert!(error.to_string().contains("open in another process"), "{error}");
    drop(store);
    open(dir.path());
}
