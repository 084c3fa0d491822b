//! A Milvus of the tests' own, of the Python package `milvus`; this and the server's tests use it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Writes the configuration of a server with free ports, and unpacks its programs where they are not yet; prints two ports.
const PREPARE: &str = "
import random, sys, milvus
programs, folder, *settings = sys.argv[1:]
config = milvus.MilvusServerConfig(data_dir=folder)
for setting in settings:
    config.set(*setting.split('='))
# What the configuration has no place for is an environment variable: the log is to be short.
config.set('log.level', 'warn')
# Servers that start at the same time are not to find the same ports free.
ports = 20000 + random.randrange(11000)
for number, item in enumerate(k for k in config.configurable_items if k.endswith('_port')):
    config.configurable_items[item][1] = ports + 40 * number
config.resolve()
milvus._initialize_data_files(programs)
health, peers = (config.resolve_port(ports + start) for start in (400, 440))
health[1].close(), peers[1].close()
health, peers = health[0], peers[0]
# The port by which members of its etcd know each other is not in the configuration: all servers would take the same.
client, peer = (f'http://127.0.0.1:{port}' for port in (config.get('etcd_port'), peers))
with open(folder + '/etcd.yaml', 'w') as etcd:
    etcd.write(f'listen-client-urls: {client}\\nadvertise-client-urls: {client}\\nlisten-peer-urls: {peer}\\n'
               f'initial-advertise-peer-urls: {peer}\\ninitial-cluster: default={peer}\\n')
print(config.get('proxy_port'), health)
";

/// A server with nothing in it; it ends with this process at the latest.
pub(crate) struct Server {
    programs: PathBuf,
    dir: PathBuf,
    pub(crate) port: u16,
    health: u16,
    process: Mutex<Option<Child>>,
}

/// The server that tests share, each with a prefix of its own; None, and a word about it, where there is no Milvus.
#[track_caller]
pub(crate) fn shared() -> Option<&'static Server> {
    static SHARED: OnceLock<Option<Server>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Server::start(&[])).as_ref();
    if shared.is_none() {
        skip();
    }
    shared
}

#[track_caller]
fn skip() {
    occlude_skip::test("Milvus", "run `cargo xtask setup`, or set OCCLUDE_PYTHON");
}

impl Server {
    /// Starts one with these settings (`name=value`).
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let python = std::env::var_os("OCCLUDE_PYTHON")?;
        let there = Command::new(&python).args(["-c", "import milvus"]).stderr(Stdio::null()).status();
        if !there.is_ok_and(|there| there.success()) {
            return None;
        }
        let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
        fs::create_dir_all(home).unwrap();
        // Tests of another program may unpack it at the same time.
        let lock = File::create(home.join("milvus.lock")).unwrap();
        lock.lock().unwrap();
        let dir = tempfile::Builder::new().prefix("milvus-").tempdir().unwrap().keep();
        let programs = home.join("milvus");
        let mut prepare = Command::new(python);
        prepare.args(["-c", PREPARE]).arg(&programs).arg(&dir).args(settings);
        let done = prepare.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let ports = String::from_utf8(done.stdout).unwrap();
        let ports: Vec<u16> = ports.split_whitespace().map(|port| port.parse().unwrap()).collect();
        let (port, health) = (ports[0], ports[1]);
        let server = Self { programs: programs.join("bin"), dir, port, health, process: Mutex::default() };
        server.run();
        Some(server)
    }

    /// [`Self::start`], or the test is skipped.
    #[track_caller]
    pub(crate) fn own(settings: &[&str]) -> Option<Self> {
        let server = Self::start(settings);
        if server.is_none() {
            skip();
        }
        server
    }

    /// Starts it on the data that is there; again where it gives up, as it does when it was killed a moment ago.
    pub(crate) fn run(&self) {
        let began = Instant::now();
        loop {
            self.spawn();
            while !self.gave_up() {
                if self.answers() {
                    return;
                }
                self.check(began);
                std::thread::sleep(Duration::from_millis(50));
            }
            self.check(began);
            self.stop();
        }
    }

    fn spawn(&self) {
        // Ends the server when the pipe is closed: by `stop`, or by the end of this process, which deletes the data as well.
        for old in ["keep", "ended"] {
            let _ = fs::remove_file(self.dir.join(old));
        }
        let script = r#"dir=$1; shift; cd "$dir"; exec 3<&0; "$@" >>log 2>&1 & pid=$!
                        (cat <&3; kill -KILL $pid) & wait $pid; : >ended; wait; [ -e keep ] || rm -rf "$dir""#;
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(&self.dir).arg(self.programs.join("milvus"));
        shell.args(["run", "standalone"]);
        shell
            .env("DEPLOY_MODE", "STANDALONE")
            .env("ETCD_CONFIG_PATH", self.dir.join("etcd.yaml"))
            .env("METRICS_PORT", self.health.to_string())
            .env("MILVUS_RUN_DIR", self.dir.join("run"))
            .env("LD_LIBRARY_PATH", &self.programs);
        let child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        *self.process.lock().unwrap() = Some(child);
    }

    fn check(&self, began: Instant) {
        let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(began.elapsed() < Duration::from_secs(180), "Milvus does not start: {}", log());
    }

    /// Whether it has ended by itself.
    fn gave_up(&self) -> bool {
        self.dir.join("ended").exists()
    }

    fn answers(&self) -> bool {
        let ask = || {
            let mut socket = TcpStream::connect(("127.0.0.1", self.health))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).map(|_| answer)
        };
        // Healthy it says it is before its parts are there.
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && ask().is_ok_and(|answer| answer.starts_with("HTTP/1.0 200") && answer.contains("OK"))
    }

    /// Kills it, and keeps what it wrote.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            fs::write(self.dir.join("keep"), "").unwrap();
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// The address of collections that nobody else uses.
    pub(crate) fn url(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let prefix = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("milvus://127.0.0.1:{}?prefix=t{prefix}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
