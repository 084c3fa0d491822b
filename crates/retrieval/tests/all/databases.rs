//! What is PostgreSQL's own: databases that go and come back, several engines on one, approximate search, passwords.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use occlude_retrieval::{Address, Engine, Error, Kind, Options, Page, Point, Postgres, Query, Spec};
use serde_json::json;

use crate::approximate::{DIM, ROWS, fill, points, recall};
use crate::database::{self, Cluster};
use crate::tools::*;

fn open(url: &str) -> Postgres {
    Postgres::open(&url.parse().unwrap(), &Options::default()).unwrap()
}

fn refused(url: &str) -> Error {
    let address: Address = url.parse().unwrap();
    Postgres::open(&address, &Options::default()).err().expect("the database is refused")
}

/// Asks until the database is there again.
fn again<T>(mut ask: impl FnMut() -> Result<T, Error>) -> T {
    let began = Instant::now();
    loop {
        match ask() {
            Ok(done) => return done,
            Err(error) if error.kind() == Kind::Unavailable && began.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

const BATCH: usize = 20;
const WRITERS: usize = 3;

fn batch(writer: usize, n: usize) -> Vec<Point> {
    let mut random = Random((writer * 10_000 + n) as u64 + 77);
    (0..BATCH)
        .map(|i| point(&format!("{writer}-{n}-{i}"), &random.vector(16), json!({"writer": writer, "n": n})))
        .collect()
}

/// What a writer did: batches that were acknowledged, and those of which nobody knows.
#[derive(Default)]
struct Wrote {
    next: usize,
    acknowledged: Vec<usize>,
    open: Vec<usize>,
}

impl Wrote {
    fn until(&mut self, over: &AtomicBool, engine: &Postgres, writer: usize) {
        while !over.load(Ordering::Relaxed) {
            match engine.upsert("c", PRINT, &batch(writer, self.next)) {
                Ok(_) => self.acknowledged.push(self.next),
                Err(error) => {
                    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
                    assert!(error.to_string().contains("hint:"), "{error}");
                    self.open.push(self.next);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            self.next += 1;
        }
    }
}

/// `kill -9` of all of the database's processes while three engines write: what was acknowledged is there, each batch
/// wholly or not at all, and the same engines work again. `OCCLUDE_KILLS` says how often.
#[test]
fn a_killed_database_loses_nothing_that_was_acknowledged() {
    let kills: usize = std::env::var("OCCLUDE_KILLS").map_or(4, |n| n.parse().expect("a number"));
    let Some(cluster) = Cluster::own(&[]) else { return };
    let url = cluster.url();
    let engines: Vec<Postgres> = (0..WRITERS).map(|_| open(&url)).collect();
    engines[0].create_collection("c", &spec(16)).unwrap();
    let mut writers: Vec<Wrote> = (0..WRITERS).map(|_| Wrote::default()).collect();
    for kill in 0..kills {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (writer, (engine, wrote)) in engines.iter().zip(&mut writers).enumerate() {
                let over = &over;
                scope.spawn(move || wrote.until(over, engine, writer));
            }
            std::thread::sleep(Duration::from_millis(40 + (kill * 7919 % 260) as u64));
            cluster.kill();
            std::thread::sleep(Duration::from_millis(30));
            over.store(true, Ordering::Relaxed);
        });
        cluster.run();
        inspect(&engines[kill % WRITERS], &writers);
    }
    let sum = |of: fn(&Wrote) -> usize| writers.iter().map(of).sum::<usize>();
    let (acknowledged, open) = (sum(|w| w.acknowledged.len()), sum(|w| w.open.len()));
    println!("{kills} kills: {acknowledged} batches acknowledged, {open} not; all of the first are there");
    assert!(acknowledged > kills && open >= kills, "{acknowledged}, {open}: the kills hit nothing");
}

/// Every batch is there wholly or not at all, and those that were acknowledged are.
fn inspect(engine: &Postgres, writers: &[Wrote]) {
    let (mut sum, info) = (0, again(|| engine.collection("c")));
    for (writer, wrote) in writers.iter().enumerate() {
        for n in 0..wrote.next {
            let points = batch(writer, n);
            let ids: Vec<String> = points.iter().map(|p| p.id.clone()).collect();
            let records = engine.get("c", &ids, ALL).unwrap();
            let whole = records.len() == BATCH;
            assert!(whole || records.is_empty(), "{writer}-{n}: {} points, a part of a batch", records.len());
            assert!(whole || !wrote.acknowledged.contains(&n), "{writer}-{n} was acknowledged and is lost");
            for (record, point) in records.iter().zip(&points) {
                assert_eq!(record.vector, Some(unit(&point.vector)));
                assert_eq!(record.payload.as_ref(), Some(&point.payload));
            }
            sum += records.len();
        }
    }
    assert_eq!(
        (
            info.count,
            engine.count("c", Some(&filter(json!({"must_not": [{"key": "none", "match": 1}]})))).unwrap()
        ),
        (sum, sum)
    );
}

/// The database ends, is away, and comes back: errors that say so, and no restart of this side.
#[test]
fn a_database_that_comes_back_is_used_again() {
    let Some(cluster) = Cluster::own(&["fsync=off"]) else { return };
    let engine = open(&cluster.url());
    engine.create_collection("c", &spec(2)).unwrap();
    engine.upsert("c", PRINT, &[point("a", &[1.0, 0.0], json!({}))]).unwrap();
    engine.probe().unwrap();
    cluster.stop();
    for _ in 0..3 {
        let errors = [
            engine.probe().unwrap_err(),
            engine.collections().unwrap_err(),
            engine.search("c", PRINT, &Query::vector(vec![1.0, 0.0], 1)).unwrap_err(),
            engine.upsert("c", PRINT, &[point("b", &[1.0, 0.0], json!({}))]).unwrap_err(),
            engine.maintain(&|| true).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            let told = error.to_string();
            assert!(told.contains("postgres://postgres@127.0.0.1") && told.contains("hint:"), "{told}");
        }
    }
    cluster.run();
    // At once, with the connections that broke still in the pool.
    assert_eq!(engine.count("c", None).unwrap(), 1);
    cluster.stop();
    cluster.run();
    assert_eq!(
        ids(&engine, "c", &Query::vector(vec![1.0, 0.0], 1)),
        ["a"],
        "unseen: each connection is made anew"
    );
    engine.upsert("c", PRINT, &[point("b", &[1.0, 0.0], json!({}))]).unwrap();
}

#[test]
fn a_database_that_is_not_there_is_told() {
    let error = refused("postgres://me:s3cret@127.0.0.1:1/db");
    assert_eq!(error.kind(), Kind::Unavailable);
    let told = format!("{error} {error:?}");
    assert!(told.contains("postgres://me@127.0.0.1:1/db") && !told.contains("s3cret"), "{told}");
}

/// Four engines on one database: points of their own, points that all of them write, and collections that come and go.
#[test]
fn several_engines_write_at_once() {
    let Some(cluster) = database::shared() else { return };
    let url = cluster.url();
    // All four make the tables.
    let engines: Vec<Postgres> = std::thread::scope(|scope| {
        let opened: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&url))).collect();
        opened.into_iter().map(|o| o.join().unwrap()).collect()
    });
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (e, engine) in engines.iter().enumerate() {
            let made = &made;
            scope.spawn(move || {
                let (_, new) = engine.ensure_collection("c", &spec(8)).unwrap();
                made.fetch_add(usize::from(new), Ordering::Relaxed);
                let mut random = Random(e as u64 + 1);
                for n in 0..25 {
                    let own = |i: usize| format!("{e}-{n}-{i}");
                    // In another order each time: whoever writes the same must not wait in a circle.
                    let shared = |i: usize| format!("shared-{}", (i + random_start(e, n)) % 30);
                    let mut points: Vec<Point> =
                        (0..10).map(|i| point(&own(i), &random.vector(8), json!({"e": e}))).collect();
                    points.extend((0..30).map(|i| point(&shared(i), &[1.0; 8], json!({"e": e, "n": n}))));
                    points.rotate_left(random.below(40));
                    engine.upsert("c", PRINT, &points).unwrap();
                    let gone: Vec<String> = (0..5).map(own).chain((0..3).rev().map(shared)).collect();
                    engine.delete("c", &gone).unwrap();
                    engine
                        .delete_where("c", &filter(json!({"must": [{"key": "none", "exists": true}]})))
                        .unwrap();
                }
            });
        }
        // Beside them, one whose name is used again and again.
        scope.spawn(|| {
            for n in 0..15 {
                let engine = &engines[n % 4];
                engine.create_collection("brief", &spec(4)).unwrap();
                let error = engines[(n + 1) % 4].create_collection("brief", &spec(4)).unwrap_err();
                assert_eq!(error.kind(), Kind::AlreadyExists, "another one sees it at once");
                engine.upsert("brief", PRINT, &[point("x", &[1.0; 4], json!({}))]).unwrap();
                assert_eq!(engines[(n + 2) % 4].count("brief", None).unwrap(), 1);
                engines[(n + 3) % 4].drop_collection("brief").unwrap();
                assert_eq!(engine.collection("brief").unwrap_err().kind(), Kind::NotFound);
            }
        });
    });
    assert_eq!(made.into_inner(), 1, "one of them made it");
    let all: BTreeSet<String> = scrolled(&engines[0]);
    let own = all.iter().filter(|id| !id.starts_with("shared")).count();
    assert_eq!(own, 4 * 25 * 5);
    for engine in &engines {
        assert_eq!(engine.collection("c").unwrap().count, all.len(), "the count is that of the points");
        assert_eq!(engine.upsert("c", "0ther", &[]).unwrap_err().kind(), Kind::WrongFingerprint);
    }
}

fn random_start(e: usize, n: usize) -> usize {
    Random((e * 100 + n) as u64 + 5).below(30)
}

fn scrolled(engine: &Postgres) -> BTreeSet<String> {
    let (mut all, mut page) = (BTreeSet::new(), Page { limit: 100, ..Page::default() });
    loop {
        let records = engine.scroll("c", &page).unwrap();
        page.after = records.last().map(|r| r.id.clone());
        all.extend(records.iter().map(|r| r.id.clone()));
        if records.len() < 100 {
            return all;
        }
    }
}

/// A model that was replaced, seen by the server beside: nothing of it is remembered.
#[test]
fn what_another_engine_changes_is_seen_at_once() {
    let Some(cluster) = database::shared() else { return };
    let url = cluster.url();
    let (one, other) = (open(&url), open(&url));
    one.create_collection("c", &spec(2)).unwrap();
    assert_eq!(other.search("c", PRINT, &Query::vector(vec![1.0, 0.0], 1)).unwrap(), []);
    let mine = Spec { identity: Some("fp32".to_owned()), ..spec(2) };
    one.adopt("c", &mine).unwrap();
    assert_eq!(other.upsert("c", PRINT, &[]).unwrap_err().kind(), Kind::WrongFingerprint);
    assert_eq!(other.collection("c").unwrap().spec, mine);
    one.drop_collection("c").unwrap();
    one.create_collection("c", &spec(3)).unwrap();
    let points = [point("a", &[1.0, 0.0, 0.0], json!({}))];
    other.upsert("c", PRINT, &points).unwrap();
    assert_eq!(one.collections().unwrap()[0].count, 1);
}

#[test]
fn recall_at_ten_of_the_index() {
    let Some(cluster) = database::shared() else { return };
    let address: Address = cluster.url().parse().unwrap();
    let store = Postgres::open(&address, &Options { exact_numbers: 1 << 16, ..Options::default() }).unwrap();
    let mut clusters = Clusters::new(9, 100, DIM, 2.0);
    fill(&store, &mut clusters);
    let queries: Vec<Vec<f32>> = (0..100).map(|_| clusters.next()).collect();
    assert_eq!(recall(&store, &queries, None), (1.0, 0), "before there is an index all is exact");

    // Stopped while it is built: nothing is left of it, and the next time it is built whole.
    assert_eq!(store.maintain(&|| false).unwrap().indexed, 0);
    let asked = AtomicUsize::new(0);
    let stopped = store.maintain(&|| asked.fetch_add(1, Ordering::Relaxed) < 1).unwrap();
    assert_eq!((stopped.indexed, stopped.failed.as_slice()), (0, &[][..]));
    assert_eq!(store.collection("c").unwrap().indexed, 0);
    // Two at once: one builds.
    let other = Postgres::open(&address, &Options { exact_numbers: 1 << 16, ..Options::default() }).unwrap();
    let built: Vec<usize> = std::thread::scope(|scope| {
        let build = |engine| scope.spawn(move || Engine::maintain(engine, &|| true).unwrap().indexed);
        [build(&store), build(&other)].map(|b| b.join().unwrap()).into()
    });
    assert_eq!(built.iter().sum::<usize>(), ROWS, "{built:?}");
    assert_eq!(other.collection("c").unwrap().indexed, ROWS);

    let (found, differ) = recall(&store, &queries, None);
    println!("recall at 10: {found}, {differ} of {} searches not as the exact one", queries.len());
    assert!(found >= 0.95 && differ > 0, "recall {found}");
    let many = filter(json!({"must_not": [{"key": "rare", "match": true}]}));
    let (found, differ) = recall(&store, &queries, Some(&many));
    println!("recall at 10 with a filter: {found}, {differ} not as the exact one");
    assert!(found >= 0.95, "recall {found}");
    let rare = filter(json!({"must": [{"key": "rare", "match": true}]}));
    assert_eq!(recall(&store, &queries[..50], Some(&rare)), (1.0, 0));
    let few =
        filter(json!({"must": [{"key": "third", "match": 1}], "must_not": [{"key": "rare", "match": true}]}));
    let found = recall(&store, &queries[..50], Some(&few)).0;
    println!("recall at 10 with a filter that leaves a third: {found}");
    assert!(found >= 0.95, "recall {found}");

    // Rows that came since are found, rows that are gone are not.
    let first = points(&mut clusters, ROWS, ROWS + 200);
    store.upsert("c", PRINT, &first).unwrap();
    let seen = |p: &&Point| ids(&store, "c", &Query::vector(p.vector.clone(), 1)) == [p.id.as_str()];
    assert!(first.iter().filter(seen).count() >= 195);
    let third = filter(json!({"must": [{"key": "third", "match": 1}]}));
    assert_eq!(store.delete_where("c", &third).unwrap(), (ROWS + 200) / 3);
    assert!(recall(&store, &queries[..50], None).0 >= 0.95);
    store.drop_collection("c").unwrap();
}

/// Vectors in the row and beside it, with the longest ids and payloads; the longest that the database takes.
#[test]
fn rows_of_every_size_fit() {
    let Some(cluster) = database::shared() else { return };
    let engine = open(&cluster.url());
    let mut random = Random(6);
    for dim in [2, 500, 1900, 1901, 4000, 4001, 16_000] {
        let name = format!("d{dim}");
        engine.create_collection(&name, &spec(dim)).unwrap();
        let payload = |i: usize| json!({"text": "é".repeat(30_000), "i": i, "list": vec![i; 500]});
        let id = |i: usize| format!("{i}{}", "x".repeat(255));
        let points: Vec<Point> = (0..3).map(|i| point(&id(i), &random.vector(dim), payload(i))).collect();
        engine.upsert(&name, PRINT, &points).unwrap();
        let found = engine.search(&name, PRINT, &Query::vector(points[2].vector.clone(), 1)).unwrap();
        assert_eq!(found[0].payload.as_ref(), Some(&points[2].payload), "{dim}");
        let records = engine.get(&name, &[id(2)], ALL).unwrap();
        assert_eq!(records[0].vector, Some(unit(&points[2].vector)), "{dim}");
    }
    let error = engine.create_collection("long", &spec(16_001)).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("16000"), "{error}");
    let odd = Spec { model: "a\0b".to_owned(), ..spec(1) };
    let error = engine.create_collection("odd", &odd).unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("`model`"), "{error}");
}

/// Who drops a collection does not wait for its index.
#[test]
fn a_collection_can_be_dropped_while_it_is_indexed() {
    let Some(cluster) = database::shared() else { return };
    let address: Address = cluster.url().parse().unwrap();
    let store = Postgres::open(&address, &Options { exact_numbers: 0, ..Options::default() }).unwrap();
    fill(&store, &mut Clusters::new(3, 50, DIM, 2.0));
    std::thread::scope(|scope| {
        let built = scope.spawn(|| store.maintain(&|| true).unwrap());
        std::thread::sleep(Duration::from_millis(300));
        store.drop_collection("c").unwrap();
        built.join().unwrap();
    });
    assert!(store.collections().unwrap().is_empty());
    assert_eq!(store.maintain(&|| true).unwrap().failed, [""; 0]);
}

/// Passwords of the URL and of a file; a wrong one, and none, are told without it.
#[test]
fn passwords_open_the_database_and_are_not_told() {
    let Some(cluster) = Cluster::own(&["fsync=off"]) else { return };
    cluster.sql("CREATE ROLE keeper LOGIN PASSWORD 's3cret:\\x'; GRANT CREATE ON DATABASE postgres TO keeper; CREATE EXTENSION vector");
    let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(cluster.data().join("pg_hba.conf"), rules).unwrap();
    cluster.sql("SELECT pg_reload_conf()");
    std::thread::sleep(Duration::from_millis(300));
    let at = format!("127.0.0.1:{}/postgres", cluster.port);
    open(&format!("postgres://keeper:s3cret%3A%5Cx@{at}")).create_collection("c", &spec(2)).unwrap();
    for url in [format!("postgres://keeper:wr0ng@{at}"), format!("postgres://keeper@{at}?password=wr0ng")] {
        let error = refused(&url);
        let told = format!("{error} {error:?}");
        assert!(error.kind() == Kind::Refused && told.contains("password authentication failed"), "{told}");
        assert!(told.contains("PGPASSFILE") && !told.contains("wr0ng"), "{told}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let of_file = format!("postgres://keeper@{at}?passfile={}", file.path().display());
    let line =
        |password: &str| std::fs::write(file.path(), format!("127.0.0.1:*:*:keeper:{password}\n")).unwrap();
    line("s3cret\\:\\\\x");
    let engine = open(&of_file);
    assert_eq!(engine.collections().unwrap().len(), 1);
    // The password is changed: connections that are made from now on need the new one, which the file is given.
    cluster.sql("ALTER ROLE keeper PASSWORD 'an0ther'");
    cluster.stop();
    cluster.run();
    assert_eq!(engine.probe().unwrap_err().kind(), Kind::Refused);
    line("an0ther");
    engine.probe().unwrap();
}

/// What is not ours is left as it is.
#[test]
fn foreign_and_later_schemas_are_refused() {
    let Some(cluster) = Cluster::own(&["fsync=off"]) else { return };
    cluster.sql("CREATE SCHEMA theirs; CREATE TABLE theirs.state (application int); CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    let at = format!("postgres://postgres@127.0.0.1:{}", cluster.port);
    let error = refused(&format!("{at}/postgres?schema=theirs"));
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("another program"), "{error}");
    drop(open(&format!("{at}/postgres?schema=select")));
    drop(open(&format!("{at}/postgres?schema=later")));
    cluster.sql("UPDATE later.state SET version = 99");
    let error = refused(&format!("{at}/postgres?schema=later"));
    assert!(error.kind() == Kind::Corrupt && error.to_string().contains("version 99"), "{error}");
    let error = refused(&format!("{at}/latin"));
    assert!(error.kind() == Kind::Refused && error.to_string().contains("ENCODING 'UTF8'"), "{error}");
    let error = refused(&format!("{at}/gone"));
    assert!(error.kind() == Kind::Refused && error.to_string().contains("gone"), "{error}");
    cluster.sql("CREATE ROLE guest LOGIN; CREATE DATABASE bare");
    let error = refused(&format!("postgres://guest@127.0.0.1:{}/bare", cluster.port));
    assert!(
        error.kind() == Kind::Refused && error.to_string().contains("CREATE EXTENSION vector"),
        "{error}"
    );
}
