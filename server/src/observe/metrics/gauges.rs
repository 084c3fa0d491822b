//! Numbers that are read when metrics are asked for.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge, IntGaugeVec, Opts};

use crate::observe::made::made;

/// Numbers that are read when metrics are asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) ready: bool,
    pub(crate) in_flight: usize,
    pub(crate) in_flight_pixels: usize,
    pub(crate) gallery: usize,
    /// Most pictures in flight.
    pub(crate) queue: usize,
    /// None without collections.
    pub(crate) writable: Option<bool>,
    pub(crate) cached: usize,
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

/// Their families; nothing is kept between two readings.
pub(super) fn read(gauges: &Gauges) -> Vec<MetricFamily> {
    let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    let mut families = Vec::new();
    let writable = gauges.writable.map(|writable| {
        ("occlude_collections_writable", "1 if something can be added", usize::from(writable))
    });
    let always = [
        ("occlude_ready", "1 if every route can answer", usize::from(gauges.ready)),
        ("occlude_in_flight_images", "pictures admitted and not yet answered", gauges.in_flight),
        ("occlude_in_flight_images_limit", "most pictures in flight before 429", gauges.queue),
        ("occlude_in_flight_pixels", "pixels of those pictures", gauges.in_flight_pixels),
        ("occlude_gallery_images", "pictures that can be found by search", gauges.gallery),
        ("occlude_cache_bytes", "bytes of answers that are kept", gauges.cached),
    ];
    for (name, help, value) in always.into_iter().chain(writable) {
        let gauge = made(IntGauge::new(name, help));
        gauge.set(whole(value));
        families.extend(gauge.collect());
    }
    let lost = made(IntCounter::new("occlude_spans_lost_total", "spans that did not reach the collector"));
    lost.inc_by(gauges.spans_lost);
    families.extend(lost.collect());
    let vector = |name, help, labels: &[&str]| made(IntGaugeVec::new(Opts::new(name, help), labels));
    let depth = vector("occlude_queue_depth", "pictures waiting for a batch", &["model"]);
    let labels = ["model", "fingerprint", "identity", "provider"];
    let info = vector("occlude_model_info", "a model, and the execution provider that runs it", &labels);
    for ModelGauges { name, fingerprint, identity, provider, queue_depth } in &gauges.models {
        depth.with_label_values(&[name]).set(whole(*queue_depth));
        info.with_label_values(&[name, fingerprint, identity, provider]).set(1);
    }
    let build = vector(
        "occlude_build_info",
        "versions of the server and of ONNX Runtime",
        &["version", "onnxruntime"],
    );
    build
        .with_label_values(&[env!("CARGO_PKG_VERSION"), occlude_onnxruntime::version().unwrap_or_default()])
        .set(1);
    families.extend([depth, info, build].iter().flat_map(Collector::collect));
    families
}
