//! The document at `/openapi.json` is true: of the router, of the errors, and of what the server answers.

use std::collections::BTreeSet;
use std::process::Command;

use axum::http::StatusCode;
use occlude_serve::{Keys, Kind, Limits, app, create_key};
use serde_json::Value;

use crate::binary::{Running, pictures, python};
use crate::common::*;
use crate::fake::Fake;

/// The router's source: it cannot be asked for its routes.
const ROUTER: &str = include_str!("../../src/routes/mod.rs");

/// Files of pages; a document cannot describe a path of any length.
const FILES: [&str; 2] = ["/docs/{*file}", "/page/{*file}"];

/// `GET /path` of every route in the source.
fn routes() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for route in ROUTER.split(".route(").skip(1) {
        let path = route.split('"').nth(1).unwrap();
        let handlers = route.split(".fallback(").next().unwrap();
        for method in ["get", "post", "put", "delete", "patch"] {
            let called = |before: &str| handlers.contains(&format!("{before}{method}("));
            if called(" ") || called(".") {
                found.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    found
}

fn operations(document: &Value) -> Vec<(String, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations
                .map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
        })
        .collect()
}

#[tokio::test]
async fn every_route_is_documented_and_every_documented_route_is_there() {
    let document = get(&fake_app(), "/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let documented: BTreeSet<String> = operations(&document).into_iter().map(|(name, _)| name).collect();
    let routed = routes();
    assert!(routed.len() >= 20, "{routed:?}");
    let is_file = |route: &str| FILES.iter().any(|files| route.ends_with(files));
    let missing: Vec<_> = routed.iter().filter(|r| !documented.contains(*r) && !is_file(r)).collect();
    assert!(missing.is_empty(), "routes without a word in /openapi.json: {missing:?}");
    let invented: Vec<_> = documented.difference(&routed).collect();
    assert!(invented.is_empty(), "documented, but no route: {invented:?}");
    let ids: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(_, o)| o["operationId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), documented.len(), "operation ids are unique");
}

/// The words that a schema enumerates, in whatever it wraps them.
fn enumerated(schema: &Value) -> Vec<&str> {
    match (schema, schema.get("enum")) {
        (_, Some(words)) => words.as_array().unwrap().iter().filter_map(Value::as_str).collect(),
        (Value::Object(parts), None) => parts.values().flat_map(enumerated).collect(),
        (Value::Array(parts), None) => parts.iter().flat_map(enumerated).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn what_a_route_refuses_is_not_in_its_document() {
    let app = fake_app();
    let document = get(&app, "/openapi.json").await.json();
    let parameters = |route: &str| document["paths"][route]["post"]["parameters"].as_array().unwrap().iter();
    let names = |route: &str| -> BTreeSet<&str> {
        parameters(route).map(|parameter| parameter["name"].as_str().unwrap()).collect()
    };
    let routes = ["/v1/embed", "/v1/saliency", "/v1/analyze", "/v1/search"];
    let all: BTreeSet<&str> = routes.iter().flat_map(|route| names(route)).collect();
    assert!(["k", "pool", "mask", "format"].iter().all(|name| all.contains(name)), "{all:?}");
    for route in routes {
        for name in all.difference(&names(route)) {
            let refused = post(&app, &format!("{route}?{name}=1"), &[], png(9, 9, [1, 2, 3])).await;
            assert_eq!(refused.code(), "bad_request", "{route}?{name}=1");
        }
        let Some(format) = parameters(route).find(|parameter| parameter["name"] == "format") else {
            continue;
        };
        for word in ["json", "npy", "png"] {
            let answer = post(&app, &format!("{route}?format={word}"), &[], png(9, 9, [1, 2, 3])).await;
            let expected = match enumerated(&format["schema"]).contains(&word) {
                true => StatusCode::OK,
                false => StatusCode::NOT_ACCEPTABLE,
            };
            assert_eq!(answer.status, expected, "{route}?format={word}");
        }
    }
}

#[tokio::test]
async fn every_kind_of_error_is_in_the_document_under_its_status() {
    let document = get(&fake_app(), "/openapi.json").await.json();
    let mut responses: Vec<(String, Value)> = Vec::new();
    for (_, operation) in operations(&document) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let header = &response["headers"]["x-request-id"]["$ref"];
            assert_eq!(header, "#/components/headers/x-request-id", "{operation}");
            responses.push((status.clone(), response.clone()));
        }
    }
    let shared = &document["components"]["responses"];
    responses.push(("404".to_owned(), shared["NotFound"].clone()));
    responses.push(("405".to_owned(), shared["MethodNotAllowed"].clone()));
    let codes = &document["components"]["schemas"]["ErrorDetail"]["properties"]["code"]["enum"];
    for kind in Kind::ALL {
        let (status, code) = kind.status();
        assert!(codes.as_array().unwrap().contains(&code.into()), "{code}");
        let example = |(s, r): &(String, Value)| {
            *s == status.as_u16().to_string()
                && r["content"]["application/json"]["examples"][code].is_object()
        };
        assert!(responses.iter().any(example), "{status} {code} has no example");
    }
}

#[tokio::test]
async fn the_document_knows_the_model_and_whether_keys_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    create_key("alice", &dir.path().join("keys")).unwrap();
    let state = fake_state(&Limits::default(), vec![Fake::default()]);
    let app = app(state.clone());
    let open = get(&app, "/openapi.json").await.json();
    let body = &open["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"];
    assert_eq!(body["example"]["model"], "fake");
    assert!(open["security"].is_null());
    let sent =
        post(&app, "/v1/embeddings", &[("content-type", "application/json")], body["example"].to_string());
    assert_eq!(sent.await.status, StatusCode::OK, "the example works");
    state.set_keys(Keys::read(&dir.path().join("keys")).unwrap());
    let locked = get(&app, "/openapi.json").await.json();
    assert_eq!(locked["security"].as_array().unwrap().len(), 2);
    assert_eq!(locked["paths"]["/healthz"]["get"]["security"], serde_json::json!([]));
    assert_eq!(locked["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn the_page_of_the_document_needs_nothing_from_elsewhere() {
    let app = fake_app();
    let moved = get(&app, "/docs").await;
    assert_eq!((moved.status, moved.header("location")), (StatusCode::PERMANENT_REDIRECT, "docs/"));
    let page = get(&app, "/docs/").await;
    assert_eq!(page.header("content-type"), "text/html");
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; script-src 'self';"));
    let html = String::from_utf8(page.bytes).unwrap();
    for ours in ["<title>Occlude", "\"../page/docs.css\"", "<a href=\"../\">"] {
        assert!(html.contains(ours), "{ours}: has Swagger UI another page?\n{html}");
    }
    assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script>"), "{html}");
    for name in html.split(['"']).filter_map(|part| part.strip_prefix("./")) {
        assert_eq!(get(&app, &format!("/docs/{name}")).await.status, StatusCode::OK, "{name}");
    }
    let start = String::from_utf8(get(&app, "/docs/swagger-initializer.js").await.bytes).unwrap();
    assert!(start.contains("../openapi.json"), "{start}");
    assert_eq!(get(&app, "/docs/what").await.code(), "not_found");
}

/// A generator of requests from the document finds no defect, no status and no answer that the document lacks.
#[test]
fn requests_made_from_the_document_find_nothing() {
    let dir = tempfile::tempdir().unwrap();
    pictures(&dir.path().join("gallery"));
    // Without keys: where the document names some, they are what is varied most, and little gets past 401.
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let server = Running::start(&["--gallery", &path("gallery"), "--data", &path("data")]);
    server.wait_for("ready");
    let url = format!("http://{}/openapi.json", server.address);
    let check = "import json, sys, urllib.request; from openapi_spec_validator import validate; \
                 validate(json.load(urllib.request.urlopen(sys.argv[1] + '/openapi.json')))";
    python(check, &server, dir.path());
    std::fs::write(dir.path().join("schemathesis.toml"), include_str!("schemathesis.toml")).unwrap();
    let output =
        Command::new(std::env::var("OCCLUDE_PYTHON").expect("`OCCLUDE_PYTHON`: run `cargo xtask setup`"))
            .args(["-m", "schemathesis.cli", "run", &url, "--url", &format!("http://{}", server.address)])
            .args(["--max-examples", "12", "--seed", "1", "--no-color", "--suppress-health-check", "all"])
            .current_dir(dir.path())
            .output()
            .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
