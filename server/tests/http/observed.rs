//! What operators see of requests: ids, counters, the log; and what pages of other origins may do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::stream;
use occlude_serve::{AppState, Cors, Expected, Keys, Kind, Limits, app, create_key, cross_origin};
use serde_json::Value;

use crate::binary::{Running, fails};
use crate::common::*;
use crate::fake::{Fake, Gate};

const RED: [u8; 3] = [200, 20, 20];

#[tokio::test]
async fn every_answer_has_an_id() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        max_body: 5000,
        max_queue: 1,
        max_batch: 1,
        max_images: 1,
        timeout: Duration::from_millis(150).into(),
        read_timeout: Duration::from_millis(60).into(),
        ..Limits::default()
    };
    let gate = Gate::default();
    let state = fake_state(&limits, vec![Fake::gated(&gate)]);
    let app = cross_origin(app(state.clone()), &Cors::Any);
    let mut seen = BTreeSet::new();
    let mut check = |answer: &Answer, status: u16| {
        assert_eq!(answer.status.as_u16(), status, "{}", String::from_utf8_lossy(&answer.bytes));
        assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1, "{status}");
        assert!(seen.insert(answer.header("x-request-id").to_owned()), "{status}: another id each time");
    };
    check(&get(&app, "/healthz").await, 200);
    check(&get(&app, "/nowhere").await, 404);
    check(&get(&app, "/v1/embed").await, 405);
    check(&get(&app, "/v1/gallery/%FF/thumbnail").await, 400);
    check(&post(&app, "/v1/embed", &[("accept", "text/html")], "x").await, 406);
    check(&post(&app, "/v1/embed", &[], vec![0u8; 5001]).await, 413);
    check(&post(&app, "/v1/embed", &[("content-type", "a/b")], "x").await, 415);
    let never = || Body::from_stream(stream::pending::<Result<Vec<u8>, std::io::Error>>());
    check(&post(&app, "/v1/embed", &[], never()).await, 408);
    let late = tokio::spawn({
        let app = app.clone();
        async move { post(&app, "/v1/embed", &[], png(40, 40, RED)).await }
    });
    while state.metrics().batches().is_empty() && !full(&app).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    check(&post(&app, "/v1/embed", &[], png(40, 40, RED)).await, 429);
    check(&late.await.unwrap(), 504);
    gate.open();
    create_key("a", &dir.path().join("keys")).unwrap();
    state.set_keys(Keys::read(&dir.path().join("keys")).unwrap());
    check(&post(&app, "/v1/embed", &[], png(40, 40, RED)).await, 401);
    state.set_keys(Keys::default());
    state.start_draining();
    check(&post(&app, "/v1/embed", &[], png(40, 40, RED)).await, 503);
    check(&send(&app, request("OPTIONS", "/v1/embed", &[("origin", "https://a.example")], "")).await, 200);
}

async fn full(app: &axum::Router) -> bool {
    lines(app).await.iter().any(|l| l == "occlude_in_flight_images 1")
}

#[tokio::test]
async fn an_id_of_the_client_is_kept_where_it_is_plain() {
    let app = cross_origin(fake_app(), &Cors::Any);
    for (path, method) in [("/healthz", "GET"), ("/nowhere", "GET"), ("/v1/embed", "OPTIONS")] {
        let sent = async |id: &str| {
            let headers = [("x-request-id", id), ("origin", "https://a.example")];
            send(&app, request(method, path, &headers, "")).await.header("x-request-id").to_owned()
        };
        assert_eq!(sent("0af7-me.1").await, "0af7-me.1");
        for odd in ["a b", "", "x\"y", &"z".repeat(65)] {
            let given = sent(odd).await;
            assert!(!given.is_empty() && given != odd, "{method} {path}: {odd}");
        }
    }
}

#[tokio::test]
async fn pages_may_send_keys_and_read_ids() {
    let app = cross_origin(fake_app(), &Cors::Origins(vec!["https://a.example".parse().unwrap()]));
    let ask = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type,x-mine"),
    ];
    let preflight = send(&app, request("OPTIONS", "/v1/embed", &ask, "")).await;
    assert_eq!(preflight.status, StatusCode::OK);
    let allowed = preflight.header("access-control-allow-headers").to_lowercase();
    let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    for name in ["authorization", "content-type", "x-api-key", "x-request-id", "*"] {
        assert!(allowed.contains(&name), "{name}: the wildcard alone does not cover `Authorization`");
    }
    let answer = post(&app, "/v1/embed", &[("origin", "https://a.example")], png(40, 40, RED)).await;
    let exposed = answer.header("access-control-expose-headers");
    assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
}

async fn lines(app: &axum::Router) -> Vec<String> {
    let answer = get(app, "/metrics").await;
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    String::from_utf8(answer.bytes).unwrap().lines().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn counters_are_there_before_anything_is_counted() {
    let all = lines(&fake_app()).await;
    let has = |line: &str| assert!(all.iter().any(|l| l == line), "{line} is missing in\n{}", all.join("\n"));
    for kind in Kind::ALL {
        has(&format!("occlude_errors_total{{code=\"{}\"}} 0", kind.status().1));
    }
    for (route, status) in [
        ("/v1/embed", 200),
        ("/v1/embed", 429),
        ("/v1/collections/{name}/search", 404),
        ("/metrics", 200),
        ("other", 404),
    ] {
        has(&format!("occlude_requests_total{{route=\"{route}\",status=\"{status}\"}} 0"));
    }
    has("occlude_images_total{model=\"fake\"} 0");
    has("occlude_model_reloads_total{model=\"fake\",result=\"failed\"} 0");
    has("occlude_stage_seconds_count{model=\"fake\",stage=\"encode\"} 0");
    has("occlude_batch_size_count 0");
    has("occlude_spans_lost_total 0");
}

#[tokio::test]
async fn each_stage_is_counted_once() {
    let app = fake_app();
    let picture = base64(&png(40, 40, RED));
    let json = [("content-type", "application/json")];
    post(&app, "/v1/analyze", &json, format!("{{\"image\": \"{picture}\"}}")).await;
    post(&app, "/v1/embeddings", &json, format!("{{\"model\": \"fake\", \"input\": \"{picture}\"}}")).await;
    let (kind, body) = form(&[("content-disposition: form-data; name=f; filename=a", &png(40, 40, RED))]);
    post(&app, "/v1/embed", &[("content-type", &kind)], body).await;
    let all = lines(&app).await;
    for (model, stage, count) in [
        ("", "read", 3),
        ("", "parse", 2),
        ("fake", "decode", 3),
        ("fake", "queue", 3),
        ("fake", "encode", 3),
        ("fake", "render", 2),
        ("fake", "total", 3),
        ("", "total", 0),
    ] {
        let line = format!("occlude_stage_seconds_count{{model=\"{model}\",stage=\"{stage}\"}} {count}");
        assert!(all.contains(&line), "{line} is missing in\n{}", all.join("\n"));
    }
}

#[tokio::test]
async fn latency_is_told_by_method_route_and_status() {
    let app = fake_app();
    post(&app, "/v1/embed", &[], png(40, 40, RED)).await;
    get(&app, "/v1/models/fake").await;
    get(&app, "/v1/models/none").await;
    send(&app, request("BREW", "/v1/embed", &[], "")).await;
    let all = lines(&app).await;
    for labels in [
        "method=\"POST\",route=\"/v1/embed\",status=\"200\"",
        "method=\"GET\",route=\"/v1/models/{model}\",status=\"200\"",
        "method=\"GET\",route=\"/v1/models/{model}\",status=\"404\"",
        "method=\"other\",route=\"/v1/embed\",status=\"405\"",
    ] {
        let bound = |le: &str| format!("occlude_request_seconds_bucket{{{labels},le=\"{le}\"}} ");
        assert!(all.contains(&format!("{}1", bound("60"))), "{labels}\n{}", all.join("\n"));
        assert!(all.iter().any(|l| l.starts_with(&bound("0.0001"))), "{labels}");
    }
}

/// A reader of the text format that takes nothing else: every sample belongs to the family above it, which says what
/// it is; no series is there twice; buckets grow and end at their count.
fn strictly(text: &str) -> BTreeMap<String, f64> {
    assert!(text.ends_with('\n'));
    let (mut families, mut samples) = (BTreeSet::new(), BTreeMap::new());
    let (mut help, mut family, mut kind) = ("", "", "");
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').expect("words of help").0;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            (family, kind) = rest.split_once(' ').unwrap();
            assert!(help == family && families.insert(family), "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!((kind == "counter") == family.ends_with("_total"), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.iter().any(|s| name == format!("{family}{s}")), "{line} below {family}");
            let value: f64 = value.parse().unwrap();
            assert!(kind != "counter" || value >= 0.0, "{line}");
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    for (series, value) in &samples {
        if let Some(count) = series.strip_suffix(",le=\"+Inf\"}") {
            let (count, alone) =
                (count.replacen("_bucket", "_count", 1), count.replacen("_bucket", "_sum", 1));
            assert_eq!(samples[&format!("{count}}}")], *value, "{series}");
            assert!(samples.contains_key(&format!("{alone}}}")), "{series}");
        }
    }
    samples
}

#[test]
fn a_real_server_tells_of_itself_in_prometheus_own_format() {
    let server = Running::start(&[]);
    server.wait_for("ready");
    server.post(&png(40, 40, RED), "/v1/embed");
    let answer = server.get("/metrics");
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    let samples = strictly(text);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert!(value("process_resident_memory_bytes") > 1e6 && value("process_cpu_seconds_total") > 0.0);
    assert!(value("process_open_fds") >= 3.0 && value("process_start_time_seconds") > 1.7e9);
    let build = samples.keys().find(|k| k.starts_with("occlude_build_info{")).unwrap();
    assert!(build.contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{build}");
    let runtime = build.split("onnxruntime=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(runtime.starts_with("1.") && runtime.split('.').count() == 3, "{build}");
}

#[test]
fn requests_are_logged_in_fields() {
    let server = Running::start(&["--log-format", "json", "--trusted-proxy", "127.0.0.0/8"]);
    server.wait_for("ready");
    let picture = png(40, 40, RED);
    let head = |more: &str| {
        format!(
            "POST /v1/embed?model=tiny HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\
             x-request-id: mine\r\n{more}\r\n",
            picture.len()
        )
    };
    let logged = |more: &str| {
        let answer = server.ask(&[head(more).as_bytes(), &picture].concat());
        let line = server.wait_for("\"request_id\"");
        (answer, serde_json::from_str::<Value>(&line).unwrap(), line)
    };
    let (answer, fields, line) = logged("x-forwarded-for: 6.6.6.6, 198.51.100.7\r\n");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(fields["request_id"], "mine");
    assert_eq!((&fields["method"], &fields["path"]), (&"POST".into(), &"/v1/embed".into()));
    assert_eq!((&fields["status"], &fields["model"]), (&200.into(), &"tiny".into()));
    assert_eq!(fields["bytes_in"], picture.len());
    assert_eq!(fields["bytes_out"], body.len());
    assert!(fields["ms"].as_f64().unwrap() > 0.0);
    assert_eq!(fields["client"], "198.51.100.7");
    assert!(
        !line.contains('?') && !line.contains("6.6.6.6"),
        "neither queries nor what a client claims: {line}"
    );
    assert_eq!(logged("").1["client"], "127.0.0.1");
    assert_eq!(logged("forwarded: for=\"[2001:db8::7]:80\"\r\n").1["client"], "2001:db8::7");
    drop(server);

    let open = Running::start(&["--log-format", "json"]);
    open.wait_for("ready");
    open.ask(&[head("x-forwarded-for: 198.51.100.7\r\n").as_bytes(), &picture].concat());
    let fields: Value = serde_json::from_str(&open.wait_for("\"request_id\"")).unwrap();
    assert_eq!(fields["client"], "127.0.0.1", "nobody is trusted unless named");
}

#[test]
fn errors_say_each_thing_once() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture("tiny.onnx");
    let file = dir.path().join("file");
    std::fs::write(&file, "nothing\n").unwrap();
    let (model, file) = (model.to_str().unwrap(), file.to_str().unwrap());
    let inside = format!("{file}/x");
    for flags in [
        &["--model", model, "--api-keys", "gone"][..],
        &["--model", model, "--api-keys", file],
        &["--model", "gone.onnx"],
        &["--model", model, "--gallery", "gone"],
        &["--model", model, "--data", file],
        &["--model", model, "--host", "192.0.2.1"],
        &["--config", "gone.toml"],
        &["embed", "gone", "--model", model, "--out", "x.npy"],
        &["embed", "gone", "--model", file, "--out", "x.npy"],
        &["index", "gone", "--model", model, "--collection", "c", "--data", &inside],
        &["key", "alice", "--file", &inside],
        &["health", "http://127.0.0.1:1"],
    ] {
        let (code, error) = fails(flags);
        assert_ne!(code, 0, "{flags:?}");
        let line =
            error.lines().rfind(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{flags:?}: {error}"));
        let words: Vec<&str> =
            line.split([':', ';', '(', ')']).map(str::trim).filter(|w| w.len() > 8).collect();
        let distinct: BTreeSet<_> = words.iter().collect();
        assert_eq!(distinct.len(), words.len(), "{flags:?}: {line}");
    }
}

#[tokio::test]
async fn a_state_without_a_model_is_measured_too() {
    let app = app(AppState::new(Limits::default(), Expected::default()));
    assert_eq!(post(&app, "/v1/embed", &[], "x").await.code(), "loading");
    let text = lines(&app).await.join("\n") + "\n";
    assert_eq!(strictly(&text)["occlude_errors_total{code=\"loading\"}"], 1.0);
}
