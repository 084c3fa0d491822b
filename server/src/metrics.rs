//! Counters and histograms in Prometheus' text format.
//!
//! A few dozen numbers behind atomics; a metrics framework would weigh more than what it counts.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry;

/// A stage of a request whose time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Receiving the body.
    Read,
    /// Decoding and resizing a picture, waiting for a free decoder included.
    Decode,
    /// Waiting for a batch.
    Queue,
    /// Running the model on a batch.
    Encode,
    /// Reading and writing collections.
    Store,
    /// Making masks, pictures and JSON.
    Render,
    /// The whole request.
    Total,
}

const STAGES: [(Stage, &str); 7] = [
    (Stage::Read, "read"),
    (Stage::Decode, "decode"),
    (Stage::Queue, "queue"),
    (Stage::Encode, "encode"),
    (Stage::Store, "store"),
    (Stage::Render, "render"),
    (Stage::Total, "total"),
];

/// Upper bounds in seconds; 1 ms to 10 s in steps that resolve both a small CPU model and an overloaded server.
const SECONDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// How long answers are remembered for the rate behind `Retry-After`.
const WINDOW: Duration = Duration::from_secs(10);

struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// Not cumulative; the last is what lies above every bound.
    counts: Vec<AtomicU64>,
    /// Sum in millionths.
    micros: AtomicU64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Self { bounds, counts: (0..=N).map(|_| AtomicU64::new(0)).collect(), micros: AtomicU64::new(0) }
    }

    fn observe(&self, value: f64) {
        let bucket = self.bounds.iter().position(|b| value <= *b).unwrap_or(N);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// `labels` is empty or ends in a comma.
    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let bound = self.bounds.get(i).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {total}");
        }
        let sum = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let braces =
            if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.trim_end_matches(',')) };
        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {total}");
    }
}

/// Numbers that are read when metrics are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) ready: bool,
    pub(crate) in_flight: usize,
    pub(crate) in_flight_pixels: usize,
    pub(crate) gallery: usize,
    pub(crate) writable: bool,
    pub(crate) spans_lost: u64,
    pub(crate) models: Vec<ModelGauges>,
}

/// Likewise, of one model.
#[derive(Debug, Clone, Default)]
pub(crate) struct ModelGauges {
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    pub(crate) identity: String,
    pub(crate) provider: String,
    pub(crate) queue_depth: usize,
}

/// The counters, as the batches of one model add to them.
#[derive(Clone)]
pub struct ModelMetrics {
    all: Arc<Metrics>,
    model: String,
}

impl ModelMetrics {
    /// Adds a time to a stage.
    pub fn observe(&self, stage: Stage, time: Duration) {
        self.all.observe(stage, time);
    }

    /// Adds a batch of so many pictures.
    pub fn observe_batch(&self, size: usize) {
        self.all.observe_batch(&self.model, size);
    }
}

/// Everything that is counted.
pub struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    errors: Mutex<BTreeMap<&'static str, u64>>,
    stages: [Histogram<13>; 7],
    batch: Histogram<8>,
    batches: Mutex<BTreeMap<usize, u64>>,
    images: Mutex<BTreeMap<String, u64>>,
    reloads: Mutex<BTreeMap<(String, &'static str), u64>>,
    recent: Mutex<VecDeque<(Instant, usize)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            errors: Mutex::default(),
            stages: std::array::from_fn(|_| Histogram::new(SECONDS)),
            batch: Histogram::new(SIZES),
            batches: Mutex::default(),
            images: Mutex::default(),
            reloads: Mutex::default(),
            recent: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Adds a time to a stage.
    pub fn observe(&self, stage: Stage, time: Duration) {
        if let Some((i, (_, name))) = STAGES.iter().enumerate().find(|(_, (s, _))| *s == stage) {
            self.stages[i].observe(time.as_secs_f64());
            telemetry::stage(name, time);
        }
    }

    /// These counters, with a model's name where they tell models apart.
    pub fn of_model(self: &Arc<Self>, model: &str) -> ModelMetrics {
        ModelMetrics { all: Arc::clone(self), model: model.to_owned() }
    }

    /// Counts a model that was loaded again (`ok`), or could not be (`failed`).
    pub fn reload(&self, model: &str, result: &'static str) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        *reloads.entry((model.to_owned(), result)).or_default() += 1;
    }

    /// Adds a batch of so many pictures.
    pub fn observe_batch(&self, model: &str, size: usize) {
        *self.images.lock().unwrap_or_else(PoisonError::into_inner).entry(model.to_owned()).or_default() +=
            size as u64;
        self.batch.observe(size as f64);
        *self.batches.lock().unwrap_or_else(PoisonError::into_inner).entry(size).or_default() += 1;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((Instant::now(), size));
        while recent.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
            recent.pop_front();
        }
    }

    /// Batches by size so far.
    pub fn batches(&self) -> Vec<(usize, u64)> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(s, n)| (*s, *n)).collect()
    }

    /// Pictures encoded a second, over the last ten seconds; `None` while there was nothing to measure.
    pub fn rate(&self) -> Option<f64> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = recent.iter().filter(|(at, _)| at.elapsed() <= WINDOW);
        let (first, count) = fresh.fold((None, 0), |(first, n), (at, size)| (first.or(Some(*at)), n + size));
        // One batch alone has a count but no duration: at least a tenth of a second keeps the rate sane.
        first.map(|at| count as f64 / at.elapsed().as_secs_f64().max(0.1))
    }

    /// Counts an answered request.
    pub fn request(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// Counts an error by its code.
    pub fn error(&self, code: &'static str) {
        *self.errors.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    pub(crate) fn render(&self, gauges: &Gauges) -> String {
        let mut out = String::new();
        self.write_counters(&mut out);
        write_gauges(&mut out, gauges);
        head(&mut out, "occlude_batch_size", "histogram", "pictures in one run of the model");
        self.batch.write(&mut out, "occlude_batch_size", "");
        head(&mut out, "occlude_stage_seconds", "histogram", "time by stage of a request");
        for ((_, name), stage) in STAGES.iter().zip(&self.stages) {
            stage.write(&mut out, "occlude_stage_seconds", &format!("stage=\"{name}\","));
        }
        out
    }

    fn write_counters(&self, out: &mut String) {
        head(out, "occlude_requests_total", "counter", "answered requests by route and status");
        for ((route, status), n) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "occlude_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        head(out, "occlude_errors_total", "counter", "error answers by code");
        for (code, n) in self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "occlude_errors_total{{code=\"{code}\"}} {n}");
        }
        head(out, "occlude_images_total", "counter", "pictures encoded");
        for (model, n) in self.images.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "occlude_images_total{{model=\"{}\"}} {n}", escape(model));
        }
        head(out, "occlude_model_reloads_total", "counter", "models loaded again while serving");
        for ((model, result), n) in self.reloads.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(
                out,
                "occlude_model_reloads_total{{model=\"{}\",result=\"{result}\"}} {n}",
                escape(model)
            );
        }
    }
}

fn write_gauges(out: &mut String, gauges: &Gauges) {
    let rows = [
        ("occlude_ready", "1 when every route can answer", usize::from(gauges.ready)),
        ("occlude_in_flight_images", "pictures admitted and not yet answered", gauges.in_flight),
        ("occlude_in_flight_pixels", "pixels of them", gauges.in_flight_pixels),
        ("occlude_gallery_images", "pictures that can be found by search", gauges.gallery),
        ("occlude_collections_writable", "1 when something can be added", usize::from(gauges.writable)),
    ];
    for (name, help, value) in rows {
        head(out, name, "gauge", help);
        let _ = writeln!(out, "{name} {value}");
    }
    head(out, "occlude_spans_lost_total", "counter", "spans that did not reach the collector");
    let _ = writeln!(out, "occlude_spans_lost_total {}", gauges.spans_lost);
    head(out, "occlude_queue_depth", "gauge", "pictures that wait for a batch");
    for ModelGauges { name, queue_depth, .. } in &gauges.models {
        let _ = writeln!(out, "occlude_queue_depth{{model=\"{}\"}} {queue_depth}", escape(name));
    }
    head(out, "occlude_model_info", "gauge", "a model, and the execution provider that runs it");
    for ModelGauges { name, fingerprint, identity, provider, .. } in &gauges.models {
        let (name, provider) = (escape(name), escape(provider));
        let (fingerprint, identity) = (escape(fingerprint), escape(identity));
        let _ = writeln!(
            out,
            "occlude_model_info{{model=\"{name}\",fingerprint=\"{fingerprint}\",identity=\"{identity}\",provider=\"{provider}\"}} 1",
        );
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Label values escape backslash, quote and line feed (the text exposition format).
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        for ms in [1, 4, 4, 20_000] {
            metrics.observe(Stage::Decode, Duration::from_millis(ms));
        }
        let text = metrics.render(&Gauges::default());
        for line in [
            "occlude_stage_seconds_bucket{stage=\"decode\",le=\"0.001\"} 1",
            "occlude_stage_seconds_bucket{stage=\"decode\",le=\"0.005\"} 3",
            "occlude_stage_seconds_bucket{stage=\"decode\",le=\"10\"} 3",
            "occlude_stage_seconds_bucket{stage=\"decode\",le=\"+Inf\"} 4",
            "occlude_stage_seconds_sum{stage=\"decode\"} 20.009",
            "occlude_stage_seconds_count{stage=\"decode\"} 4",
            "occlude_stage_seconds_count{stage=\"queue\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn counters_gauges_and_escapes() {
        let metrics = Metrics::default();
        metrics.request("/v1/embed", 200);
        metrics.request("/v1/embed", 200);
        metrics.error("overloaded");
        metrics.observe_batch("a", 3);
        metrics.reload("a", "ok");
        let model = ModelGauges {
            name: "a\"b".to_owned(),
            fingerprint: "f00d".to_owned(),
            identity: "1d".to_owned(),
            provider: "CPU".to_owned(),
            queue_depth: 4,
        };
        let gauges = Gauges {
            ready: true,
            in_flight: 5,
            in_flight_pixels: 7,
            gallery: 6,
            writable: true,
            spans_lost: 8,
            models: vec![model],
        };
        let text = metrics.render(&gauges);
        for line in [
            "occlude_requests_total{route=\"/v1/embed\",status=\"200\"} 2",
            "occlude_errors_total{code=\"overloaded\"} 1",
            "occlude_images_total{model=\"a\"} 3",
            "occlude_model_reloads_total{model=\"a\",result=\"ok\"} 1",
            "occlude_in_flight_pixels 7",
            "occlude_spans_lost_total 8",
            "occlude_batch_size_bucket{le=\"2\"} 0",
            "occlude_batch_size_bucket{le=\"4\"} 1",
            "occlude_batch_size_sum 3",
            "occlude_ready 1",
            "occlude_queue_depth{model=\"a\\\"b\"} 4",
            "occlude_in_flight_images 5",
            "occlude_gallery_images 6",
            "occlude_collections_writable 1",
            "occlude_model_info{model=\"a\\\"b\",fingerprint=\"f00d\",identity=\"1d\",provider=\"CPU\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_rate_needs_something_to_measure() {
        let metrics = Metrics::default();
        assert_eq!(metrics.rate(), None);
        metrics.observe_batch("a", 8);
        let rate = metrics.rate().unwrap();
        assert!(rate > 1.0 && rate <= 80.0, "{rate}");
    }
}
