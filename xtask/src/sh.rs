//! Running other programs: a shown one, a logged one, a captured one.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::paths;

/// Lines of a log that an error repeats.
const TAIL: usize = 20;

/// A command that runs in the checkout's root.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(paths::root());
    command
}

/// Cargo, as the user would call it: the variables that `.cargo/config.toml` set for this process are taken
/// out again, so that build scripts see the same environment either way and nothing is built twice.
pub fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let defaults = [
        ("LIBTORCH", paths::libtorch()),
        ("ORT_DYLIB_PATH", paths::onnxruntime()),
        ("OCCLUDE_PYTHON", paths::venv().join("bin/python")),
    ];
    for (variable, default) in defaults {
        if paths::external(variable, &default).is_none() {
            cargo.env_remove(variable);
        }
    }
    // Set by `cargo run` for the task itself; they would be taken for the user's own.
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_this_package)) {
        cargo.env_remove(variable);
    }
    cargo
}

/// The command as one would type it, for messages.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|a| a.to_string_lossy().into_owned()));
    let prefix = format!("{}/", paths::root().display());
    words.join(" ").replace(&prefix, "")
}

/// Runs a command whose output the user sees.
pub fn show(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status = command.status().with_context(|| format!("could not start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(start.elapsed())
}

/// Runs a command and returns its trimmed stdout; stderr is part of the error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({})\n{}", line(command), output.status, tail(&stderr, TAIL));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command with stdout and stderr appended to `log`; returns what it printed on stdout.
/// An error repeats the end of the log.
pub fn logged(command: &mut Command, log: &Path) -> Result<String> {
    let mut file = open_log(log)?;
    writeln!(file, "$ {}", line(command))?;
    let output = command
        .stdin(Stdio::null())
        .stderr(file.try_clone()?)
        .output()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    file.write_all(&output.stdout)?;
    if !output.status.success() {
        bail!("{}", failure(&line(command), &output.status.to_string(), log));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A log opened for appending, its folder made.
pub fn open_log(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not make `{}`", folder.display()))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("could not write `{}`", log.display()))
}

/// What failed, with the end of its log.
pub fn failure(what: &str, how: &str, log: &Path) -> String {
    let text = fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    format!("`{what}` failed ({how}); the end of `{}`:\n{}", log.display(), tail(&text, TAIL))
}

/// The last `lines` lines, indented. A progress bar rewrites its line with `\r`: only its last state counts.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().map(|l| l.rsplit('\r').find(|s| !s.is_empty()).unwrap_or("")).collect();
    let from = all.len().saturating_sub(lines);
    all.get(from..)
        .unwrap_or_default()
        .iter()
        .map(|l| format!("    {l}\n"))
        .collect::<String>()
        .trim_end()
        .to_owned()
}

/// `1 min 05 s`, `12.3 s`, `45 ms`.
pub fn seconds(duration: Duration) -> String {
    let s = duration.as_secs_f64();
    match s {
        s if s >= 59.95 => format!("{} min {:02} s", s.round() as u64 / 60, s.round() as u64 % 60),
        s if s >= 1.0 => format!("{s:.1} s"),
        s => format!("{:.0} ms", s * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines_and_the_last_state_of_a_progress_bar() {
        assert_eq!(tail("a\nb\n10%\r20%\r\nc", 3), "    b\n    20%\n    c");
        assert_eq!(tail("", 3), "");
    }

    #[test]
    fn a_failed_command_names_itself_and_repeats_its_log() {
        let log = std::env::temp_dir().join(format!("occlude-xtask-{}.log", std::process::id()));
        let _ = fs::remove_file(&log);
        let error = logged(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]), &log);
        let message = format!("{:#}", error.unwrap_err());
        assert!(message.contains("exit status: 3") && message.contains("no such thing"), "{message}");
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(45)), "45 ms");
        assert_eq!(seconds(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(seconds(Duration::from_secs(65)), "1 min 05 s");
    }
}
