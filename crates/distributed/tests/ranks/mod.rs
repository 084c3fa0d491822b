//! Starts a test's own program once a rank.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use occlude_distributed::{Error, Place, World, leave};
use tch::Device;

/// Longer than any test lasts.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds that a collective may last, of the processes that this one starts.
const TIMEOUT: &str = "OCCLUDE_TEST_TIMEOUT";

/// What this process is.
pub(crate) enum Role {
    /// One of those that were started.
    Rank(World),
    /// The one that started them, which have ended.
    Parent(Vec<End>),
}

/// How a rank ended.
#[derive(Debug)]
pub(crate) struct End {
    /// None: by a signal.
    pub(crate) code: Option<i32>,
    /// What it wrote.
    pub(crate) told: String,
}

/// Processes to be started.
pub(crate) struct Ranks {
    test: &'static str,
    size: usize,
    timeout: u64,
    only: usize,
    port: Option<u16>,
}

/// The others of a process that was started as a rank.
pub(crate) fn world() -> Result<World, Error> {
    let place = Place::from_env()?.ok_or_else(|| World::single().failed("starting", "alone"))?;
    let seconds = std::env::var(TIMEOUT).ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    World::join(place, Duration::from_secs(seconds), Device::Cpu)
}

/// Ends a rank whose test passed, once all ranks are here.
pub(crate) fn done(world: World) {
    or_leave(world.barrier("the end of the test"));
    drop(world);
    std::process::exit(0)
}

/// What was found, or the end of the process with the message on stderr.
pub(crate) fn or_leave<T>(found: Result<T, Error>) -> T {
    found.unwrap_or_else(|error| {
        eprintln!("{error}");
        leave(1)
    })
}

impl Ranks {
    /// `size` processes, which run the test of that name.
    pub(crate) fn of(test: &'static str, size: usize) -> Self {
        Self { test, size, timeout: 60, only: size, port: None }
    }

    /// Seconds that a collective may last.
    pub(crate) fn timeout(self, seconds: u64) -> Self {
        Self { timeout: seconds, ..self }
    }

    /// Starts only the first ones.
    pub(crate) fn only(self, only: usize) -> Self {
        Self { only, ..self }
    }

    /// Where they meet.
    pub(crate) fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// In a rank its world; in the parent the ends of the ranks, all of which must be good.
    pub(crate) fn all_well(&self) -> Role {
        let role = self.start();
        if let Role::Parent(ended) = &role {
            for (rank, end) in ended.iter().enumerate() {
                assert!(end.code == Some(0), "rank {rank} of {}: {}", self.size, end.told);
            }
        }
        role
    }

    /// In a rank its world; in the parent the ends of the ranks.
    pub(crate) fn start(&self) -> Role {
        if std::env::var("RANK").is_ok() {
            tch::set_num_threads(1);
            return Role::Rank(or_leave(world()));
        }
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|a| a.port());
        let port = self.port.unwrap_or_else(|| free().expect("a free port"));
        let children: Vec<Child> = (0..self.only).map(|rank| self.spawn(rank, port)).collect();
        let began = Instant::now();
        Role::Parent(children.into_iter().map(|child| end(child, began)).collect())
    }

    fn spawn(&self, rank: usize, port: u16) -> Child {
        Command::new(std::env::current_exe().expect("this program"))
            .args([self.test, "--exact", "--nocapture", "--test-threads=1"])
            .env("RANK", rank.to_string())
            .env("WORLD_SIZE", self.size.to_string())
            .env("LOCAL_RANK", rank.to_string())
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string())
            .env(TIMEOUT, self.timeout.to_string())
            .env("OMP_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started")
    }
}

/// Waits for the end of a rank, which is killed where it does not come.
fn end(mut child: Child, began: Instant) -> End {
    while child.try_wait().expect("a child").is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut told = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut told).expect("text");
    }
    End { code: child.wait().expect("a child").code(), told }
}
