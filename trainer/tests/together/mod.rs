//! Starts the trainer as several processes that train together, as torchrun would.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than any run of these tests.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a process ended.
#[derive(Debug)]
pub(crate) struct End {
    /// None: by a signal.
    pub(crate) code: Option<i32>,
    /// What it wrote to stderr.
    pub(crate) told: String,
}

/// A free port of this machine.
pub(crate) fn port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// The trainer with these arguments, alone.
pub(crate) fn alone(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-train"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"] {
        command.env_remove(name);
    }
    command.env("OMP_NUM_THREADS", "1");
    command
}

/// The same as one of several.
pub(crate) fn rank(arguments: &[&str], rank: usize, size: usize, port: u16) -> Command {
    let mut command = alone(arguments);
    command
        .env("RANK", rank.to_string())
        .env("WORLD_SIZE", size.to_string())
        .env("LOCAL_RANK", rank.to_string())
        .env("LOCAL_WORLD_SIZE", size.to_string())
        .env("MASTER_ADDR", "127.0.0.1")
        .env("MASTER_PORT", port.to_string());
    command
}

/// Starts `size` of them, or one alone.
pub(crate) fn start(arguments: &[&str], size: usize) -> Vec<Child> {
    if size == 1 {
        return vec![alone(arguments).spawn().expect("started")];
    }
    let port = port();
    (0..size).map(|r| rank(arguments, r, size, port).spawn().expect("started")).collect()
}

/// Waits for the ends.
pub(crate) fn ends(children: Vec<Child>) -> Vec<End> {
    let began = Instant::now();
    let end = |mut child: Child| {
        while child.try_wait().expect("waited").is_none() {
            if began.elapsed() > PATIENCE {
                child.kill().expect("killed");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut told = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
        End { code: child.wait().expect("waited").code(), told }
    };
    children.into_iter().map(end).collect()
}

/// Starts them and waits; all must end well.
pub(crate) fn run(arguments: &[&str], size: usize) -> Vec<End> {
    let ended = ends(start(arguments, size));
    for (rank, end) in ended.iter().enumerate() {
        assert!(end.code == Some(0), "rank {rank} of {size}: {:?}: {}", end.code, end.told);
    }
    ended
}

/// Pictures of `n` colours and patterns, in folders of two classes.
pub(crate) fn pictures(dir: &Path, n: u32) {
    for i in 0..n {
        let class = dir.join(if i % 2 == 0 { "a" } else { "b" });
        std::fs::create_dir_all(&class).expect("a folder");
        let picture = image::RgbImage::from_fn(96, 80, |x, y| {
            let (a, b) = (f64::from(x * (i % 7 + 1)) / 9.0, f64::from(y * (i % 5 + 1)) / 7.0);
            let wave = |v: f64| (127.0 + 120.0 * v.sin()) as u8;
            image::Rgb([wave(a + f64::from(i)), wave(b - f64::from(2 * i)), wave(a + b)])
        });
        picture.save(class.join(format!("{i:02}.png"))).expect("written");
    }
}
