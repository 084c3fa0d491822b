//! The C++ compiler that `torch-sys` and the trainer's shim need.

use anyhow::{Result, bail};
use std::io::Write;
use std::process::{Command, Stdio};

const HINT: &str = "hint: install one, e.g. `apt install g++`, `dnf install gcc-c++` or `pacman -S gcc`, \
                    or set `CXX`";

/// Finds a compiler that has the C++17 standard library; returns its version line.
pub(crate) fn check() -> Result<String> {
    let named = std::env::var("CXX").ok().filter(|cxx| !cxx.is_empty());
    let candidates = named.iter().map(String::as_str).chain(["c++", "g++", "clang++"]);
    for cxx in candidates {
        if compiles(cxx) {
            let version = Command::new(cxx).arg("--version").output()?;
            let text = String::from_utf8_lossy(&version.stdout).into_owned();
            return Ok(format!("{cxx}: {}", text.lines().next().unwrap_or("version unknown")));
        }
        if named.as_deref() == Some(cxx) {
            bail!("`CXX={cxx}` does not compile a C++17 program\n{HINT}");
        }
    }
    bail!("there is no C++ compiler with its standard library (tried `c++`, `g++`, `clang++`)\n{HINT}")
}

fn compiles(cxx: &str) -> bool {
    let child = Command::new(cxx)
        .args(["-x", "c++", "-std=c++17", "-fsyntax-only", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else { return false };
    let program =
        b"#include <optional>\n#include <string>\nint main() { return std::optional<int>(0).value(); }\n";
    let sent = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(program).is_ok());
    child.wait().is_ok_and(|status| status.success()) && sent
}
