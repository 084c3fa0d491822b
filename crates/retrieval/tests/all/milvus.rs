//! What is Milvus' own: clusters that go and come back, several engines on one, approximate search, passwords.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use occlude_retrieval::{Engine, Error, Kind, Milvus, MilvusAddress, Page, Point, Query, Spec, With};
use serde_json::json;

use crate::approximate::{DIM, ROWS, fill, recall};
use crate::cluster::{self, Server};
use crate::tools::*;

fn open(url: &str) -> Milvus {
    Milvus::open(&url.parse().unwrap()).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(url: &str) -> Error {
    let address: MilvusAddress = url.parse().unwrap();
    Milvus::open(&address).err().expect("the database is refused")
}

/// Asks until the cluster is there again.
fn again<T>(mut ask: impl FnMut() -> Result<T, Error>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(done) => return done,
            Err(error) if error.kind() == Kind::Unavailable && began.elapsed() < Duration::from_secs(90) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

const BATCH: usize = 20;

fn batch(n: usize) -> Vec<Point> {
    let mut random = Random(n as u64 + 77);
    (0..BATCH).map(|i| point(&format!("{n}-{i}"), &random.vector(16), json!({"n": n}))).collect()
}

/// `kill -9` while an engine writes, and the cluster is away: errors that say so; what was acknowledged is there, whole, and the
/// same engine works again. `OCCLUDE_KILLS` says how often; to come back takes the cluster half a minute.
#[test]
fn a_killed_cluster_loses_nothing_that_was_acknowledged() {
    let kills: usize = std::env::var("OCCLUDE_KILLS").map_or(1, |n| n.parse().expect("a number"));
    let Some(server) = Server::own(&[]) else { return };
    let engine = open(&server.url());
    engine.create_collection("c", &spec(16)).unwrap();
    let (mut next, mut acknowledged, mut lost) = (0, Vec::new(), 0);
    let written = AtomicUsize::new(0);
    for kill in 0..kills {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    match engine.upsert("c", PRINT, &batch(next)) {
                        Ok(done) => {
                            assert_eq!(done.added, BATCH);
                            acknowledged.push(next);
                            written.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            unavailable(&error);
                            lost += 1;
                            std::thread::sleep(Duration::from_millis(20));
                        }
                    }
                    next += 1;
                }
            });
            let (enough, began) = (written.load(Ordering::Relaxed) + 2, Instant::now());
            while written.load(Ordering::Relaxed) < enough {
                assert!(began.elapsed() < Duration::from_secs(60), "nothing is written");
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis((kill * 7919 % 700) as u64));
            server.stop();
            std::thread::sleep(Duration::from_millis(100));
            over.store(true, Ordering::Relaxed);
        });
        unavailable(&engine.probe().unwrap_err());
        unavailable(&engine.collections().unwrap_err());
        unavailable(&engine.search("c", PRINT, &Query::vector(vec![1.0; 16], 1)).unwrap_err());
        unavailable(&engine.maintain(&|| true).unwrap_err());
        server.run();
        for n in &acknowledged {
            let points = batch(*n);
            let ids: Vec<String> = points.iter().map(|p| p.id.clone()).collect();
            let records = again(|| engine.get("c", &ids, ALL));
            assert_eq!(records.len(), BATCH, "batch {n} was acknowledged");
            for (record, point) in records.iter().zip(&points) {
                assert_eq!(record.vector, Some(unit(&point.vector)));
                assert_eq!(record.payload.as_ref(), Some(&point.payload));
            }
        }
        let wanted = batch(acknowledged[0])[0].clone();
        assert_eq!(ids(&engine, "c", &Query::vector(wanted.vector, 1)), [wanted.id]);
    }
    println!(
        "{kills} kills: {} batches acknowledged, {lost} not; all of the first are there",
        acknowledged.len()
    );
    assert!(acknowledged.len() > kills && lost >= kills, "the kills hit nothing");
}

fn unavailable(error: &Error) {
    let told = error.to_string();
    assert_eq!(error.kind(), Kind::Unavailable, "{told}");
    assert!(told.contains("milvus://127.0.0.1") && told.contains("hint:"), "{told}");
}

#[test]
fn a_cluster_that_is_not_there_is_told() {
    let error = refused("milvus://me:s3cret@127.0.0.1:1/db");
    assert_eq!(error.kind(), Kind::Unavailable);
    let told = format!("{error} {error:?}");
    assert!(told.contains("milvus://me@127.0.0.1:1/db") && !told.contains("s3cret"), "{told}");
}

/// Three engines on one cluster: points of their own, and points that all of them write.
#[test]
fn several_engines_write_at_once() {
    let Some(server) = cluster::shared() else { return };
    let url = server.url();
    let engines: Vec<Milvus> = (0..3).map(|_| open(&url)).collect();
    let made: usize = std::thread::scope(|scope| {
        let made: Vec<_> = engines
            .iter()
            .map(|engine| scope.spawn(|| usize::from(engine.ensure_collection("c", &spec(8)).unwrap().1)))
            .collect();
        made.into_iter().map(|made| made.join().unwrap()).sum()
    });
    assert_eq!(made, 1, "one of them made it");
    std::thread::scope(|scope| {
        for (e, engine) in engines.iter().enumerate() {
            scope.spawn(move || {
                let mut random = Random(e as u64 + 1);
                for n in 0..4 {
                    let own = |i: usize| format!("{e}-{n}-{i}");
                    let mut points: Vec<Point> =
                        (0..10).map(|i| point(&own(i), &random.vector(8), json!({"e": e}))).collect();
                    points.extend((0..5).map(|i| point(&format!("shared-{i}"), &[1.0; 8], json!({"e": e}))));
                    engine.upsert("c", PRINT, &points).unwrap();
                    let gone: Vec<String> = (0..5).map(own).collect();
                    assert_eq!(engine.delete("c", &gone).unwrap(), 5);
                }
            });
        }
    });
    let mut expected: BTreeSet<String> = (0..5).map(|i| format!("shared-{i}")).collect();
    for (e, n) in (0..3).flat_map(|e| (0..4).map(move |n| (e, n))) {
        expected.extend((5..10).map(|i| format!("{e}-{n}-{i}")));
    }
    for engine in &engines {
        let page = Page { limit: 1000, ..Page::default() };
        let all: Vec<String> = engine.scroll("c", &page).unwrap().into_iter().map(|r| r.id).collect();
        assert_eq!(all, expected.iter().cloned().collect::<Vec<_>>());
        assert_eq!(engine.collection("c").unwrap().count, expected.len());
        assert_eq!(engine.upsert("c", "0ther", &[]).unwrap_err().kind(), Kind::WrongFingerprint);
    }
    // A model that was noted, and a collection that is another by now, are seen by the engine beside.
    let (one, other) = (&engines[0], &engines[1]);
    let mine = Spec { identity: Some("fp32".to_owned()), ..spec(8) };
    one.adopt("c", &mine).unwrap();
    assert_eq!(other.upsert("c", PRINT, &[]).unwrap_err().kind(), Kind::WrongFingerprint);
    one.drop_collection("c").unwrap();
    assert_eq!(other.collection("c").unwrap_err().kind(), Kind::NotFound);
    one.create_collection("c", &spec(3)).unwrap();
    other.upsert("c", PRINT, &[point("a", &[1.0, 0.0, 0.0], json!({}))]).unwrap();
    assert_eq!(one.collections().unwrap()[0].count, 1);
}

/// What this process wrote is seen at once, also where answers do not wait for the cluster's clock.
#[test]
fn a_session_sees_what_it_wrote() {
    let Some(server) = cluster::shared() else { return };
    let engine = open(&format!("{}&consistency=session", server.url()));
    engine.create_collection("c", &spec(2)).unwrap();
    for n in 0..10 {
        let id = n.to_string();
        engine.upsert("c", PRINT, &[point(&id, &[1.0, n as f32], json!({"n": n}))]).unwrap();
        assert_eq!(engine.count("c", None).unwrap(), n + 1);
        assert_eq!(ids(&engine, "c", &Query::vector(vec![1.0, n as f32], 1)), [id.as_str()]);
    }
    assert_eq!(
        engine.delete_where("c", &filter(json!({"must": [{"key": "n", "range": {"gte": 4}}]}))).unwrap(),
        6
    );
    assert_eq!(engine.count("c", None).unwrap(), 4);
}

#[test]
fn recall_at_ten_of_the_index() {
    let Some(server) = cluster::shared() else { return };
    let store = open(&format!("{}&consistency=session", server.url()));
    let mut clusters = Clusters::new(9, 100, DIM, 2.0);
    fill(&store, &mut clusters);
    assert_eq!(store.count("c", None).unwrap(), ROWS);
    let queries: Vec<Vec<f32>> = (0..20).map(|_| clusters.next()).collect();
    println!("recall at 10 before the rows are indexed: {}", recall(&store, &queries, None).0);
    store.maintain(&|| true).unwrap();
    assert_eq!(store.collection("c").unwrap().indexed, ROWS);
    assert_eq!(store.maintain(&|| true).unwrap().indexed, 0, "nothing is new");
    // The servers that search take the index over some seconds later.
    let (began, mut found) = (Instant::now(), 0.0);
    while found < 0.95 && began.elapsed() < Duration::from_secs(60) {
        found = recall(&store, &queries, None).0;
    }
    println!("recall at 10: {found} after {:.1} s", began.elapsed().as_secs_f64());
    assert!(found >= 0.95, "recall {found}");
    let rare = filter(json!({"must": [{"key": "rare", "match": true}]}));
    assert_eq!(recall(&store, &queries[..5], Some(&rare)), (1.0, 0));
    // Pages of ten thousand and more.
    let third = filter(json!({"must": [{"key": "third", "match": 1}]}));
    assert_eq!(store.delete_where("c", &third).unwrap(), (ROWS + 1) / 3);
    let all = filter(json!({}));
    assert_eq!(store.delete_where("c", &all).unwrap(), ROWS - (ROWS + 1) / 3);
    assert_eq!(store.count("c", None).unwrap(), 0);
}

/// A collection without an approximate index: all is exact, at any size.
#[test]
fn without_an_index_all_is_exact() {
    let Some(server) = cluster::shared() else { return };
    let store = open(&format!("{}&consistency=session&index=flat", server.url()));
    let mut clusters = Clusters::new(9, 100, DIM, 2.0);
    fill(&store, &mut clusters);
    let queries: Vec<Vec<f32>> = (0..20).map(|_| clusters.next()).collect();
    let home = Home::folder();
    let sqlite = home.open();
    fill(&*sqlite, &mut Clusters::new(9, 100, DIM, 2.0));
    for query in queries {
        for exact in [false, true] {
            let query = Query { exact, ..Query::vector(query.clone(), 10) };
            assert_eq!(store.search("c", PRINT, &query).unwrap(), sqlite.search("c", PRINT, &query).unwrap());
        }
    }
    assert_eq!((store.maintain(&|| true).unwrap().indexed, store.collection("c").unwrap().indexed), (0, 0));
}

/// Searches while points are replaced: none fails, each point is seen once at most and in one of its states. (Part of a batch
/// may be seen: there are no transactions.)
#[test]
fn searches_go_on_while_points_are_replaced() {
    let Some(server) = cluster::shared() else { return };
    let store = open(&format!("{}&consistency=session", server.url()));
    store.create_collection("c", &spec(4)).unwrap();
    let batch = |n: usize| -> Vec<Point> {
        let sign = if n.is_multiple_of(2) { 1.0 } else { -1.0 };
        let of =
            |i: usize| point(&format!("{i}"), &[sign, i as f32 / 100.0, 0.1, 0.2], json!({"sign": sign}));
        (0..100).map(of).collect()
    };
    store.upsert("c", PRINT, &batch(0)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1..20 {
                store.upsert("c", PRINT, &batch(n)).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let query = Query { with: ALL, ..Query::vector(vec![1.0, 0.3, 0.1, 0.2], 100) };
                    let hits = store.search("c", PRINT, &query).unwrap();
                    let names: BTreeSet<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
                    assert_eq!(names.len(), hits.len(), "a point is there once");
                    for hit in &hits {
                        let sign = hit.payload.as_ref().unwrap()["sign"].as_f64().unwrap();
                        assert_eq!(sign > 0.0, hit.vector.as_ref().unwrap()[0] > 0.0, "of one state");
                    }
                }
            });
        }
    });
    let hits = store.search("c", PRINT, &Query::vector(vec![-1.0, 0.0, 0.1, 0.2], 100)).unwrap();
    assert!(hits.len() == 100 && hits.iter().all(|h| h.score > 0.0));
}

/// Pages, exact searches and deletions see rows of an indexed segment and fresh ones beside each other; fewer hits than an index
/// finds are looked for one by one.
#[test]
fn fresh_rows_are_seen_beside_indexed_ones() {
    let Some(server) = cluster::shared() else { return };
    let store = open(&format!("{}&consistency=session", server.url()));
    let mut clusters = Clusters::new(9, 100, DIM, 2.0);
    fill(&store, &mut clusters);
    let few = filter(json!({"must": [{"key": "rare", "match": true}]}));
    let query = Query { filter: Some(few.clone()), ..Query::vector(clusters.next(), 30) };
    assert_eq!(
        store.search("c", PRINT, &query).unwrap().len(),
        ROWS / 1000,
        "all that match, before they are indexed"
    );
    store.maintain(&|| true).unwrap();
    let fresh: Vec<Point> =
        (0..10).map(|i| point(&format!("!{i}"), &clusters.next(), json!({"rare": true}))).collect();
    store.upsert("c", PRINT, &fresh).unwrap();
    let all = filter(json!({}));
    let page = |limit: usize, filter: &occlude_retrieval::Filter| {
        let (mut ids, mut page) =
            (Vec::new(), Page { limit, filter: Some(filter.clone()), ..Page::default() });
        loop {
            let found = store.scroll("c", &page).unwrap();
            assert!(found.len() <= limit);
            ids.extend(found.iter().map(|record| record.id.clone()));
            match found.last() {
                Some(last) => page.after = Some(last.id.clone()),
                None => return ids,
            }
        }
    };
    let mut expected: Vec<String> = (0..10).map(|i| format!("!{i}")).collect();
    expected.extend((0..ROWS).map(|i| format!("{i:06}")));
    assert!(page(7000, &all) == expected);
    for point in &fresh[..3] {
        let query = Query { exact: true, ..Query::vector(point.vector.clone(), 1) };
        assert_eq!(ids(&store, "c", &query), [point.id.as_str()]);
    }
    assert_eq!(page(3, &few).len(), 10 + ROWS / 1000);
    assert_eq!(store.delete_where("c", &few).unwrap(), 10 + ROWS / 1000);
    assert_eq!(store.count("c", None).unwrap(), ROWS - ROWS / 1000);
}

/// The longest ids and payloads, and vectors that need several messages.
#[test]
fn rows_of_every_size_fit() {
    let Some(server) = cluster::shared() else { return };
    let engine = open(&server.url());
    let mut random = Random(6);
    let id = |i: usize| format!("{i:02}{}", "é".repeat(126));
    for (dim, rows) in [(2, 3), (16_384, 700)] {
        let name = format!("d{dim}");
        engine.create_collection(&name, &spec(dim)).unwrap();
        let text = |i: usize| "x".repeat(if i == 1 { 65_000 } else { i });
        let points: Vec<Point> =
            (0..rows).map(|i| point(&id(i), &random.vector(dim), json!({"text": text(i)}))).collect();
        assert_eq!(engine.upsert(&name, PRINT, &points).unwrap().added, rows);
        let found = engine.search(&name, PRINT, &Query::vector(points[1].vector.clone(), 1)).unwrap();
        assert_eq!(found[0].payload.as_ref(), Some(&points[1].payload), "{dim}");
        let records = engine.get(&name, &[id(1)], ALL).unwrap();
        assert_eq!(records[0].vector, Some(unit(&points[1].vector)), "{dim}");
        let page = Page { limit: 1000, with: With { vector: true, payload: true }, ..Page::default() };
        assert_eq!(engine.scroll(&name, &page).unwrap().len(), rows);
        engine.drop_collection(&name).unwrap();
    }
    engine.create_collection("facts", &spec(2)).unwrap();
    let numbers: Vec<u64> = (0..300).map(|_| random.next()).collect();
    let error =
        engine.upsert("facts", PRINT, &[point("many", &[1.0, 0.0], json!({"n": numbers}))]).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("`many`"), "{error}");
    assert!(error.to_string().contains("4096"), "{error}");
}

/// Passwords of the URL and of a file, on an encrypted connection; a wrong one, and none, are told without it, and so is a
/// certificate of an unknown authority.
#[test]
fn passwords_open_the_database_and_are_not_told() {
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let of = |name: &str| tls.join(name).display().to_string();
    let Some(server) = Server::own(&[
        "common.security.authorizationEnabled=true",
        "common.security.tlsMode=1",
        &format!("tls.serverPemPath={}", of("server.crt")),
        &format!("tls.serverKeyPath={}", of("server.key")),
    ]) else {
        return;
    };
    let at = format!("127.0.0.1:{}/?tls=true&cafile={}", server.port, of("ca.pem"));
    again(|| Milvus::open(&format!("milvus://root:Milvus@{at}").parse().unwrap()))
        .create_collection("c", &spec(2))
        .unwrap();
    for url in [format!("milvus://root:wr0ng@{at}"), format!("milvus://{at}")] {
        let error = refused(&url);
        let told = format!("{error} {error:?}");
        assert_eq!(error.kind(), Kind::Refused, "{told}");
        assert!(told.contains("MILVUS_PASSWORD") && !told.contains("wr0ng"), "{told}");
    }
    let error = refused(&format!("milvus://root:Milvus@127.0.0.1:{}?tls=true", server.port));
    assert!(error.kind() == Kind::Refused && error.to_string().contains("`cafile`"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "Milvus\n").unwrap();
    let engine = open(&format!("milvus://root@{at}&passfile={}", file.path().display()));
    assert_eq!(engine.collections().unwrap().len(), 1);
    std::fs::write(file.path(), "an0ther\n").unwrap();
    assert_eq!(engine.probe().unwrap_err().kind(), Kind::Refused, "it is read each time");
}

/// What is not ours is left as it is.
#[test]
fn a_database_that_is_not_there_is_refused() {
    let Some(server) = cluster::shared() else { return };
    let error = refused(&format!("milvus://127.0.0.1:{}/gone", server.port));
    assert!(error.kind() == Kind::Refused && error.to_string().contains("gone"), "{error}");
}
