//! `occlude-serve tune`: what it prints is a configuration of the server.

use std::ffi::OsString;
use std::process::{Command, Output};

use occlude_serve::{Args, Provider};

use crate::common::*;

fn tune(folder: &std::path::Path, more: &[&str]) -> Output {
    let model = format!("small={}", fixture("tiny.onnx").display());
    Command::new(env!("CARGO_BIN_EXE_occlude-serve"))
        .arg("tune")
        .arg(folder)
        .args(["--model", &model, "--seconds", "0.05"])
        .args(more)
        .output()
        .unwrap()
}

#[test]
fn what_is_printed_configures_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = dir.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for i in 0..5u32 {
        std::fs::write(pictures.join(format!("{i}.png")), png_of(40 + i, 36, &ramp(40 + i, 36))).unwrap();
    }
    std::fs::write(pictures.join("broken.png"), "no picture").unwrap();
    let output = tune(&pictures, &["--provider", "cpu", "--clients", "4", "--intra-threads", "1"]);
    let (toml, table) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}");
    assert!(table.contains("broken.png") && table.contains("pictures/s"), "{table}");
    // One session, then batches of 1, 2 and 4 besides 8, and waits of 1, 2 and 8 ms besides 4.
    assert!(table.lines().filter(|line| line.starts_with("CPU ")).count() >= 7, "{table}");
    let file = dir.path().join("tuned.toml");
    std::fs::write(&file, &toml).unwrap();
    let words = ["occlude-serve", "--config", file.to_str().unwrap()].map(OsString::from);
    let config = Args::read_with(words, []).unwrap().resolve().unwrap();
    assert_eq!(config.served.models[0].name, "small");
    assert_eq!(config.served.sessions.provider, Provider::Cpu);
    assert_eq!(config.served.sessions.intra_threads, Some(1));
    assert!([1, 2, 4, 8].contains(&config.limits.max_batch), "{toml}");
    assert!([1, 2, 4, 8].contains(&config.limits.max_delay.as_millis()), "{toml}");
}

#[test]
fn a_lone_client_is_measured_with_one_session() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), png_of(40, 36, &ramp(40, 36))).unwrap();
    let output = tune(dir.path(), &["--for", "latency", "--provider", "cpu"]);
    let toml = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && toml.contains("with 1 client,"), "{toml}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().filter(|l| l.starts_with("CPU ")).count(), 1);
}

#[test]
fn what_cannot_be_measured_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broken.png"), "no picture").unwrap();
    let said = |more: &[&str]| {
        let output = tune(dir.path(), more);
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said(&["--provider", "cpu"]).contains("broken.png"));
    let idle = said(&["--devices", "0,1", "--provider", "cuda"]);
    assert!(idle.contains("--workers") && idle.contains("--devices"), "{idle}");
}
