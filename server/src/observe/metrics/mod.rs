//! Counters and histograms in Prometheus' text format.

mod gauges;
mod recent;
mod stage;
mod statistics;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, TextEncoder};

use super::made::made;
use super::process::Process;
use super::telemetry;
use crate::error::Kind;

use recent::Recent;

pub(crate) use gauges::{Gauges, ModelGauges};
pub(crate) use stage::Stage;
pub(crate) use statistics::{Statistics, Sum};

/// Upper bounds in seconds: from what health checks take to the default of `--timeout`.
#[rustfmt::skip]
const SECONDS: [f64; 19] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0,
    60.0,
];
const SIZES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// The counters, as the batches of one model add to them.
#[derive(Clone)]
pub struct ModelMetrics {
    all: Arc<Metrics>,
    model: String,
}

impl ModelMetrics {
    /// Adds a time to a stage.
    pub fn observe(&self, stage: Stage, time: Duration) {
        self.all.observe(stage, Some(&self.model), time);
    }

    /// Adds a batch of so many pictures, which took the model this long.
    pub fn observe_batch(&self, size: usize, time: Duration) {
        self.observe(Stage::Encode, time);
        self.all.of(&self.model, |done| done.ran(size, time));
        self.all.observe_batch(&self.model, size);
    }
}

/// An answered request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered<'a> {
    pub(crate) method: &'a str,
    /// The template, like `/v1/collections/{name}`.
    pub(crate) route: &'a str,
    pub(crate) status: u16,
    pub(crate) model: Option<&'a str>,
    pub(crate) time: Duration,
}

/// Everything that is counted.
pub struct Metrics {
    requests: IntCounterVec,
    latency: HistogramVec,
    errors: IntCounterVec,
    stages: HistogramVec,
    batch: Histogram,
    images: IntCounterVec,
    reloads: IntCounterVec,
    lookups: IntCounterVec,
    process: Process,
    batches: Mutex<BTreeMap<usize, u64>>,
    recent: Recent,
    done: Mutex<BTreeMap<String, Statistics>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            requests: counters(
                "occlude_requests_total",
                "answered requests by route and status",
                &["route", "status"],
            ),
            latency: histograms(
                "occlude_request_seconds",
                "duration of requests",
                &["method", "route", "status"],
            ),
            errors: counters("occlude_errors_total", "error responses by code", &["code"]),
            stages: histograms(
                "occlude_stage_seconds",
                "duration of each stage of a request",
                &["model", "stage"],
            ),
            batch: made(Histogram::with_opts(
                HistogramOpts::new("occlude_batch_size", "pictures in one run of the model")
                    .buckets(SIZES.to_vec()),
            )),
            images: counters("occlude_images_total", "pictures encoded", &["model"]),
            reloads: counters(
                "occlude_model_reloads_total",
                "models reloaded while serving",
                &["model", "result"],
            ),
            lookups: counters(
                "occlude_cache_lookups_total",
                "answers that were looked up",
                &["model", "result"],
            ),
            process: Process::default(),
            batches: Mutex::default(),
            recent: Recent::default(),
            done: Mutex::default(),
        };
        for kind in Kind::ALL {
            metrics.errors.with_label_values(&[kind.status().1]);
        }
        for stage in Stage::ALL {
            metrics.stages.with_label_values(&["", stage.name()]);
        }
        metrics
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    made(IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    made(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels))
}

impl Metrics {
    /// Adds a time to a stage, which is one of a model's or not.
    pub fn observe(&self, stage: Stage, model: Option<&str>, time: Duration) {
        let labels = [model.unwrap_or_default(), stage.name()];
        self.stages.with_label_values(&labels).observe(time.as_secs_f64());
        if let Some(model) = model {
            self.of(model, |done| done.stage(stage, time));
        }
        telemetry::stage(stage.name(), time);
    }

    /// These counters, with a model's name where they tell models apart; it is counted from now on.
    pub fn of_model(self: &Arc<Self>, model: &str) -> ModelMetrics {
        self.expect_model(model);
        ModelMetrics { all: Arc::clone(self), model: model.to_owned() }
    }

    /// Counters of a model begin at 0.
    fn expect_model(&self, model: &str) {
        self.images.with_label_values(&[model]);
        self.done.lock().entry(model.to_owned()).or_default();
        for result in ["ok", "failed"] {
            self.reloads.with_label_values(&[model, result]);
        }
        for result in ["hit", "miss"] {
            self.lookups.with_label_values(&[model, result]);
        }
        for stage in Stage::OF_MODELS {
            self.stages.with_label_values(&[model, stage.name()]);
        }
    }

    /// The counter of a route's answers with this status begins at 0.
    pub(crate) fn expect_answer(&self, route: &str, status: &str) {
        self.requests.with_label_values(&[route, status]);
    }

    /// Adds to what a model has done; only models that were loaded are known.
    fn of(&self, model: &str, add: impl FnOnce(&mut Statistics)) {
        if let Some(done) = self.done.lock().get_mut(model) {
            add(done);
        }
    }

    /// What a model has done.
    pub(crate) fn statistics(&self, model: &str) -> Statistics {
        self.done.lock().get(model).cloned().unwrap_or_default()
    }

    /// Counts an answer that was looked up among those that are kept, and found or not.
    pub(crate) fn looked_up(&self, model: &str, found: bool, time: Duration) {
        self.lookups.with_label_values(&[model, if found { "hit" } else { "miss" }]).inc();
        self.of(model, |done| done.looked_up(found, time));
    }

    /// Adds a request of the inference protocol.
    pub(crate) fn inferred(&self, model: &str, succeeded: bool, time: Duration) {
        self.of(model, |done| done.inferred(succeeded, time));
    }

    /// Counts a model that was loaded again (`ok`), or could not be (`failed`).
    pub fn reload(&self, model: &str, result: &'static str) {
        self.reloads.with_label_values(&[model, result]).inc();
    }

    /// Adds a batch of so many pictures.
    pub fn observe_batch(&self, model: &str, size: usize) {
        self.images.with_label_values(&[model]).inc_by(size as u64);
        self.batch.observe(size as f64);
        *self.batches.lock().entry(size).or_default() += 1;
        self.recent.add(size);
    }

    /// Batches by size so far.
    pub fn batches(&self) -> Vec<(usize, u64)> {
        self.batches.lock().iter().map(|(s, n)| (*s, *n)).collect()
    }

    /// Pictures encoded a second, over the last ten seconds; `None` while there was nothing to measure.
    pub fn rate(&self) -> Option<f64> {
        self.recent.per_second()
    }

    /// Counts an answered request.
    pub(crate) fn answered(&self, request: Answered<'_>) {
        let Answered { method, route, status, model, time } = request;
        let status = status.to_string();
        self.requests.with_label_values(&[route, &status]).inc();
        self.latency.with_label_values(&[known(method), route, &status]).observe(time.as_secs_f64());
        self.observe(Stage::Total, model, time);
    }

    /// Counts an error by its code.
    pub fn error(&self, code: &'static str) {
        self.errors.with_label_values(&[code]).inc();
    }

    pub(crate) fn render(&self, gauges: &Gauges) -> String {
        let counted: [&dyn Collector; 8] = [
            &self.lookups,
            &self.requests,
            &self.latency,
            &self.errors,
            &self.images,
            &self.reloads,
            &self.batch,
            &self.stages,
        ];
        let mut families: Vec<MetricFamily> = counted.into_iter().flat_map(Collector::collect).collect();
        families.extend(gauges::read(gauges));
        families.extend(self.process.collect());
        // A family without a row is none.
        families.retain(|f| !f.get_metric().is_empty());
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!("metrics: {error}");
        }
        text
    }
}

/// A client may invent methods; each would be a series for ever.
fn known(method: &str) -> &str {
    match method {
        "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH" => method,
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, expected: &[&str]) {
        for line in expected {
            assert!(text.lines().any(|l| l == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn histograms_are_cumulative() {
        let metrics = Metrics::default();
        for ms in [1, 4, 4, 45_000, 100_000] {
            metrics.observe(Stage::Decode, Some("a"), Duration::from_millis(ms));
        }
        metrics.observe(Stage::Read, None, Duration::from_micros(90));
        #[rustfmt::skip]
        lines(&metrics.render(&Gauges::default()), &[
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"0.0005\"} 0",
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"0.001\"} 1",
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"0.005\"} 3",
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"30\"} 3",
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"60\"} 4",
            "occlude_stage_seconds_bucket{model=\"a\",stage=\"decode\",le=\"+Inf\"} 5",
            "occlude_stage_seconds_count{model=\"a\",stage=\"decode\"} 5",
            "occlude_stage_seconds_bucket{model=\"\",stage=\"read\",le=\"0.0001\"} 1",
            "occlude_stage_seconds_count{model=\"\",stage=\"parse\"} 0",
        ]);
        let sum = metrics.stages.with_label_values(&["a", "decode"]).get_sample_sum();
        assert!((sum - 145.009).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn counters_gauges_and_escapes() {
        let metrics = Metrics::default();
        let request = Answered {
            method: "POST",
            route: "/v1/embed",
            status: 200,
            model: Some("a"),
            time: Duration::from_millis(3),
        };
        metrics.answered(request);
        metrics.answered(Answered { method: "BREW", status: 405, ..request });
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
            cached: 9,
            queue: 11,
            writable: Some(true),
            spans_lost: 8,
            models: vec![model],
        };
        #[rustfmt::skip]
        lines(&metrics.render(&gauges), &[
            "occlude_requests_total{route=\"/v1/embed\",status=\"200\"} 1",
            "occlude_request_seconds_bucket{method=\"POST\",route=\"/v1/embed\",status=\"200\",le=\"0.0025\"} 0",
            "occlude_request_seconds_bucket{method=\"POST\",route=\"/v1/embed\",status=\"200\",le=\"0.005\"} 1",
            "occlude_request_seconds_count{method=\"other\",route=\"/v1/embed\",status=\"405\"} 1",
            "occlude_stage_seconds_count{model=\"a\",stage=\"total\"} 2",
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
            "occlude_in_flight_images_limit 11",
            "occlude_gallery_images 6",
            "occlude_cache_bytes 9",
            "occlude_collections_writable 1",
            "occlude_model_info{fingerprint=\"f00d\",identity=\"1d\",model=\"a\\\"b\",provider=\"CPU\"} 1",
        ]);
    }

    #[test]
    fn counters_begin_at_zero() {
        let metrics = Arc::new(Metrics::default());
        let _ = metrics.of_model("m");
        metrics.expect_answer("/v1/embed", "429");
        let text = metrics.render(&Gauges::default());
        lines(
            &text,
            &[
                "occlude_requests_total{route=\"/v1/embed\",status=\"429\"} 0",
                "occlude_images_total{model=\"m\"} 0",
                "occlude_model_reloads_total{model=\"m\",result=\"failed\"} 0",
                "occlude_stage_seconds_count{model=\"m\",stage=\"encode\"} 0",
                "occlude_cache_lookups_total{model=\"m\",result=\"hit\"} 0",
                "occlude_batch_size_count 0",
                "occlude_spans_lost_total 0",
            ],
        );
        for kind in Kind::ALL {
            lines(&text, &[&format!("occlude_errors_total{{code=\"{}\"}} 0", kind.status().1)]);
        }
    }
}
