//! Requests as clients of many kinds write them: compressed, in dialects of base64, with names in every notation.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use flate2::Compression;
use flate2::read::{DeflateEncoder, GzEncoder, ZlibEncoder};
use occlude_retrieval::{Options, Store};
use occlude_serve::{AppState, Expected, Limits, app};
use serde_json::{Value, json};

use crate::common::*;
use crate::fake::Fake;

const INFER: &str = "/v2/models/fake/infer";
const POINTS: &str = "/v1/collections/c/points";
const SEARCH: &str = "/v1/collections/c/search";
const JSON: (&str, &str) = ("content-type", "application/json");

/// An app with two models and an empty collection `c` of the first.
async fn app_with_store(dir: &Path, limits: &Limits) -> Router {
    let state = AppState::new(limits.clone(), Expected { store: true, ..Expected::default() });
    state.set_model(fake_model(&state, limits, vec![Fake::default()]));
    state.set_model(named_model("other", "0ther", &state, limits, vec![Fake::default()]));
    state.set_store(Arc::new(Store::open(dir, &Options::default()).unwrap()));
    let app = app(state);
    let made = send(&app, request("PUT", "/v1/collections/c", &[], "")).await;
    assert_eq!(made.status, StatusCode::CREATED);
    app
}

fn photo() -> Vec<u8> {
    png_of(90, 60, &ramp(90, 60))
}

fn compressed(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let best = Compression::best();
    match coding {
        "gzip" | "X-GZIP" => GzEncoder::new(body, best).read_to_end(&mut out),
        "deflate" => ZlibEncoder::new(body, best).read_to_end(&mut out),
        _ => DeflateEncoder::new(body, best).read_to_end(&mut out),
    }
    .unwrap();
    out
}

/// Every way to send the same picture: route, content type, body.
fn ways(text: &str) -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let infer = json!({"inputs": [{"name": "files", "datatype": "BYTES", "shape": [1], "data": [text]}]});
    let bodies = [
        ("/v1/embed", json!({"image": text})),
        ("/v1/saliency", json!({"images": [{"name": "a", "data": text}]})),
        ("/v1/embeddings", json!({"model": "fake", "input": [text]})),
        (INFER, infer),
        (POINTS, json!({"points": [{"id": "a", "image": text}]})),
        (SEARCH, json!({"image": text})),
    ];
    bodies.map(|(route, body)| (route, "application/json", body.to_string().into_bytes())).into()
}

#[tokio::test]
async fn base64_in_every_dialect_on_every_route() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let standard = base64(&photo());
    assert!(
        standard.contains('+') && standard.contains('/') && standard.ends_with('='),
        "it tells dialects apart"
    );
    let url_safe = standard.replace('+', "-").replace('/', "_");
    let wrapped = standard.as_bytes().chunks(76).map(|c| std::str::from_utf8(c).unwrap()).collect::<Vec<_>>();
    let escaped = standard.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D");
    for text in [
        url_safe.trim_end_matches('=').to_owned(),
        url_safe.clone(),
        wrapped.join("\r\n"),
        format!("DATA:image/png;name=a.png;BASE64,{standard}"),
        format!("data:image/png;charset=utf-8;base64,{escaped}"),
        format!("data:;base64,{url_safe}"),
    ] {
        for (route, kind, body) in ways(&text) {
            let answer = post(&app, route, &[("content-type", kind)], body).await;
            let said = String::from_utf8_lossy(&answer.bytes);
            assert_eq!(answer.status, StatusCode::OK, "{route} {}: {said}", text.get(..30).unwrap());
        }
    }
}

#[tokio::test]
async fn marks_and_content_types_of_json() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    for kind in
        ["Application/JSON", "application/json;charset=UTF-8", "text/json", "application/vnd.api+json"]
    {
        for (route, _, body) in ways(&base64(&photo())) {
            let marked = [b"\xef\xbb\xbf".as_slice(), &body].concat();
            let answer = post(&app, route, &[("content-type", kind)], marked).await;
            assert_eq!(answer.status, StatusCode::OK, "{route} {kind}");
        }
    }
    let silent: [&[(&str, &str)]; 3] = [
        &[],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "Binary/Octet-Stream")],
    ];
    for headers in silent {
        for (route, _, body) in ways(&base64(&photo())) {
            let answer = post(&app, route, headers, [b" \n".as_slice(), &body].concat()).await;
            assert_eq!(answer.status, StatusCode::OK, "{route} {headers:?}: the bytes decide");
        }
    }
    // What deletes says what it is: pages of other origins send the other types without asking.
    let delete = post(&app, &format!("{POINTS}/delete"), &[], r#"{"filter": {}}"#).await;
    assert_eq!(delete.code(), "unsupported_media_type");
}

#[tokio::test]
async fn pictures_of_any_content_type_that_says_nothing_else() {
    let app = fake_app();
    for kind in
        ["binary/octet-stream", "APPLICATION/Octet-Stream", "image/x-unknown", "Image/*", "", "image/jpeg"]
    {
        let answer = post(&app, "/v1/embed", &[("content-type", kind)], photo()).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}: a PNG is one whatever it is called");
    }
    let answer = post(&app, "/v1/embed", &[("content-type", "video/mp4")], photo()).await;
    assert_eq!(answer.code(), "unsupported_media_type");
}

#[tokio::test]
async fn compressed_bodies_on_every_route() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let (kind, form) = form(&[("content-disposition: form-data; name=f; filename=a.png", &photo())]);
    let mut all = ways(&base64(&photo()));
    all.extend([("/v1/analyze", "image/png", photo()), (SEARCH, "image/png", photo())]);
    for coding in ["gzip", "X-GZIP", "deflate", "deflate, identity"] {
        for (route, kind, body) in &all {
            let headers = [("content-type", *kind), ("content-encoding", coding)];
            let answer = post(&app, route, &headers, compressed(coding, body)).await;
            assert_eq!(answer.status, StatusCode::OK, "{route} {coding}");
        }
        let headers = [("content-type", kind.as_str()), ("content-encoding", coding)];
        let answer = post(&app, POINTS, &headers, compressed(coding, &form)).await;
        assert_eq!(answer.status, StatusCode::OK, "{coding}");
        let headers = [JSON, ("content-encoding", coding)];
        let body = compressed(coding, br#"{"ids": ["a"]}"#);
        assert_eq!(post(&app, &format!("{POINTS}/delete"), &headers, body).await.json()["count"], 1);
    }
}

#[tokio::test]
async fn what_grows_too_large_or_breaks_off_is_refused() {
    let limits = Limits { max_body: 50_000, ..Limits::default() };
    let app = app(fake_state(&limits, vec![Fake::default()]));
    let bomb = compressed("gzip", &vec![b' '; 20_000_000]);
    assert!(bomb.len() < 50_000);
    for route in ["/v1/embed", "/v1/embeddings", INFER] {
        let gzip = [("content-encoding", "gzip"), JSON];
        let refused = post(&app, route, &gzip, bomb.clone()).await;
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{route}");
        for broken in [&compressed("gzip", b"{}")[..12], b"{}"] {
            assert_eq!(
                post(&app, route, &gzip, broken.to_vec()).await.status,
                StatusCode::BAD_REQUEST,
                "{route}"
            );
        }
        let refused = post(&app, route, &[("content-encoding", "zstd"), JSON], "{}").await;
        assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{route}");
    }
    let exact = compressed("gzip", &[b"{\"image\": \"\"}".as_slice(), &[b' '; 50_000 - 13]].concat());
    assert_eq!(
        post(&app, "/v1/embed", &[("content-encoding", "gzip"), JSON], exact).await.code(),
        "bad_request"
    );
}

fn part(rest: &str) -> String {
    format!("content-disposition: form-data; name=\"file\"{rest}")
}

#[tokio::test]
async fn names_of_files_are_theirs_and_ids_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let names = [
        ("; filename=\"naïve.jpg\"", "naïve.jpg"),
        ("; filename=\"x\"; filename*=UTF-8''na%C3%AFve%202.jpg", "naïve 2.jpg"),
        ("; filename*=ISO-8859-1''caf%E9.jpg", "café.jpg"),
        ("; filename=\"say \\\"hi\\\".jpg\"", "say \"hi\".jpg"),
        ("; filename=\"C:\\a\\b.jpg\"", "C:\\a\\b.jpg"),
        ("; filename=\"../x\"", "../x"),
        ("; filename*=UTF-8''a%0Ab.jpg", "a%0Ab.jpg"),
        ("; filename=\"a%0Ab.jpg\"", "a%250Ab.jpg"),
    ];
    let parts: Vec<_> = names.iter().map(|(rest, _)| part(rest)).collect();
    let photo = photo();
    let mut all: Vec<(&str, &[u8])> = parts.iter().map(|p| (p.as_str(), photo.as_slice())).collect();
    let (kind, body) = form(&all);
    let answer = post(&app, "/v1/embed", &[("content-type", &kind)], body).await.json();
    for ((rest, name), result) in names.iter().zip(answer["results"].as_array().unwrap()) {
        assert_eq!(result["name"], *name, "{rest}");
    }
    let (_, body) = form(&all);
    let answer = post(&app, POINTS, &[("content-type", &kind)], body).await;
    assert_eq!(answer.json(), json!({"added": 8, "replaced": 0}), "different names are different points");
    let ids: Vec<_> = names.iter().map(|(_, name)| name).collect();
    let found =
        post(&app, &format!("{POINTS}/scroll"), &[JSON], json!({"ids": ids}).to_string()).await.json();
    assert_eq!(found["points"].as_array().unwrap().len(), 8);

    // Latin-1 names that are no UTF-8 differ by one byte.
    for (byte, name) in [(0xe9, "caf%E9.jpg"), (0xe8, "caf%E8.jpg")] {
        let (_, body) = form(&[(&part("; filename=\"caf\u{7f}.jpg\""), &photo)]);
        let at = body.iter().position(|b| *b == 0x7f).unwrap();
        let body: Vec<u8> = body.iter().enumerate().map(|(i, b)| if i == at { byte } else { *b }).collect();
        let answer = post(&app, "/v1/embed", &[("content-type", &kind)], body).await.json();
        assert_eq!(answer["results"][0]["name"], name);
    }

    // Without a name there is no id: not the field's, and nothing is kept of the others.
    let nameless = part("");
    let typed = format!("{nameless}\r\ncontent-type: image/png");
    for head in [nameless.as_str(), &typed, &part("; filename=\"\"")] {
        all.truncate(1);
        all.push((head, &photo));
        let (_, body) = form(&all);
        let refused = post(&app, POINTS, &[("content-type", &kind)], body.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "invalid_request"));
        let said = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.starts_with("picture 1: the file has no name"), "{said}");
        let embedded = post(&app, "/v1/embed", &[("content-type", &kind)], body).await.json();
        assert_eq!(embedded["results"][1]["name"], Value::Null);
    }
    let count = post(&app, "/v1/collections/c/count", &[], "").await.json();
    assert_eq!(count, json!({"count": 8}));
}

#[tokio::test]
async fn an_id_twice_is_refused_with_both_places() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let point = |id: &str| json!({"id": id, "vector": [1, 0, 0]});
    let json = |body: Value| ("application/json".to_owned(), body.to_string().into_bytes());
    let twice = [part("; filename=a.png"), part("; filename=b.png"), part("; filename*=utf-8''a%2Epng")];
    let photo = photo();
    let files: Vec<_> = twice.iter().map(|p| (p.as_str(), photo.as_slice())).collect();
    let cases = [
        (
            POINTS,
            json(json!({"fingerprint": FINGERPRINT, "points": [point("b"), point("a"), point("a")]})),
            "points",
            (1, 2),
        ),
        (POINTS, form(&files), "files", (0, 2)),
        ("/v1/collections/c/points/delete", json(json!({"ids": ["a", "b", "a"]})), "ids", (0, 2)),
        ("/v1/collections/c/points/scroll", json(json!({"ids": ["a", "a"]})), "ids", (0, 1)),
    ];
    for (route, (kind, body), list, (first, second)) in cases {
        let refused = post(&app, route, &[("content-type", &kind)], body).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "bad_request"), "{route}");
        let said = refused.json()["error"]["message"].as_str().unwrap().to_owned();
        let name = if list == "files" { "a.png" } else { "a" };
        assert_eq!(said, format!("the id `{name}` appears twice: {list}[{first}] and {list}[{second}]"));
    }
    assert_eq!(post(&app, "/v1/collections/c/count", &[], "").await.json(), json!({"count": 0}));
    let (kind, body) = form(&files);
    let embedded = post(&app, "/v1/embed", &[("content-type", &kind)], body).await;
    assert_eq!(embedded.status, StatusCode::OK, "names of answers are no ids");
}

#[tokio::test]
async fn fields_beside_the_files_are_parameters_or_nobodys_business() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let photo = photo();
    let file = (part("; filename=a.png"), photo.as_slice());
    let field = |name: &str| format!("content-disposition: form-data; name=\"{name}\"");
    let sent = async |route: &str, fields: &[(&str, &[u8])]| {
        let heads: Vec<_> = fields.iter().map(|(name, _)| field(name)).collect();
        let mut parts: Vec<_> = heads.iter().map(String::as_str).zip(fields.iter().map(|f| f.1)).collect();
        parts.push((file.0.as_str(), file.1));
        let (kind, body) = form(&parts);
        post(&app, route, &[("content-type", &kind)], body).await
    };
    let answer = sent("/v1/embed", &[("model", b"other"), ("purpose", b"search")]).await;
    assert_eq!(answer.json()["model"]["name"], "other");
    assert_eq!(answer.json()["results"].as_array().unwrap().len(), 1, "fields are no pictures");
    let answer = sent("/v1/saliency", &[("mask", b"none"), ("threshold", b"1.5")]).await.json();
    assert_eq!(answer["results"][0]["saliency"]["deviations"], 1.5);
    assert_eq!(sent("/v1/embed", &[("format", b"npy")]).await.header("content-type"), "application/x-npy");
    assert_eq!(sent("/v1/embed", &[("model", b"none")]).await.code(), "model_not_found");
    assert_eq!(
        sent("/v1/embed?model=fake", &[("model", b"other")]).await.code(),
        "bad_request",
        "which one?"
    );
    assert_eq!(sent("/v1/saliency", &[("threshold", b"much")]).await.code(), "bad_request");
    for id in ["a", "b"] {
        let point = json!({"points": [{"id": id, "image": base64(&photo)}]});
        assert_eq!(post(&app, POINTS, &[JSON], point.to_string()).await.status, StatusCode::OK);
    }
    let found = sent(SEARCH, &[("limit", b"1"), ("csrf", b"x")]).await.json();
    assert_eq!(found["hits"].as_array().unwrap().len(), 1);
    assert_eq!(sent(POINTS, &[("album", b"x")]).await.json()["added"], 1);
}

#[tokio::test]
async fn inputs_without_a_file_are_left_out() {
    let app = fake_app();
    let empty = format!("{}\r\ncontent-type: application/octet-stream", part("; filename=\"\""));
    let photo = photo();
    let (kind, body) = form(&[(&empty, b""), (&part("; filename=a.png"), &photo), (&empty, b"")]);
    let answer = post(&app, "/v1/embed", &[("content-type", &kind)], body).await.json();
    assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    let refused = async |parts: &[(&str, &[u8])]| {
        let (kind, body) = form(parts);
        let answer = post(&app, "/v1/embed", &[("content-type", &kind)], body).await;
        (answer.code(), answer.json()["error"]["message"].as_str().unwrap().to_owned())
    };
    let (code, said) = refused(&[(&empty, b"")]).await;
    assert!(code == "invalid_request" && said.starts_with("no file was chosen"), "{said}");
    let (code, said) = refused(&[("content-disposition: form-data; name=\"model\"", b"fake")]).await;
    assert!(code == "invalid_request" && said.ends_with("only fields: `model`"), "{said}");
    let (code, said) =
        refused(&[(&part("; filename=a.png"), &photo), (&part("; filename=b.png"), b"")]).await;
    assert_eq!((code.as_str(), said.as_str()), ("bad_request", "picture 1 (`b.png`): the file is empty"));
}

#[tokio::test]
async fn boundaries_in_quotes_and_capitals() {
    let app = fake_app();
    let (_, body) = form(&[(&part("; filename=a.png"), &photo())]);
    for kind in [
        "multipart/form-data; boundary=\"XX\"",
        "Multipart/Form-Data; charset=utf-8; BOUNDARY=XX",
        "multipart/form-data;boundary=\"XX\"; x=y",
    ] {
        let answer = post(&app, "/v1/embed", &[("content-type", kind)], body.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{kind}");
    }
    let spaced: Vec<u8> = replaced(&body, b"--XX", b"--a b:c");
    let kind = "multipart/form-data; boundary=\"a b:c\"";
    assert_eq!(post(&app, "/v1/embed", &[("content-type", kind)], spaced).await.status, StatusCode::OK);
}

fn replaced(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = body;
    while let Some(at) = rest.windows(from.len()).position(|w| w == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    [out, rest.to_vec()].concat()
}

/// In every API, the message says which of several pictures it is about, once.
#[tokio::test]
async fn the_bad_one_of_several_is_named_by_number_and_name() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let (good, bad) = (base64(&photo()), base64(b"\x89PNG\r\n\x1a\nno"));
    let files = |bad: &str| json!({"inputs": [{"name": "files", "datatype": "BYTES", "shape": [2], "data": [good, bad]}]});
    for (bad, status) in [(&*bad, 422), ("!", 400), ("https://example.org/a.png", 422)] {
        let cases = [
            ("/v1/embed", json!({"images": [good, {"name": "b.png", "data": bad}]}), "picture 1 (`b.png`): "),
            ("/v1/embed", json!({"images": [good, bad]}), "picture 1: "),
            ("/v1/embeddings", json!({"model": "fake", "input": [good, bad]}), "picture 1 (`input[1]`): "),
            (INFER, files(bad), "picture 1 (`files[1]`): "),
            (
                POINTS,
                json!({"points": [{"id": "a", "image": good}, {"id": "b", "image": bad}]}),
                "picture 1 (`b`): ",
            ),
            (
                POINTS,
                json!({"fingerprint": FINGERPRINT, "points": [{"id": "a", "vector": [1, 0, 0]}, {"id": "b", "image": bad}]}),
                "picture 1 (`b`): ",
            ),
        ];
        for (route, body, start) in cases {
            let answer = post(&app, route, &[JSON], body.to_string()).await;
            assert_eq!(answer.status.as_u16(), status, "{route} {bad}");
            let json = answer.json();
            let said = json["error"]["message"].as_str().or(json["error"].as_str()).unwrap();
            assert!(said.starts_with(start), "{route}: {said}");
            assert_eq!(said.matches("picture 1").count(), 1, "{said}");
            let words = said.split(": ").collect::<Vec<_>>();
            let distinct: std::collections::BTreeSet<_> = words.iter().collect();
            assert_eq!(distinct.len(), words.len(), "nothing is said twice: {said}");
        }
    }
    let alone = post(&app, "/v1/embed", &[], b"\x89PNG\r\n\x1a\nno".to_vec()).await.json();
    assert!(!alone["error"]["message"].as_str().unwrap().contains("picture 0"), "{alone}");
}

#[tokio::test]
async fn what_is_nested_too_deep_is_a_bad_request_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let nest = |n: usize| format!("{}{{}}{}", r#"{"must":["#.repeat(n), "]}".repeat(n));
    let lists = |n: usize| format!("{}0{}", "[".repeat(n), "]".repeat(n));
    let payload = |n: usize| {
        let depth = lists(n - 1);
        format!(
            r#"{{"fingerprint":"{FINGERPRINT}","points":[{{"id":"a","vector":[1,0,0],"payload":{{"x":{depth}}}}}]}}"#
        )
    };
    let tensor = format!(
        r#"{{"inputs":[{{"name":"images","datatype":"UINT8","shape":[1,32,32,3],"data":{}}}]}}"#,
        lists(5000)
    );
    let filter = |n| format!(r#"{{"filter":{}}}"#, nest(n));
    let search = format!(r#"{{"vector":[1,0,0],"fingerprint":"{FINGERPRINT}","filter":{}}}"#, nest(8));
    let cases = [
        ("/v1/collections/c/count", filter(7), 200),
        ("/v1/collections/c/count", filter(8), 400),
        ("/v1/collections/c/points/scroll", filter(8), 400),
        ("/v1/collections/c/points/delete", filter(40), 400),
        (SEARCH, search, 400),
        ("/v1/collections/c/count", filter(5000), 400),
        (POINTS, payload(32), 200),
        (POINTS, payload(33), 400),
        (POINTS, payload(4000), 400),
        ("/v1/embed", format!(r#"{{"image": {}}}"#, lists(4000)), 400),
        ("/v1/embeddings", format!(r#"{{"model": "fake", "input": {}}}"#, lists(4000)), 400),
        (INFER, tensor, 400),
    ];
    for (route, body, status) in cases {
        let answer = post(&app, route, &[JSON], body.clone()).await;
        let said = String::from_utf8_lossy(&answer.bytes).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{route} {} {said}", body.len());
        assert!(status == 200 || said.contains("nested deeper than"), "{route} {said}");
    }
}

#[tokio::test]
async fn ranges_hold_integers_that_doubles_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let app = app_with_store(dir.path(), &Limits::default()).await;
    let numbers = [9_007_199_254_740_992_u64, 9_007_199_254_740_993, u64::MAX];
    let point = |n: u64| json!({"id": n.to_string(), "vector": [1, 0, 0], "payload": {"n": n}});
    let points = json!({"fingerprint": FINGERPRINT, "points": numbers.map(point)});
    assert_eq!(post(&app, POINTS, &[JSON], points.to_string()).await.status, StatusCode::OK);
    for (range, expected) in [
        (json!({"gt": 9_007_199_254_740_992_u64}), 2),
        (json!({"gte": 9_007_199_254_740_993_u64, "lt": u64::MAX}), 1),
        (json!({"lt": 9_007_199_254_740_993_u64}), 1),
        (json!({"gt": 9_007_199_254_740_992.0}), 2),
        (json!({"lt": 1.8446744073709552e19}), 3),
    ] {
        let filter = json!({"filter": {"must": [{"key": "n", "range": range}]}});
        let count = post(&app, "/v1/collections/c/count", &[JSON], filter.to_string()).await.json();
        assert_eq!(count, json!({"count": expected}), "{range}");
    }
}
