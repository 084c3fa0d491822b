//! `cargo xtask doctor`: what is here, what is missing, and what to do about it.

use anyhow::{Result, bail};
use serde_json::Value;
use std::process::Command;

use crate::{paths, setup, sh};

/// Findings, printed as they come.
#[derive(Default)]
struct Report {
    missing: usize,
}

impl Report {
    fn ok(&self, name: &str, value: &str) {
        println!("  ok       {name:<18} {value}");
    }

    /// Something to know that stops nothing.
    fn note(&self, name: &str, value: &str, hint: &str) {
        println!("  -        {name:<18} {value}\n{:31}hint: {hint}", "");
    }

    fn missing(&mut self, name: &str, value: &str, hint: &str) {
        self.missing += 1;
        println!("  MISSING  {name:<18} {value}\n{:31}hint: {hint}", "");
    }

    /// An error whose last lines may hold the hint.
    fn failed(&mut self, name: &str, error: &anyhow::Error) {
        let text = format!("{error:#}");
        let (what, hint) = text.split_once("\nhint: ").unwrap_or((&text, "run `cargo xtask setup`"));
        self.missing(name, what, hint);
    }
}

/// Prints the report; an error when something that builds or tests need is missing.
pub(crate) fn run() -> Result<()> {
    let mut report = Report::default();
    println!("machine");
    machine(&mut report);
    println!("environment");
    environment(&mut report);
    println!("tools");
    tools(&mut report);
    match report.missing {
        0 => Ok(()),
        n => bail!("{n} of the above are missing"),
    }
}

fn machine(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    report.ok("cores", &cores.to_string());
    for (name, program) in [("rustc", "rustc"), ("cargo", "cargo")] {
        match sh::capture(Command::new(program).arg("--version")) {
            Ok(version) => report.ok(name, &version),
            Err(error) => report.failed(name, &error),
        }
    }
    match setup::compiler() {
        Ok(version) => report.ok("C++ compiler", &version),
        Err(error) => report.failed("C++ compiler", &error),
    }
    match setup::interpreter() {
        Ok((name, version)) => report.ok("python", &format!("{version} ({name})")),
        Err(error) => report.failed("python", &error),
    }
    match sh::capture(sh::command("df").args(["-Pk", "."])).ok().and_then(|table| setup::free_mib(&table)) {
        Some(mib) => report.ok("disk", &format!("{:.1} GiB free", mib as f64 / 1024.0)),
        None => report.note("disk", "unknown", "`df -Pk .` did not answer"),
    }
    match sh::capture(Command::new("npm").arg("--version")) {
        Ok(version) => report.ok("npm", version.lines().last().unwrap_or_default()),
        Err(_) => report.note(
            "npm",
            "not found",
            "only the demo images of the quick start need it; or use `--data DIR`",
        ),
    }
    let gpu = Command::new("nvidia-smi")
        .args(["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
        .output();
    match gpu {
        Ok(output) if output.status.success() => {
            for line in String::from_utf8_lossy(&output.stdout).lines() {
                report.ok("NVIDIA GPU", line);
            }
        }
        _ => report.note(
            "NVIDIA GPU",
            "none (`nvidia-smi` did not answer)",
            "training and serving run on the CPU",
        ),
    }
}

fn environment(report: &mut Report) {
    for (variable, default) in [
        ("LIBTORCH", paths::libtorch()),
        ("ORT_DYLIB_PATH", paths::onnxruntime()),
        ("OCCLUDE_PYTHON", paths::venv().join("bin/python")),
    ] {
        let path = paths::external(variable, &default).unwrap_or(default);
        match path.exists() {
            true => report.ok(variable, &path.display().to_string()),
            false => report.missing(
                variable,
                &format!("`{}` is not there", path.display()),
                "run `cargo xtask setup`",
            ),
        }
    }
    let python = paths::python();
    if !python.is_file() {
        return;
    }
    let wanted = setup::Requirements::pinned();
    match setup::inspect(&python, &wanted) {
        Ok(found) => {
            report.ok("packages", &found.summary(&wanted));
            for difference in found.differences(&wanted) {
                report.missing("packages", &difference, "run `cargo xtask setup --all`");
            }
        }
        Err(error) => report.failed("packages", &error),
    }
    devices(report);
}

/// What PyTorch and ONNX Runtime say they can run on.
fn devices(report: &mut Report) {
    let script = include_str!("doctor.py");
    let answer = sh::capture(sh::command(paths::python()).args(["-c", script]));
    let value = answer.and_then(|text| Ok(serde_json::from_str::<Value>(&text)?));
    match value {
        Ok(Value::Object(rows)) => {
            for (name, row) in rows {
                match row.as_str().unwrap_or_default() {
                    bad if bad.starts_with("does not load") => {
                        report.missing(&name, bad, "run `cargo xtask setup`");
                    }
                    value => report.ok(&name, value),
                }
            }
        }
        Ok(_) => report.note("devices", "unknown", "the Python environment gave no answer"),
        Err(error) => report.failed("devices", &error),
    }
}

fn tools(report: &mut Report) {
    for name in paths::TOOLS {
        match paths::tool(name).is_file() {
            true => report.ok(name, &paths::tool(name).display().to_string()),
            false => report.note(name, "not built", &format!("`cargo build --release -p {name}`")),
        }
    }
    let trainer = paths::tool("occlude-train");
    if trainer.is_file() {
        println!("occlude-train doctor");
        // Its own report says what is wrong; its exit status is counted.
        if sh::show(sh::command(&trainer).arg("doctor")).is_err() {
            report.missing("occlude-train", "its doctor found a problem", "see the lines above");
        }
    }
}
