//! A real S3 server (SeaweedFS) with one bucket, for tests.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
pub use object_store::path::Path as Key;
pub use object_store::{ObjectStore, ObjectStoreExt};

/// The bucket: `s3://occlude`.
pub const BUCKET: &str = "occlude";
/// Variables with credentials, and what they are.
pub const SECRETS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "secret")];
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server with one bucket; it ends with this.
#[derive(Debug)]
pub struct Weed {
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
    /// Starts one; `None`, with a line among the skipped tests, where there is no such program.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start() -> Option<Self> {
        let Some(program) = program() else {
            occlude_skip::test("SeaweedFS", "run `cargo xtask setup`");
            return None;
        };
        let data = tempfile::tempdir().expect("a folder");
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
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
        let endpoint = format!("http://127.0.0.1:{}", ports.first().expect("five ports"));
        let weed = Self { child, endpoint, _data: data };
        weed.wait();
        Some(weed)
    }

    /// Until the bucket is there and takes something.
    fn wait(&self) {
        let start = Instant::now();
        while block_on(self.client().put(&Key::from("ready"), "".into())).is_err() {
            assert!(start.elapsed() < PATIENCE, "SeaweedFS did not start");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// A client of the bucket.
    ///
    /// # Panics
    /// Never: what it is made of is sound.
    pub fn client(&self) -> AmazonS3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let [(_, id), (_, secret)] = SECRETS;
        let builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_endpoint(&self.endpoint);
        let builder = builder.with_access_key_id(id).with_secret_access_key(secret).with_allow_http(true);
        builder.build().expect("a client")
    }

    /// Puts a file into the bucket.
    ///
    /// # Panics
    /// Where the server does not take it.
    pub fn put(&self, key: &str, bytes: impl Into<object_store::PutPayload>) {
        block_on(self.client().put(&Key::from(key), bytes.into())).expect("put");
    }

    /// Tells a process of this server, and of no other.
    pub fn tell(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.env("AWS_ENDPOINT", &self.endpoint).env("AWS_ALLOW_HTTP", "true").envs(SECRETS);
    }
}

impl Drop for Weed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A free port, with a free one 10,000 above it.
pub fn port() -> u16 {
    loop {
        let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { continue };
        let Ok(address) = listener.local_addr() else { continue };
        let lower = address.port() % 20_000 + 20_000;
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(lower) && free(lower + 10_000) {
            return lower;
        }
    }
}

/// Waits for a request.
///
/// # Panics
/// Where there can be no runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
