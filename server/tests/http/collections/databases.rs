//! Collections in PostgreSQL and in Milvus, by the program itself.

use std::process::Command;

use serde_json::{Value, json};

use super::colour;
use crate::binary::{Running, fails};
use crate::common::fixture;
#[cfg(feature = "postgres")]
use crate::database::Cluster;

/// Each of these functions is a test of either kind of database, and takes an address.
macro_rules! of_every_database {
    ($($name:ident),+ $(,)?) => {
        #[cfg(feature = "postgres")]
        mod postgres {
            $(#[test]
            fn $name() {
                let Some(cluster) = crate::database::shared() else { return };
                super::$name(&cluster.url());
            })+
        }

        #[cfg(feature = "milvus")]
        mod milvus {
            $(#[test]
            fn $name() {
                let Some(server) = crate::cluster::shared() else { return };
                super::$name(&server.url());
            })+
        }
    };
}

of_every_database!(
    two_servers_share_a_database,
    a_folder_is_indexed_into_a_database,
    collections_are_copied_both_ways
);

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}")).1;
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

fn send(server: &Running, method: &str, path: &str, body: &Value) -> String {
    server.send(method, path, "application/json", body.to_string().as_bytes())
}

/// Two servers share their collections: what one is given, the other finds.
fn two_servers_share_a_database(url: &str) {
    let servers = [Running::start(&["--data", url]), Running::start(&["--data", url])];
    servers.iter().for_each(|server| drop(server.wait_for("ready")));
    let [one, other] = &servers;
    assert!(send(one, "PUT", "/v1/collections/c", &json!({})).starts_with("HTTP/1.1 201"));
    assert!(send(other, "PUT", "/v1/collections/c", &json!({})).starts_with("HTTP/1.1 200"));
    std::thread::scope(|scope| {
        for (s, server) in servers.iter().enumerate() {
            scope.spawn(move || {
                for i in 0..10u8 {
                    let own = json!({"id": format!("{s}-{i}"), "image": colour([20 * i, 9, 9]), "payload": {"s": s}});
                    let shared = json!({"id": format!("shared-{i}"), "image": colour([9, 20 * i, 9])});
                    let done = send(server, "POST", "/v1/collections/c/points", &json!({"points": [own, shared]}));
                    assert!(done.starts_with("HTTP/1.1 200"), "{done}");
                }
            });
        }
    });
    let query =
        json!({"image": colour([180, 9, 9]), "limit": 3, "filter": {"must": [{"key": "s", "match": 1}]}});
    for server in &servers {
        assert_eq!(body(&server.get("/v1/collections/c"))["count"], 30);
        let found = body(&send(server, "POST", "/v1/collections/c/search", &query));
        assert_eq!(found["hits"][0]["id"], "1-9", "{found}");
    }
    assert!(other.get("/v1/collections/c").contains("\"count\":30"));
    assert!(send(one, "DELETE", "/v1/collections/c", &json!({})).starts_with("HTTP/1.1 204"));
    assert!(other.get("/v1/collections/c").starts_with("HTTP/1.1 404"));
}

/// The database is not there when the server starts, comes, goes and comes back: the server runs all the time, says what is
/// the matter, and shows the password to nobody.
#[cfg(feature = "postgres")]
#[test]
fn a_database_may_come_and_go() {
    let Some(cluster) = Cluster::own(&["fsync=off"]) else { return };
    cluster.stop();
    let url = format!("postgres://postgres:s3cret@127.0.0.1:{}/postgres", cluster.port);
    let server = Running::with_environment(
        &["--model", fixture("tiny.onnx").to_str().unwrap(), "--log-level", "debug"],
        &[("OCCLUDE_SERVE_DATA", &url)],
    );
    let told = server.wait_for("cannot be reached");
    assert!(told.contains("postgres://postgres@127.0.0.1") && !told.contains("s3cret"), "{told}");
    server.wait_for("ready");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("opening collections"), "{ready}");
    assert!(server.get("/v1/collections").contains("\"loading\""));
    assert!(server.post(&crate::common::png(40, 40, [1, 2, 3]), "/v1/embed").starts_with("HTTP/1.1 200"));
    cluster.run();
    let told = server.wait_for("collections: postgres://");
    assert!(!told.contains("s3cret"), "{told}");
    assert!(server.get("/readyz").starts_with("HTTP/1.1 200"));
    let point = json!({"points": [{"id": "a", "image": colour([200, 9, 9])}]});
    assert!(send(&server, "PUT", "/v1/collections/c", &json!({})).starts_with("HTTP/1.1 201"));
    assert!(send(&server, "POST", "/v1/collections/c/points", &point).starts_with("HTTP/1.1 200"));

    cluster.kill();
    for answer in [server.get("/v1/collections"), send(&server, "POST", "/v1/collections/c/points", &point)] {
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("retry-after: 2"),
            "{answer}"
        );
        let error = &body(&answer)["error"];
        assert_eq!(error["code"], "storage_unavailable");
        assert!(error["hint"].as_str().unwrap().contains("try again"), "{error}");
        assert!(!answer.contains("127.0.0.1") && !answer.contains("s3cret"), "{answer}");
    }
    let told = server.wait_for("the database cannot be reached");
    assert!(!told.contains("s3cret"), "{told}");
    let ready = server.get("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"writable\":false"), "{ready}");
    assert!(ready.contains("the database cannot be reached") && !ready.contains("s3cret"), "{ready}");
    cluster.run();
    server.wait_for("are writable again");
    assert!(body(&server.get("/v1/collections/c"))["count"] == 1);
    assert!(send(&server, "POST", "/v1/collections/c/points", &point).contains("\"replaced\":1"));
}

/// The tool fills a database beside a server that runs on it.
fn a_folder_is_indexed_into_a_database(url: &str) {
    let dir = tempfile::tempdir().unwrap();
    crate::binary::pictures(dir.path());
    let server = Running::start(&["--data", url]);
    server.wait_for("ready");
    let index = || {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_occlude-serve"));
        tool.arg("index").arg(dir.path()).args(["--collection", "photos", "--data", url, "--model"]);
        let done = tool.arg(fixture("tiny.onnx")).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{told}");
        told
    };
    assert!(index().contains("2 encoded, 0 already present"));
    assert_eq!(body(&server.get("/v1/collections/photos"))["count"], 2);
    assert!(index().contains("0 encoded, 2 already present"));
}

/// From a folder into a database and back: the same points, however often it is run.
fn collections_are_copied_both_ways(url: &str) {
    use occlude_retrieval::{Engine, Metric, Options, Page, Point, Spec, Store, With};

    let dir = tempfile::tempdir().unwrap();
    let (first, last) = (dir.path().join("first"), dir.path().join("last"));
    let fill = |n: usize| {
        let store = Store::open(&first, &Options::default()).unwrap();
        let (fingerprint, identity, model) = ("5eed".to_owned(), Some("1d".to_owned()), "m".to_owned());
        let spec = Spec { dim: 7, fingerprint, identity, model, metric: Metric::Cosine };
        store.ensure_collection("c", &spec).unwrap();
        let point = |i: usize| Point {
            id: format!("{i}\0é"),
            vector: (0..7).map(|j| ((i * 31 + j * 17) % 101) as f32 - 49.5).collect(),
            payload: serde_json::from_value(json!({"z": i, "a": [1e16, -0.0, "\0"], "n": null})).unwrap(),
        };
        store.upsert("c", "1d", &(0..n).map(point).collect::<Vec<_>>()).unwrap();
    };
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_occlude-serve"));
        let done = tool.arg("copy").arg("--from").arg(from).arg("--to").arg(to).output().unwrap();
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let database = std::path::Path::new(url);
    fill(1500);
    assert!(copy(&first, database).1.contains("1500 copied, 0 already present"));
    fill(2100);
    let (code, told) = copy(&first, database);
    assert!(code == Some(0) && told.contains("600 copied, 1500 already present"), "{told}");
    let (code, told) = copy(database, &last);
    assert!(code == Some(0) && told.contains("2100 copied"), "{told}");
    let all = |dir: &std::path::Path| {
        let store = Store::open(dir, &Options::default()).unwrap();
        let with = With { vector: true, payload: true };
        let page = Page { limit: 10_000, with, ..Page::default() };
        (
            store.collection("c").unwrap().spec,
            serde_json::to_string(&store.scroll("c", &page).unwrap()).unwrap(),
        )
    };
    assert_eq!(all(&first), all(&last), "models, vectors and payloads");
    let extra = Store::open(&last, &Options::default()).unwrap();
    extra
        .upsert("c", "1d", &[Point { id: "x".into(), vector: vec![1.0; 7], payload: Default::default() }])
        .unwrap();
    drop(extra);
    let (code, told) = copy(&first, &last);
    assert!(code == Some(1) && told.contains("2101 of 2100") && told.contains("hint:"), "{told}");
}

#[test]
fn addresses_that_are_none_are_told_without_the_password() {
    let model = fixture("tiny.onnx");
    for url in [
        "postgres://me:s3cret@host:x/db",
        "postgres://me:s3cret@host/db?s3cret=1",
        "postgres://:s3cret@host",
        "milvus://me:s3cret@host:x/db",
        "milvus://me:s3cret@host/db?s3cret=1",
        "milvus://:s3cret@host",
    ] {
        let (code, told) = fails(&["--model", model.to_str().unwrap(), "--data", url]);
        assert!(code == 2 && told.contains("`--data`") && told.contains("hint:"), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
    }
}
