//! `embed` from and into a bucket of a real S3 server (SeaweedFS): killed processes, and what can be wrong with addresses.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::shards::{embed, killed_and_again, rows, shards, whole};

const BUCKET: &str = "occlude";
const SECRETS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// A server with one bucket; it ends with this.
struct Weed {
    child: Child,
    endpoint: String,
    _data: tempfile::TempDir,
}

/// The program out of the Python environment of the project, or on PATH.
fn program() -> Option<PathBuf> {
    let python = std::env::var_os("OCCLUDE_PYTHON").map(PathBuf::from);
    let beside = python.and_then(|python| Some(python.parent()?.to_owned()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join("weed"))
        .find(|p| p.is_file())
}

impl Weed {
    fn start() -> Option<Self> {
        let Some(program) = program() else {
            occlude_skip::test("SeaweedFS", "run `cargo xtask setup`");
            return None;
        };
        let data = tempfile::tempdir().unwrap();
        // each of them and the one 10,000 above, where it speaks gRPC
        let ports: Vec<u16> = std::iter::from_fn(|| Some(port())).take(5).collect();
        let mut command = Command::new(program);
        command.args(["mini", "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-bucket", BUCKET]);
        command.args(["-master.telemetry=false", "-webdav=false", "-admin.ui=false"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0"]);
        for (name, port) in ["s3", "master", "filer", "volume", "admin"].iter().zip(&ports) {
            command.arg(format!("-{name}.port={port}"));
        }
        command.arg("-dir").arg(data.path()).envs(SECRETS).current_dir(data.path());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let weed = Self { child, endpoint: format!("http://127.0.0.1:{}", ports[0]), _data: data };
        weed.wait();
        Some(weed)
    }

    /// Until the bucket is there and takes something.
    fn wait(&self) {
        let start = Instant::now();
        while block_on(self.client().put(&Key::from("ready"), "".into())).is_err() {
            assert!(start.elapsed() < Duration::from_secs(120), "SeaweedFS did not start");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    fn client(&self) -> AmazonS3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let [(_, id), (_, secret)] = SECRETS;
        let builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_endpoint(&self.endpoint);
        builder.with_access_key_id(id).with_secret_access_key(secret).with_allow_http(true).build().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = embed("tiny.onnx", arguments);
        command.env("AWS_ENDPOINT", &self.endpoint).env("AWS_ALLOW_HTTP", "true").envs(SECRETS);
        command
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port() -> u16 {
    loop {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { continue };
        let port = listener.local_addr().unwrap().port();
        let lower = port % 20_000 + 20_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(lower) && free(lower + 10_000) {
            return lower;
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn buckets_are_read_and_filled_by_processes_that_are_killed() {
    let Some(weed) = Weed::start() else { return };
    let (made, names) = shards(12, 20, 300);
    for (name, bytes) in made {
        block_on(weed.client().put(&Key::from(format!("in/{name}")), bytes.into())).unwrap();
    }
    let arguments = ["s3://occlude/in", "--out", "s3://occlude/out"];
    killed_and_again(&|| weed.command(&arguments), 11);
    let found = block_on(async {
        let client = weed.client();
        let listed: Vec<_> = client.list(Some(&Key::from("out"))).try_collect().await.unwrap();
        let mut found = BTreeMap::new();
        for meta in listed {
            let bytes = client.get(&meta.location).await.unwrap().bytes().await.unwrap();
            found.insert(meta.location.to_string(), rows(bytes));
        }
        found
    });
    assert_eq!(found.len(), 12, "{:?}", found.keys());
    whole(&found, &names);
    let again = weed.command(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        again.status.success() && said.contains("0 written with 0 rows (0 broken), 12 already there"),
        "{said}"
    );
    // pictures that are objects of their own, into a folder
    let folder = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "b/2.png", "b/.hidden.png", "b/notes.txt"] {
        let picture = crate::shards::noise(name.len() as u32, 40);
        block_on(weed.client().put(&Key::from(format!("photos/{name}")), picture.into())).unwrap();
    }
    let out = folder.path().to_str().unwrap();
    let run = weed.command(&["s3://occlude/photos/", "--out", out]).output().unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 written with 2 rows (0 broken)"), "{said}");
    wrong_addresses(&weed);
}

fn wrong_addresses(weed: &Weed) {
    let refused = |command: &mut Command, parts: &[&str]| {
        let start = Instant::now();
        let run = command.output().unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
        assert!(start.elapsed() < Duration::from_secs(60), "it waited for {:?}", start.elapsed());
    };
    let into = |out: &'static str| weed.command(&["s3://occlude/in", "--out", out]);
    refused(&mut into("s3://no-such-bucket/out"), &["`s3://no-such-bucket/out`", "hint: create the bucket"]);
    refused(&mut into("s3://occlude/in/out"), &["lies in the input"]);
    let mut empty = weed.command(&["s3://occlude/nothing", "--out", "s3://occlude/out"]);
    refused(&mut empty, &["no tar shards and no pictures below `s3://occlude/nothing`"]);
    refused(into("s3://occlude/out").env("AWS_SECRET_ACCESS_KEY", "wrong"), &["hint: the credentials"]);
    // a port that nobody listens on
    let closed = format!("http://127.0.0.1:{}", port());
    refused(into("s3://occlude/out").env("AWS_ENDPOINT", closed), &["`s3://occlude/in`", "AWS_"]);
    let mut without = into("s3://occlude/out");
    for (name, _) in SECRETS {
        without.env_remove(name);
    }
    // where a cloud's own machines would ask for credentials
    without.env("AWS_METADATA_ENDPOINT", format!("http://127.0.0.1:{}", port()));
    refused(&mut without, &["`s3://occlude/in`", "hint: no credentials in the environment"]);
}
