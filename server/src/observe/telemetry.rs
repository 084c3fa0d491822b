//! Traces for an OpenTelemetry collector, by OTLP over HTTP with JSON (opentelemetry.io/docs/specs/otlp; the mapping
//! of `opentelemetry-proto` to JSON). A request is a span, and each of its stages one below it; a `traceparent` header
//! (w3.org/TR/trace-context) makes it part of the caller's trace.
//!
//! Spans leave from a thread of their own; where the collector is slow or gone, spans are lost and requests go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Spans that wait; further ones are lost.
const WAITING: usize = 8192;
/// Spans of one message.
const BATCH: usize = 512;
/// Longest time that a span waits for others.
const DELAY: Duration = Duration::from_secs(1);
/// Longest wait for the collector.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between complaints about it.
const QUIET: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// The trace of the request that this task answers.
    static TRACE: Arc<Trace>;
}

/// Sends spans to a collector.
pub struct Telemetry {
    sender: Option<SyncSender<Value>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl Telemetry {
    /// `endpoint` is the collector's base address, like `http://127.0.0.1:4318`.
    pub fn start(endpoint: &str) -> Self {
        let (sender, spans) = sync_channel(WAITING);
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let lost = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let lost = Arc::clone(&lost);
            move || Exporter::new(url, lost).run(&spans)
        });
        Self { sender: Some(sender), thread: Some(thread), lost }
    }

    /// Spans that did not reach the collector.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn send(&self, span: Value) {
        if self.sender.as_ref().is_some_and(|s| s.try_send(span).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Telemetry {
    /// Sends what waits.
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            // It ends when the channel does; a panic of its own has nothing to add.
            let _ = thread.join();
        }
    }
}

/// One request.
pub(crate) struct Trace {
    trace: String,
    span: String,
    parent: Option<String>,
    began: Instant,
    at: SystemTime,
    stages: Mutex<Vec<(&'static str, Instant, Duration)>>,
}

impl Trace {
    /// Begins a request; nothing where the caller does not want it traced.
    pub(crate) fn begin(headers: &HeaderMap) -> Option<Arc<Self>> {
        let given = headers.get("traceparent").and_then(|v| parent(v.to_str().ok()?));
        let (trace, parent) = match given {
            Some(Parent { sampled: false, .. }) => return None,
            Some(Parent { trace, span, .. }) => (trace, Some(span)),
            None => (random(16)?, None),
        };
        let (began, at) = (Instant::now(), SystemTime::now());
        Some(Arc::new(Self { trace, span: random(8)?, parent, began, at, stages: Mutex::default() }))
    }

    /// Does the work of the request; what [`stage`] is told of meanwhile is part of it.
    pub(crate) async fn during<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        TRACE.scope(self, work).await
    }

    fn nanos(&self, at: Instant) -> String {
        let time = self.at + at.saturating_duration_since(self.began);
        time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos()).to_string()
    }

    /// Ends the request.
    pub(crate) fn end(&self, to: &Telemetry, name: &str, status: u16, attributes: &[Value]) {
        let stages = self.stages.lock();
        for (name, began, took) in stages.iter() {
            let Some(id) = random(8) else { return };
            to.send(json!({
                "traceId": self.trace, "spanId": id, "parentSpanId": self.span, "name": name, "kind": 1,
                "startTimeUnixNano": self.nanos(*began), "endTimeUnixNano": self.nanos(*began + *took),
            }));
        }
        // Kind 2 is a server's; status 2 an error, which a client's mistake is not (semantic conventions for HTTP).
        to.send(json!({
            "traceId": self.trace, "spanId": self.span, "parentSpanId": self.parent.as_deref().unwrap_or(""),
            "name": name, "kind": 2, "startTimeUnixNano": self.nanos(self.began),
            "endTimeUnixNano": self.nanos(Instant::now()), "attributes": attributes,
            "status": { "code": if status >= 500 { 2 } else { 0 } },
        }));
    }
}

/// Tells the request of this task, if it is traced, of a stage that ends now.
pub(crate) fn stage(name: &'static str, took: Duration) {
    let began = Instant::now().checked_sub(took);
    // Outside of a traced request there is nobody to tell.
    let _ = TRACE.try_with(|trace| {
        if let Some(began) = began {
            trace.stages.lock().push((name, began, took));
        }
    });
}

/// An attribute of a span.
pub(crate) fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// An attribute that is a number; JSON has 64-bit integers as strings.
pub(crate) fn number(key: &str, value: i64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

struct Parent {
    trace: String,
    span: String,
    sampled: bool,
}

/// `00-TRACE-SPAN-FLAGS`; anything else is as if it were not there.
fn parent(header: &str) -> Option<Parent> {
    let mut parts = header.trim().split('-');
    let mut hex = |length: usize| {
        let part = parts.next()?;
        let good = part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| part.to_owned())
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let zero = |id: &str| id.bytes().all(|b| b == b'0');
    // Later versions may have more parts; this one has four.
    if version == "ff" || (version == "00" && parts.next().is_some()) || zero(&trace) || zero(&span) {
        return None;
    }
    let sampled = u8::from_str_radix(&flags, 16).ok()? & 1 == 1;
    Some(Parent { trace, span, sampled })
}

fn random(bytes: usize) -> Option<String> {
    let mut buffer = [0u8; 16];
    let part = buffer.get_mut(..bytes)?;
    getrandom::fill(part).ok()?;
    Some(part.iter().map(|b| format!("{b:02x}")).collect())
}

struct Exporter {
    agent: ureq::Agent,
    url: String,
    lost: Arc<AtomicU64>,
    complained: Option<Instant>,
}

impl Exporter {
    fn new(url: String, lost: Arc<AtomicU64>) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build();
        Self { agent: config.into(), url, lost, complained: None }
    }

    fn run(mut self, spans: &Receiver<Value>) {
        while let Ok(first) = spans.recv() {
            let (mut batch, due) = (vec![first], Instant::now() + DELAY);
            let mut open = true;
            while batch.len() < BATCH && open {
                match spans.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Ok(span) => batch.push(span),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
            }
            self.post(&batch);
        }
    }

    fn post(&mut self, spans: &[Value]) {
        let resource = [
            attribute("service.name", "occlude-serve"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": resource},
            "scopeSpans": [{"scope": {"name": "occlude-serve"}, "spans": spans}],
        }]});
        let sent =
            self.agent.post(&self.url).header("content-type", "application/json").send(body.to_string());
        let Err(error) = sent else { return };
        self.lost.fetch_add(spans.len() as u64, Ordering::Relaxed);
        if self.complained.is_none_or(|at| at.elapsed() > QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!("the collector at `{}` does not accept traces: {error}", self.url);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn trace_parents() {
        let good = parent(&format!("00-{TRACE_ID}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(
            (good.trace.as_str(), good.span.as_str(), good.sampled),
            (TRACE_ID, "00f067aa0ba902b7", true)
        );
        assert!(!parent(&format!("00-{TRACE_ID}-00f067aa0ba902b7-00")).unwrap().sampled);
        assert!(parent(&format!("01-{TRACE_ID}-00f067aa0ba902b7-01-more")).is_some(), "a later version");
        let bad = [
            String::new(),
            "00".to_owned(),
            format!("00-{TRACE_ID}-00f067aa0ba902b7-01-more"),
            format!("ff-{TRACE_ID}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{TRACE_ID}-{}-01", "0".repeat(16)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE_ID.to_uppercase()),
            format!("00-{TRACE_ID}-00f067aa0ba902b7-0é"),
        ];
        for header in bad {
            assert!(parent(&header).is_none(), "{header}");
        }
    }

    #[test]
    fn a_collector_that_is_gone_costs_spans_only() {
        let telemetry = Telemetry::start("http://127.0.0.1:1/");
        let trace = Trace::begin(&HeaderMap::new()).unwrap();
        trace.end(&telemetry, "GET /", 200, &[]);
        let lost = Arc::clone(&telemetry.lost);
        drop(telemetry);
        assert_eq!(lost.load(Ordering::Relaxed), 1);
    }
}
