//! Measures an engine: `measure FOLDER|URL [ROWS [DIM]]`. The folder, or the database that the URL names, is to be empty;
//! it holds collections afterwards. What is nearest is found here, by comparing with all rows.

use std::time::{Duration, Instant};

use occlude_retrieval::{Engine, Filter, Location, Metric, Options, Point, Query, Spec};
use serde_json::{Map, Value, json};

const PRINT: &str = "measured";
const QUERIES: usize = 200;
/// Longest that searches of one kind go on.
const TIME: Duration = Duration::from_secs(60);
/// Points of an upsert.
const BATCH: usize = 1000;

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
}

/// Rows as an engine has them: of length 1.
struct Rows {
    numbers: Vec<f32>,
    dim: usize,
}

impl Rows {
    fn add(&mut self, vector: &[f32]) {
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        self.numbers.extend(vector.iter().map(|v| v / length));
    }

    /// The ten rows nearest to a query, of those that are asked for.
    fn nearest(&self, query: &[f32], wanted: impl Fn(usize) -> bool) -> Vec<String> {
        let mut best: Vec<(f32, usize)> = Vec::new();
        for (row, vector) in self.numbers.chunks_exact(self.dim).enumerate() {
            let mut sums = [0f32; 16];
            for (a, b) in vector.chunks(16).zip(query.chunks(16)) {
                for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                    *sum += a * b;
                }
            }
            let score: f32 = sums.iter().sum();
            if (best.len() < 10 || score > best[9].0) && wanted(row) {
                best.insert(best.partition_point(|(other, _)| *other >= score), (score, row));
                best.truncate(10);
            }
        }
        best.into_iter().map(|(_, row)| id(row)).collect()
    }
}

fn id(row: usize) -> String {
    format!("{row:08}")
}

fn payload(row: usize) -> Map<String, Value> {
    let payload = json!({"class": format!("class-{}", row % 50), "price": row % 997, "path": format!("shop/{row}.jpg")});
    Map::from_iter(payload.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())))
}

/// Makes the searches, as many as there is time for, and tells their median and slowest, and how many of the true hits they found.
fn searches(store: &dyn Engine, what: &str, queries: &[Query], truth: &[Vec<String>]) {
    let (began, mut times, mut same, mut all) = (Instant::now(), Vec::new(), 0, 0);
    for (query, truth) in queries.iter().zip(truth) {
        if began.elapsed() > TIME {
            break;
        }
        let began = Instant::now();
        let hits = store.search("c", PRINT, query).expect("searches");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        same += hits.iter().filter(|hit| truth.contains(&hit.id)).count();
        all += truth.len();
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{what}: median {:.2} ms, 99th of 100 {:.2} ms, recall at 10 {:.4} ({} searches)",
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        same as f64 / f64::from(u32::try_from(all.max(1)).unwrap_or(u32::MAX)),
        times.len()
    );
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
    let mut vectors = Rows { numbers: Vec::with_capacity(rows * dim), dim };
    let mut seconds = 0.0;
    for from in (0..rows).step_by(BATCH) {
        let mut batch = Vec::with_capacity(BATCH);
        for row in from..(from + BATCH).min(rows) {
            let vector = source.vector();
            vectors.add(&vector);
            batch.push(Point { id: id(row), vector, payload: payload(row) });
        }
        let began = Instant::now();
        store.upsert("c", PRINT, &batch).expect("an upsert");
        seconds += began.elapsed().as_secs_f64();
    }
    println!("upserts of {BATCH}: {:.0} points a second", rows as f64 / seconds);

    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| source.vector()).collect();
    let of = |exact: bool, filter: Option<&Filter>| -> Vec<Query> {
        let of =
            |vector: &Vec<f32>| Query { exact, filter: filter.cloned(), ..Query::vector(vector.clone(), 10) };
        queries.iter().map(of).collect()
    };
    let truth: Vec<_> = queries.iter().map(|query| vectors.nearest(query, |_| true)).collect();
    searches(&*store, "before there is an index", &of(false, None), &truth);
    searches(&*store, "exact", &of(true, None), &truth);

    let began = Instant::now();
    let done = store.maintain(&|| true).expect("an index");
    println!("index of {} rows: {:.1} s, saved: {}", done.indexed, began.elapsed().as_secs_f64(), done.saved);
    // The servers that search for Milvus take a new index over some seconds after it is made.
    std::thread::sleep(Duration::from_secs(20));
    searches(&*store, "approximate", &of(false, None), &truth);
    for (name, filter) in [
        ("a fiftieth", json!({"must": [{"key": "class", "match": "class-7"}]})),
        ("a half", json!({"must": [{"key": "price", "range": {"lt": 498}}]})),
    ] {
        let filter: Filter = serde_json::from_value(filter).expect("a filter");
        let began = Instant::now();
        let count = store.count("c", Some(&filter)).expect("a count");
        println!("{name}, {count} rows counted in {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
        let matches: Vec<bool> = (0..rows).map(|row| filter.matches(&payload(row))).collect();
        let truth: Vec<_> = queries.iter().map(|query| vectors.nearest(query, |row| matches[row])).collect();
        searches(&*store, name, &of(false, Some(&filter)), &truth);
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
