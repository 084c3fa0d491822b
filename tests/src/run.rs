//! The tools as processes.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use xtask::{paths, sh};

/// What a finished tool said.
#[derive(Debug)]
pub struct Said {
    /// Exit status; -1 after a signal.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Logs.
    pub stderr: String,
}

impl Said {
    /// What a command says, run to its end.
    ///
    /// # Panics
    /// Where it does not start.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?} did not start: {error}"));
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Itself, if the exit status was 0.
    ///
    /// # Panics
    /// With both outputs where it was not.
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// stdout as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }

    /// stdout as one JSON value per line.
    pub fn json_lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// A release binary, built once per test process where cargo finds it out of date. Tests away from the checkout
/// name their folder with `OCCLUDE_BIN_DIR` and build nothing.
pub fn tool(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("OCCLUDE_BIN_DIR").is_some() {
            return;
        }
        let packages = paths::TOOLS.iter().flat_map(|tool| ["-p", *tool]);
        let mut cargo = sh::cargo();
        cargo.arg("build").args(profile()).args(packages);
        sh::capture(&mut cargo).unwrap_or_else(|error| panic!("{error:#}"));
    });
    let path = paths::tool(name);
    assert!(path.is_file(), "`{}` is not built", path.display());
    path
}

/// The profile that this test was built with, so that its tools share the dependencies.
fn profile() -> &'static [&'static str] {
    if paths::release().ends_with("debug") { &[] } else { &["--release"] }
}

/// Runs a tool to its end.
pub fn run(name: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Said {
    let mut command = Command::new(tool(name));
    command.args(arguments.iter().map(AsRef::as_ref)).stdin(std::process::Stdio::null());
    Said::of(&mut command)
}

/// Runs a tool whose arguments are plain words.
pub fn words(name: &str, line: &str) -> Said {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    run(name, &arguments.iter().map(|a| a as &dyn AsRef<std::ffi::OsStr>).collect::<Vec<_>>())
}

/// Runs a Python script with the project's environment; its last line of output, parsed.
pub fn python(script: &str, arguments: &[&Path]) -> Value {
    let python = paths::python();
    assert!(python.is_file(), "no Python at `{}`: run `cargo xtask setup`", python.display());
    let text = sh::capture(Command::new(python).args(["-c", script]).args(arguments));
    let text = text.unwrap_or_else(|error| panic!("{error:#}"));
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|e| panic!("the script printed no JSON: {e}: {last}"))
}

/// An empty folder for one test process, kept after it for a look; `cargo xtask test` deletes it when the
/// next process has begun, for which the number of this one lies beside it.
pub fn scratch(name: &str) -> PathBuf {
    let target = paths::release();
    let base = if target.join("deps").is_dir() { target.join("tmp") } else { std::env::temp_dir() };
    let folder = base.join(format!("occlude-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a scratch folder");
    fs::write(folder.with_extension("pid"), std::process::id().to_string()).expect("a file beside it");
    folder
}
