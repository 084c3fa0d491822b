//! The trainer as a process: whatever it waits for, a signal ends it; and one process writes into a folder.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time from a signal to the end: a batch is waited for some seconds, and then threads.
const BOUND: Duration = Duration::from_secs(20);
const SIGTERM: i32 = 15;

fn pictures(dir: &Path) {
    for i in 0..12u32 {
        let class = dir.join(if i % 2 == 0 { "a" } else { "b" });
        std::fs::create_dir_all(&class).expect("a folder");
        let picture =
            image::RgbImage::from_fn(40, 36, |x, y| image::Rgb([(x * i) as u8, (y * 3) as u8, i as u8]));
        picture.save(class.join(format!("{i:02}.png"))).expect("written");
    }
}

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-train"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("started")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

const TINY: [&str; 16] = [
    "--recipe",
    "moco-v2",
    "--arch",
    "resnet18",
    "--image-size",
    "32",
    "--batch-size",
    "4",
    "--queue",
    "8",
    "--bn-splits",
    "1",
    "--device",
    "cpu",
    "--threads",
    "1",
];

fn pretrain(data: &Path, out: &Path, more: &[&str]) -> Child {
    start(&[&["pretrain", text(data), "--out", text(out)], &TINY[..], more].concat())
}

/// Waits for the process; its exit code and what it told.
fn end(mut child: Child, within: Duration) -> (Option<i32>, String) {
    let began = Instant::now();
    while child.try_wait().expect("waited").is_none() {
        if began.elapsed() > within {
            child.kill().expect("killed");
            panic!("still there after {within:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut told = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut told).expect("UTF-8");
    (child.wait().expect("waited").code(), told)
}

fn wait_for(path: &Path, child: &mut Child) {
    let began = Instant::now();
    while !path.exists() {
        assert!(
            child.try_wait().expect("waited").is_none() && began.elapsed() < 6 * BOUND,
            "no `{}`",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn terminate(child: &Child) {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
}

/// A picture becomes a pipe that nobody writes into, after the pictures were listed: whoever opens it waits for ever.
#[test]
fn a_signal_ends_a_run_whose_threads_wait_for_a_pipe() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, out) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data);
    let mut child = pretrain(&data, &out, &["--epochs", "100000", "--cache", "0", "--log-every", "1"]);
    wait_for(&out.join("metrics.jsonl"), &mut child);
    for i in 0..12 {
        let path = data.join(if i % 2 == 0 { "a" } else { "b" }).join(format!("{i:02}.png"));
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        std::fs::rename(&pipe, &path).expect("renamed");
    }
    std::thread::sleep(Duration::from_secs(2));
    if child.try_wait().expect("waited").is_none() {
        terminate(&child);
    }
    let (code, told) = end(child, BOUND);
    // A loader that reads regular files only finds them gone, and the run may end of that before the signal arrives.
    let gone = code == Some(1) && told.contains("it is a pipe");
    assert!((gone || code == Some(128 + SIGTERM)) && told.contains("--resume"), "{code:?}: {told}");
    assert!(out.join("last").exists());
}

#[test]
fn a_second_process_is_kept_from_a_run_and_a_dead_one_keeps_nobody() {
    let dir = tempfile::tempdir().expect("a folder");
    let (data, out) = (dir.path().join("data"), dir.path().join("run"));
    pictures(&data);
    let mut first = pretrain(&data, &out, &["--epochs", "100000"]);
    let before = first.id().to_string();
    // before and after there is a checkpoint to go on from
    for (there, resume) in [("metrics.jsonl", false), ("last", false), ("last", true)] {
        wait_for(&out.join(there), &mut first);
        let more = &["--epochs", "100000", "--resume"][..if resume { 3 } else { 2 }];
        let (code, told) = end(pretrain(&data, &out, more), 6 * BOUND);
        assert!(code == Some(1) && told.contains(&format!("process {before}")), "{code:?}: {told}");
    }
    first.kill().expect("killed");
    first.wait().expect("waited");
    let (code, told) =
        end(pretrain(&data, &out, &["--epochs", "100000", "--resume", "--stop-after", "1"]), 6 * BOUND);
    assert_eq!(code, Some(0), "{told}");
}
