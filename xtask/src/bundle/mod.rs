//! `cargo xtask bundle`: release binaries that run on a machine without Rust and without this checkout. They
//! find libtorch and ONNX Runtime beside them or in a Python environment (`libraries.sh`).

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::{paths, setup, sh};

/// Largest bundle without libtorch, ONNX Runtime and tests: it has to travel to cluster nodes.
const LIMIT_MIB: f64 = 60.0;

/// Options of `cargo xtask bundle`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder to write; replaced where it is a bundle already
    #[arg(long, value_name = "DIR", default_value = "dist/occlude")]
    out: PathBuf,
    /// Add the test binaries and `bin/run-tests`
    #[arg(long)]
    tests: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    setup::run(&setup::Args { quiet: true, ..Default::default() })?;
    let packages = paths::TOOLS.iter().flat_map(|tool| ["-p", *tool]);
    sh::show(sh::cargo().args(["build", "--release"]).args(packages))?;
    let out = paths::root().join(&args.out);
    empty(&out)?;
    for tool in paths::TOOLS {
        copy(&paths::tool(tool), &out.join("libexec").join(tool))?;
        write(&out.join("bin").join(tool), include_str!("wrapper.sh"), 0o755)?;
    }
    write(&out.join("libexec/libraries.sh"), include_str!("libraries.sh"), 0o644)?;
    write(&out.join("README"), include_str!("README"), 0o644)?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        copy(&paths::root().join(licence), &out.join(licence))?;
    }
    let size = mib(&out)?;
    if args.tests {
        tests(&out)?;
    }
    report(&out, size, args.tests)
}

fn report(out: &Path, size: f64, tests: bool) -> Result<()> {
    println!("{}: {size:.1} MiB without libtorch and ONNX Runtime", out.display());
    if tests {
        println!("with the tests: {:.1} MiB", mib(out)?);
    }
    if size > LIMIT_MIB {
        bail!("the bundle is larger than {LIMIT_MIB:.0} MiB");
    }
    Ok(())
}

/// An empty folder; one that is there must be a bundle, so that no folder of the user's is ever removed.
fn empty(out: &Path) -> Result<()> {
    if out.join("libexec/libraries.sh").is_file() {
        fs::remove_dir_all(out).with_context(|| format!("could not replace `{}`", out.display()))?;
    }
    if out.exists() && fs::read_dir(out)?.next().is_some() {
        bail!("`{}` is not empty and no bundle\nhint: name another folder with `--out`", out.display());
    }
    fs::create_dir_all(out).with_context(|| format!("could not make `{}`", out.display()))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("could not copy `{}`", from.display())).map(|_| ())
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("could not write `{}`", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn tests(out: &Path) -> Result<()> {
    let mut cargo = sh::cargo();
    cargo.args([
        "test",
        "--release",
        "--workspace",
        "--exclude",
        "xtask",
        "--no-run",
        "--message-format=json",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output().context("could not start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed ({})", sh::line(&cargo), output.status);
    }
    for (name, path) in executables(&String::from_utf8_lossy(&output.stdout)) {
        copy(&path, &out.join("libexec/tests").join(name))?;
    }
    write(&out.join("bin/run-tests"), include_str!("run-tests.sh"), 0o755)
}

/// Test binaries in cargo's messages: a name that is unique, and the file.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let rows = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let test = |row: Value| {
        let path = PathBuf::from(row.get("executable")?.as_str()?);
        row.pointer("/profile/test")?.as_bool()?.then_some(())?;
        // `occlude_serve-1f2e3d`: the hash tells a library's tests from the binary's of the same name.
        Some((path.file_name()?.to_string_lossy().into_owned(), path))
    };
    rows.filter_map(test).collect()
}

fn mib(folder: &Path) -> Result<f64> {
    fn bytes(folder: &Path) -> std::io::Result<u64> {
        let mut sum = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            sum += if entry.file_type()?.is_dir() { bytes(&entry.path())? } else { entry.metadata()?.len() };
        }
        Ok(sum)
    }
    Ok(bytes(folder)? as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn only_test_binaries_are_taken() {
        let messages = "{\"executable\":\"/t/a-1\",\"profile\":{\"test\":true}}\n{\"executable\":\"/t/b\",\
                        \"profile\":{\"test\":false}}\n{\"executable\":null,\"profile\":{\"test\":true}}\nnoise";
        assert_eq!(executables(messages), [("a-1".to_owned(), PathBuf::from("/t/a-1"))]);
    }

    #[test]
    fn a_folder_of_the_users_is_never_removed() {
        let folder = std::env::temp_dir().join(format!("occlude-bundle-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("precious"), "x").unwrap();
        assert!(empty(&folder).unwrap_err().to_string().contains("no bundle"));
        assert!(folder.join("precious").is_file());
        write(&folder.join("libexec/libraries.sh"), "", 0o644).unwrap();
        empty(&folder).unwrap();
        assert_eq!(mib(&folder).unwrap(), 0.0);
        fs::remove_dir_all(folder).unwrap();
    }
}
