//! `cargo xtask gpu-kit`: a relocatable folder that checks, measures and trains on a machine with Python 3, torch and torchvision
//! and nothing else, and the parts in which it travels. `cargo xtask gpu-report` (`report`) reads what it brings back.

pub(crate) mod report;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{accuracy, build, paths, setup, sh, wheel};

/// Options of `cargo xtask gpu-kit`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of JPEG pictures; several may be given. With `train` and `test` (or `validation`), each with one
    /// sub-folder per class, it is for accuracy, otherwise its photos are for speed. Without photos some are
    /// generated
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
    /// Folder to write: `occlude-gpu-kit` and its parts. Replaced if it has been written before
    #[arg(long, value_name = "DIR", default_value = "dist/gpu-kit")]
    out: PathBuf,
    /// Epochs of each run of the accuracy stage
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Maximum shorter side of the pictures for accuracy; larger ones are scaled down
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..))]
    shorter_side: u32,
    /// Maximum size of a part, MiB
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(8..=4096))]
    part_mib: u64,
    /// The shortest form, for rehearsing on a CPU: ONNX Runtime and a ResNet-18 as the tests have them, no test programs, no
    /// parts
    #[arg(long)]
    reduced: bool,
}

/// Files of `kit/`; README lies beside it.
const FILES: [(&str, &str); 9] = [
    ("run.py", include_str!("kit/run.py")),
    ("runner.py", include_str!("kit/runner.py")),
    ("training.py", include_str!("kit/training.py")),
    ("serving.py", include_str!("kit/serving.py")),
    ("accuracy.py", include_str!("kit/accuracy.py")),
    ("peer.py", include_str!("kit/peer.py")),
    ("rates.py", include_str!("kit/rates.py")),
    ("unpack.py", include_str!("kit/unpack.py")),
    ("README", include_str!("kit/README")),
];

/// Crates whose test programs travel: what touches the device.
const TESTED: [&str; 2] = ["occlude-train", "occlude-torch-ext"];

/// The package that has ONNX Runtime with CUDA.
const RUNTIME: &str = "onnxruntime-gpu";

pub(crate) fn run(args: &Args) -> Result<()> {
    for folder in &args.data {
        ensure!(
            folder.is_dir(),
            "`{}` is not a folder; hint: `--data` names a folder of pictures",
            folder.display()
        );
    }
    setup::run(&setup::Args { all: true, quiet: true })?;
    build()?;
    let out = paths::root().join(&args.out);
    empty(&out)?;
    let kit = Kit { folder: out.join("occlude-gpu-kit"), scratch: out.join("scratch"), args };
    kit.programs()?;
    kit.scripts()?;
    kit.data()?;
    kit.models()?;
    kit.runtime()?;
    if !args.reduced {
        kit.tests()?;
        kit.parts(&out)?;
    }
    fs::remove_dir_all(&kit.scratch).context("could not remove the scratch folder")?;
    println!("{}: {:.1} MiB", kit.folder.display(), mib(&kit.folder)?);
    println!(
        "hint: copy the parts, unpack each in one folder, then `occlude-gpu-kit/run.sh all --minutes 15`"
    );
    Ok(())
}

/// The tools, and the program that measures ONNX Runtime alone.
fn build() -> Result<()> {
    build::tools_and(&["-p", "occlude-onnxruntime"])
}

/// An empty folder; one that is there must hold a kit, so that no folder of the user's is ever removed.
fn empty(out: &Path) -> Result<()> {
    if out.join("occlude-gpu-kit/kit/run.py").is_file() {
        fs::remove_dir_all(out).with_context(|| format!("could not replace `{}`", out.display()))?;
    }
    if out.exists() && fs::read_dir(out)?.next().is_some() {
        bail!("`{}` is neither empty nor a kit\nhint: name another folder with `--out`", out.display());
    }
    fs::create_dir_all(out.join("scratch")).with_context(|| format!("could not make `{}`", out.display()))
}

/// A kit that is being put together.
struct Kit<'a> {
    folder: PathBuf,
    /// Whatever does not travel.
    scratch: PathBuf,
    args: &'a Args,
}

impl Kit<'_> {
    fn python(&self, script: &str) -> Command {
        let mut python = sh::command(paths::python());
        python.args(["-c", script]);
        python
    }

    /// Occlude's tools, and beside them the programs that only measure. How the tools are packed is this function's and
    /// `Runner.tool`'s (`kit/runner.py`) business alone.
    fn programs(&self) -> Result<()> {
        wheel::build(&self.folder)?;
        let own = std::env::current_exe().context("this program has no path")?;
        copy(&own, &self.folder.join("bin/xtask"))?;
        copy(&paths::release().join("ready"), &self.folder.join("bin/ready"))
    }

    fn scripts(&self) -> Result<()> {
        for (name, text) in FILES {
            let folder = if name == "README" { self.folder.clone() } else { self.folder.join("kit") };
            write(&folder.join(name), text, 0o644)?;
        }
        write(&self.folder.join("run.sh"), include_str!("kit/run.sh"), 0o755)?;
        let commit = sh::capture(sh::command("git").args(["describe", "--always", "--dirty"])).ok();
        let about =
            json!({ "version": env!("CARGO_PKG_VERSION"), "commit": commit, "reduced": self.args.reduced });
        let plan = accuracy::plan(self.args.epochs);
        for (name, value) in [("kit.json", about), ("plan.json", plan)] {
            write(&self.folder.join("kit").join(name), &serde_json::to_string_pretty(&value)?, 0o644)?;
        }
        Ok(())
    }

    /// Pictures: made smaller, or generated.
    fn data(&self) -> Result<()> {
        let mut python = self.python(include_str!("data.py"));
        let photos = if self.args.reduced { 24 } else { 400 };
        python.arg(self.folder.join("data")).arg(self.args.shorter_side.to_string()).arg(photos.to_string());
        for folder in &self.args.data {
            // the script runs in the checkout's root
            python.arg(folder.canonicalize().with_context(|| format!("no folder `{}`", folder.display()))?);
        }
        println!("{}", sh::capture(&mut python)?);
        Ok(())
    }

    /// A network of random weights as ONNX in both precisions, each with the golden picture that a CPU answered here.
    fn models(&self) -> Result<()> {
        let (arch, side) = if self.args.reduced { ("resnet18", "64") } else { ("resnet50", "224") };
        let checkpoint = self.scratch.join("weights.safetensors");
        sh::capture(self.python(include_str!("weights.py")).arg(arch).arg(&checkpoint))?;
        let folder = self.folder.join("models");
        fs::create_dir_all(&folder)?;
        for precision in ["fp32", "fp16"] {
            let mut export = sh::command(paths::tool("occlude-export"));
            export.arg("onnx").arg(&checkpoint).arg(folder.join(format!("{precision}.onnx")));
            export.args(["--input", "uint8", "--image-size", side, "--precision", precision]);
            sh::capture(&mut export)?;
        }
        Ok(())
    }

    /// ONNX Runtime: the build with CUDA out of its wheel, without what comes with torch; the tests' own for a rehearsal.
    fn runtime(&self) -> Result<()> {
        let lib = self.folder.join("lib");
        if self.args.reduced {
            let own =
                paths::external("ORT_DYLIB_PATH", &paths::onnxruntime()).unwrap_or_else(paths::onnxruntime);
            return copy(&own, &lib.join("libonnxruntime.so"));
        }
        let pinned = setup::Requirements::pinned();
        let version =
            pinned.version("onnxruntime").context("no version of ONNX Runtime is pinned")?.to_owned();
        let mut pip = sh::command(paths::python());
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
        ]);
        let wheels = paths::release().join("gpu-kit");
        pip.arg("--dest").arg(&wheels).arg(format!("{RUNTIME}=={version}"));
        sh::capture(&mut pip).with_context(|| format!("could not fetch `{RUNTIME}` {version}"))?;
        sh::capture(self.python(include_str!("runtime.py")).arg(&wheels).arg(&version).arg(&lib)).map(drop)
    }

    fn tests(&self) -> Result<()> {
        let mut cargo = sh::cargo();
        cargo.args(["test", "--release", "--lib", "--no-run", "--message-format=json"]);
        cargo.args(TESTED.iter().flat_map(|package| ["-p", *package]));
        let output = cargo.stderr(Stdio::inherit()).output().context("could not start cargo")?;
        ensure!(output.status.success(), "`{}` failed ({})", sh::line(&cargo), output.status);
        for (name, path) in executables(&String::from_utf8_lossy(&output.stdout)) {
            copy(&path, &self.folder.join("tests").join(name))?;
        }
        Ok(())
    }

    /// Archives that unpack into the same folder, the first with all that training needs.
    fn parts(&self, out: &Path) -> Result<()> {
        let mut pack = self.python(include_str!("pack.py"));
        pack.arg(&self.folder).arg(out).arg(&self.scratch).arg((self.args.part_mib << 20).to_string());
        println!("{}", sh::capture(&mut pack)?);
        Ok(())
    }
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

/// What all files of a folder take.
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

/// Test programs in cargo's messages: a name that is unique, and the file.
fn executables(messages: &str) -> Vec<(String, PathBuf)> {
    let rows = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let test = |row: Value| {
        let path = PathBuf::from(row.get("executable")?.as_str()?);
        row.pointer("/profile/test")?.as_bool()?.then_some(())?;
        Some((path.file_name()?.to_string_lossy().into_owned(), path))
    };
    rows.filter_map(test).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_the_users_is_never_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("precious"), "x").unwrap();
        assert!(empty(dir.path()).unwrap_err().to_string().contains("nor a kit"));
        assert!(dir.path().join("precious").is_file());
        write(&dir.path().join("occlude-gpu-kit/kit/run.py"), "", 0o644).unwrap();
        empty(dir.path()).unwrap();
        assert!(!dir.path().join("precious").exists() && dir.path().join("scratch").is_dir());
    }

    #[test]
    fn only_test_programs_are_taken() {
        let messages = "{\"executable\":\"/t/a-1\",\"profile\":{\"test\":true}}\n{\"executable\":\"/t/b\",\
                        \"profile\":{\"test\":false}}\n{\"executable\":null,\"profile\":{\"test\":true}}\nnoise";
        assert_eq!(executables(messages), [("a-1".to_owned(), PathBuf::from("/t/a-1"))]);
    }

    #[test]
    fn every_script_of_the_kit_travels() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu/kit");
        let mut scripts: Vec<_> = fs::read_dir(here)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "run.sh" && !name.starts_with('_'))
            .collect();
        scripts.sort();
        let mut travelling = FILES.map(|(name, _)| name.to_owned());
        travelling.sort();
        assert_eq!(scripts, travelling);
    }
}
