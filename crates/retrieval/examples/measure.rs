//! Measures an engine: `measure FOLDER|URL [ROWS [DIM]]`. The folder, or the database that the URL names, is to be empty;
//! it holds collections afterwards.

use std::time::Instant;

use occlude_retrieval::{Engine, Filter, Location, Metric, Options, Point, Query, Spec};
use serde_json::{Map, json};

const PRINT: &str = "measured";
const QUERIES: usize = 200;

/// Points around centres, by xorshift64*.
struct Source {
    state: u64,
    centres: Vec<Vec<f32>>,
    dim: usize,
}

impl Source {
    fn new(dim: usize) -> Self {
        let mut source = Self { state: 7, centres: Vec::new(), dim };
        source.centres = (0..500).map(|_| source.noise()).collect();
        source
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn noise(&mut self) -> Vec<f32> {
        (0..self.dim).map(|_| (0..4).map(|_| self.below(1001) as f32 / 1000.0 - 0.5).sum()).collect()
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.below(self.centres.len());
        let noise = self.noise();
        self.centres[centre].iter().zip(noise).map(|(c, n)| c + 1.5 * n).collect()
    }

    fn point(&mut self, i: usize) -> Point {
        let payload =
            json!({"class": format!("class-{}", i % 50), "price": i % 997, "path": format!("shop/{i}.jpg")});
        let payload =
            Map::from_iter(payload.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        Point { id: format!("{i:08}"), vector: self.vector(), payload }
    }
}

/// Medians in milliseconds, hits of all searches.
fn searches(store: &dyn Engine, queries: &[Query]) -> (f64, f64, Vec<Vec<String>>) {
    let mut times = Vec::new();
    let mut found = Vec::new();
    for query in queries {
        let began = Instant::now();
        let hits = store.search("c", PRINT, query).expect("searches");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        found.push(hits.into_iter().map(|h| h.id).collect());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() * 99 / 100], found)
}

/// The part of the true hits that was found.
fn recall(found: &[Vec<String>], truth: &[Vec<String>]) -> f64 {
    let same: usize =
        found.iter().zip(truth).map(|(f, t)| f.iter().filter(|id| t.contains(id)).count()).sum();
    same as f64 / truth.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

fn main() {
    let mut args = std::env::args().skip(1);
    let place = args.next().expect("a folder or a URL");
    let place = Location::parse(place.as_ref()).expect("a folder or a URL");
    let mut number = |default: usize| args.next().map_or(default, |n| n.parse().expect("a number"));
    let (rows, dim) = (number(100_000), number(512));
    let store = place.open(&Options { threads: 2, ..Options::default() }).expect("a store");
    let spec =
        Spec { dim, fingerprint: PRINT.into(), identity: None, model: "none".into(), metric: Metric::Cosine };
    store.create_collection("c", &spec).expect("a collection");

    let mut source = Source::new(dim);
    let mut seconds = 0.0;
    for from in (0..rows).step_by(100) {
        let batch: Vec<Point> = (from..(from + 100).min(rows)).map(|i| source.point(i)).collect();
        let began = Instant::now();
        store.upsert("c", PRINT, &batch).expect("an upsert");
        seconds += began.elapsed().as_secs_f64();
    }
    println!("upserts of 100: {:.0} points a second", rows as f64 / seconds);

    let exact: Vec<Query> =
        (0..QUERIES).map(|_| Query { exact: true, ..Query::vector(source.vector(), 10) }).collect();
    let (median, slow, truth) = searches(&*store, &exact);
    println!("exact: median {median:.2} ms, 99th of 100 {slow:.2} ms");

    let began = Instant::now();
    let done = store.maintain(&|| true).expect("an index");
    println!("index of {} rows: {:.1} s, saved: {}", done.indexed, began.elapsed().as_secs_f64(), done.saved);
    let approximate: Vec<Query> = exact.iter().map(|q| Query { exact: false, ..q.clone() }).collect();
    let (median, slow, found) = searches(&*store, &approximate);
    let part = recall(&found, &truth);
    println!("approximate: median {median:.2} ms, 99th of 100 {slow:.2} ms, recall at 10 {part:.4}");

    for (name, filter) in [
        ("a fiftieth", json!({"must": [{"key": "class", "match": "class-7"}]})),
        ("a half", json!({"must": [{"key": "price", "range": {"lt": 498}}]})),
    ] {
        let filter: Filter = serde_json::from_value(filter).expect("a filter");
        let began = Instant::now();
        let count = store.count("c", Some(&filter)).expect("a count");
        let first = began.elapsed().as_secs_f64() * 1e3;
        let filtered: Vec<Query> =
            approximate.iter().map(|q| Query { filter: Some(filter.clone()), ..q.clone() }).collect();
        let (median, slow, found) = searches(&*store, &filtered);
        let exact: Vec<Query> = filtered.iter().map(|q| Query { exact: true, ..q.clone() }).collect();
        let part = recall(&found, &searches(&*store, &exact).2);
        println!(
            "{name} ({count}): first {first:.1} ms, then median {median:.2} ms, 99th of 100 {slow:.2} ms, recall \
             {part:.4}"
        );
    }

    let began = Instant::now();
    drop(store);
    let closing = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let store = place.open(&Options::default()).expect("the store again");
    let indexed = store.collection("c").expect("the collection").indexed;
    println!(
        "closing {closing:.2} s, opening {:.2} s with {indexed} rows indexed",
        began.elapsed().as_secs_f64()
    );
}
