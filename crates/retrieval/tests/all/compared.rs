//! Engines side by side: the same operations on a folder and on a database have the same answers, to the last bit of a score.

use std::sync::Arc;

use occlude_retrieval::{Engine, Error, Filter, Page, Point, Query, With};
use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use crate::tools::*;

const DIM: usize = 5;

struct Pair(Arc<dyn Engine>, Arc<dyn Engine>);

impl Pair {
    /// What both answer; errors by what they mean.
    fn both<T: PartialEq + std::fmt::Debug>(
        &self,
        ask: impl Fn(&dyn Engine) -> Result<T, Error>,
    ) -> Option<T> {
        let answer =
            |engine: &Arc<dyn Engine>| ask(&**engine).map_err(|error| (error.kind(), error.to_string()));
        let (one, other) = (answer(&self.0), answer(&self.1));
        assert_eq!(one, other, "SQLite, the database");
        one.ok()
    }
}

/// Integers and doubles close to each other, around 0 and where doubles begin to round.
fn numbers() -> impl Strategy<Value = Value> {
    let bases = vec![0i128, 1 << 52, 1 << 53, 1 << 54, 1 << 60, 1 << 63, -(1 << 53), -(1 << 63)];
    let near =
        (prop::sample::select(bases), -2i128..3, -3i32..4, 0..3).prop_map(|(base, step, eighths, kind)| {
            let whole = base + step;
            match (kind, u64::try_from(whole), i64::try_from(whole)) {
                (0 | 1, Ok(n), _) => json!(n),
                (0 | 1, _, Ok(n)) => json!(n),
                _ => {
                    Value::Number(Number::from_f64(whole as f64 + f64::from(eighths) / 8.0).expect("finite"))
                }
            }
        });
    let odd = [0.1, 0.1 + 0.2, 0.3, -0.0, 5e-324, f64::MIN_POSITIVE, 1e16, 1e300, f64::MAX, f64::MIN, 1e-7];
    prop_oneof![
        near,
        prop::sample::select(odd.to_vec()).prop_map(|n| json!(n)),
        (-2i32..3).prop_map(|n| json!(n))
    ]
}

fn scalars() -> impl Strategy<Value = Value> {
    let texts = ["", "a", "A", "é", "e\u{301}", "\0", "\u{1}", "\u{1}0", "😀", "1", "true", "\"\\", "x y"];
    let long = ["y".repeat(256), "y".repeat(257), "é".repeat(128)];
    let texts: Vec<String> = texts.map(str::to_owned).into_iter().chain(long).collect();
    prop_oneof![
        4 => numbers(),
        1 => any::<bool>().prop_map(|b| json!(b)),
        3 => prop::sample::select(texts).prop_map(|s| json!(s)),
    ]
}

fn keys() -> impl Strategy<Value = String> {
    let odd = ["x.y", "", "\0", "\u{1}0", "é", "'", "\"", "$", "?", "[0]", "*"].map(str::to_owned);
    prop_oneof![6 => "[xyz]", 1 => prop::sample::select(odd.to_vec()), 1 => Just("k".repeat(254))]
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![5 => scalars(), 1 => Just(Value::Null)].prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::hash_map(keys(), inner, 0..3)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn payloads() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::hash_map(keys(), values(), 0..4).prop_map(|m| m.into_iter().collect())
}

fn filters() -> impl Strategy<Value = Value> {
    let bounds =
        prop::collection::hash_map(prop::sample::select(vec!["gt", "gte", "lt", "lte"]), numbers(), 1..3);
    let asked =
        || scalars().prop_filter("too long to ask for", |v| v.as_str().is_none_or(|s| s.len() <= 256));
    let condition = prop_oneof![
        asked().prop_map(|v| ("match", v)),
        prop::collection::vec(asked(), 0..4).prop_map(|v| ("any", Value::Array(v))),
        bounds.prop_map(|b| ("range", json!(b))),
        any::<bool>().prop_map(|b| ("exists", json!(b))),
    ];
    let path = prop::collection::vec(keys(), 1..4).prop_map(|parts| parts.join("."));
    let path = path.prop_filter("no key", |path| (1..=256).contains(&path.len()));
    let leaf = (path, condition).prop_map(|(key, (name, value))| json!({"key": key, name: value}));
    let group = |inner: BoxedStrategy<Value>| {
        let names = prop::sample::select(vec!["must", "must_not", "should"]);
        prop::collection::hash_map(names, prop::collection::vec(inner, 0..3), 0..4).prop_map(|m| json!(m))
    };
    group(leaf.boxed().prop_recursive(2, 12, 3, move |inner| group(inner.boxed())).boxed())
}

/// Few directions, so that many scores are equal or all but.
fn vectors() -> impl Strategy<Value = Vec<f32>> {
    let near = prop::array::uniform5(-2i8..3).prop_map(|v| v.map(f32::from).to_vec());
    let far = prop::array::uniform5(-1f32..1.0).prop_map(|v| v.to_vec());
    prop_oneof![3 => near, 1 => far].prop_filter("no direction", |v| v.iter().any(|n| *n != 0.0))
}

fn ids() -> impl Strategy<Value = String> {
    prop::sample::select(
        ["a", "B", "b", "é", "z", "Z", "a\0", "a ", "10", "9", "😀", "_", "-"].map(str::to_owned).to_vec(),
    )
}

#[derive(Debug, Clone)]
enum Step {
    Upsert(Vec<(String, Vec<f32>, Map<String, Value>)>),
    Delete(Vec<String>),
    DeleteWhere(Filter),
    Search(Query),
    Count(Filter),
    Scroll(Page),
    Get(Vec<String>),
    Maintain,
}

fn steps() -> impl Strategy<Value = Step> {
    let filter = || filters().prop_map(|json| Filter::try_from(json).unwrap());
    let with = || (any::<bool>(), any::<bool>()).prop_map(|(vector, payload)| With { vector, payload });
    let like = prop_oneof![
        3 => vectors().prop_map(|v| Query::vector(v, 1)),
        1 => ids().prop_map(|id| Query::id(id, 1)),
    ];
    let query = (like, 1usize..9, prop::option::of(filter()), any::<bool>(), with())
        .prop_map(|(query, k, filter, exact, with)| Query { k, filter, exact, with, ..query });
    let page = (prop::option::of(ids()), 1usize..6, prop::option::of(filter()), with())
        .prop_map(|(after, limit, filter, with)| Page { after, limit, filter, with });
    prop_oneof![
        6 => prop::collection::vec((ids(), vectors(), payloads()), 0..8).prop_map(Step::Upsert),
        1 => prop::collection::vec(ids(), 0..4).prop_map(Step::Delete),
        1 => filter().prop_map(Step::DeleteWhere),
        6 => query.prop_map(Step::Search),
        8 => filter().prop_map(Step::Count),
        3 => page.prop_map(Step::Scroll),
        1 => prop::collection::vec(ids(), 0..5).prop_map(Step::Get),
        1 => Just(Step::Maintain),
    ]
}

fn take(pair: &Pair, step: &Step) {
    match step {
        Step::Upsert(points) => {
            let point = |(id, vector, payload): &(String, Vec<f32>, Map<String, Value>)| Point {
                id: id.clone(),
                vector: vector.clone(),
                payload: payload.clone(),
            };
            let points: Vec<Point> = points.iter().map(point).collect();
            pair.both(|e| e.upsert("c", PRINT, &points));
        }
        Step::Delete(ids) => drop(pair.both(|e| e.delete("c", ids))),
        Step::DeleteWhere(filter) => drop(pair.both(|e| e.delete_where("c", filter))),
        Step::Search(query) => drop(pair.both(|e| e.search("c", PRINT, query))),
        Step::Count(filter) => drop(pair.both(|e| e.count("c", Some(filter)))),
        Step::Scroll(page) => drop(pair.both(|e| e.scroll("c", page))),
        Step::Get(ids) => drop(pair.both(|e| e.get("c", ids, ALL))),
        Step::Maintain => drop((pair.0.maintain(&|| true).unwrap(), pair.1.maintain(&|| true).unwrap())),
    }
}

/// A folder, and the database of this URL.
fn pair(url: String) -> (Pair, Home) {
    let folder = Home::folder();
    (Pair(folder.open(), Home::database(url).open()), folder)
}

fn same_answers(url: String, steps: &[Step]) {
    let (pair, _folder) = pair(url);
    pair.0.create_collection("c", &spec(DIM)).unwrap();
    pair.1.create_collection("c", &spec(DIM)).unwrap();
    for step in steps {
        take(&pair, step);
    }
    // Payloads come back as they went in: the order of keys, and how numbers are written.
    let page = Page { limit: 1000, with: ALL, ..Page::default() };
    let all = pair.both(|e| e.scroll("c", &page)).unwrap();
    let texts = |e: &dyn Engine| serde_json::to_string(&e.scroll("c", &page).unwrap()).unwrap();
    assert_eq!(texts(&*pair.0), texts(&*pair.1));
    assert_eq!(pair.both(|e| e.count("c", None)), Some(all.len()));
    assert_eq!(pair.both(|e| Ok(e.collection("c")?.count)), Some(all.len()));
    pair.1.drop_collection("c").unwrap();
}

/// Every filter on many payloads at once: a table of points, of which each is looked at.
fn same_matches(url: String, payloads: Vec<Map<String, Value>>, filters: Vec<Value>) {
    let (pair, _folder) = pair(url);
    let of = |(i, payload)| Point { id: format!("{i:02}"), vector: vec![1.0; DIM], payload };
    let points: Vec<Point> = payloads.into_iter().enumerate().map(of).collect();
    for engine in [&pair.0, &pair.1] {
        engine.create_collection("c", &spec(DIM)).unwrap();
        engine.upsert("c", PRINT, &points).unwrap();
    }
    for json in filters {
        let filter = Filter::try_from(json).unwrap();
        let with = With { vector: false, payload: false };
        let page = Page { limit: 1000, filter: Some(filter), with, after: None };
        pair.both(|e| e.scroll("c", &page));
    }
    pair.1.drop_collection("c").unwrap();
}

/// More rows with one score than are fetched beyond the hits, in an order that no index has.
fn first_of_equals(url: String) {
    let (pair, _folder) = pair(url);
    let mut random = Random(8);
    let same: Vec<f32> = random.vector(64);
    let mut points: Vec<Point> =
        (0..400).map(|i| point(&format!("{:03}", i * 7 % 400), &same, json!({}))).collect();
    // Almost the same: the last bits of their scores decide.
    points.extend((0..400).map(|i| {
        let noise = random.vector(64).into_iter().map(|v| v * 1e-6);
        let vector: Vec<f32> = same.iter().zip(noise).map(|(a, b)| a + b).collect();
        point(&format!("n{i:03}"), &vector, json!({}))
    }));
    for engine in [&pair.0, &pair.1] {
        engine.create_collection("c", &spec(64)).unwrap();
        engine.upsert("c", PRINT, &points).unwrap();
    }
    for k in [1, 5, 100, 399, 500, 800, 900] {
        let hits = pair.both(|e| e.search("c", PRINT, &Query::vector(same.clone(), k))).unwrap();
        assert_eq!(hits.len(), k.min(800));
        pair.both(|e| e.search("c", PRINT, &Query::vector(random_like(&same, k), k)));
    }
}

/// The tests above on a database, in so many cases each.
macro_rules! on_a_database {
    ($name:ident, $feature:literal, $url:expr, $cases:literal) => {
        #[cfg(feature = $feature)]
        mod $name {
            use super::*;

            proptest! {
                #![proptest_config(ProptestConfig { cases: $cases, max_shrink_iters: 200, ..ProptestConfig::default() })]

                #[test]
                fn both_engines_give_the_same_answers(steps in prop::collection::vec(steps(), 1..40)) {
                    let Some(url) = $url else { return Ok(()) };
                    same_answers(url, &steps);
                }

                #[test]
                fn filters_match_the_same_points(
                    payloads in prop::collection::vec(payloads(), 30..60),
                    filters in prop::collection::vec(filters(), 20..40),
                ) {
                    let Some(url) = $url else { return Ok(()) };
                    same_matches(url, payloads, filters);
                }
            }

            #[test]
            fn of_many_equals_the_first_ids_are_found() {
                let Some(url) = $url else { return };
                first_of_equals(url);
            }
        }
    };
}

on_a_database!(postgres, "postgres", crate::database::shared().map(crate::database::Cluster::url), 48);
// A collection takes seconds to make there, and each answer after a change some tenths of one.
on_a_database!(
    milvus,
    "milvus",
    crate::cluster::shared().map(|server| format!("{}&consistency=session", server.url())),
    5
);

fn random_like(vector: &[f32], seed: usize) -> Vec<f32> {
    let mut random = Random(seed as u64 + 1);
    vector.iter().map(|v| v + random.normal()).collect()
}
