//! `cargo xtask setup`: libtorch, ONNX Runtime and the Python packages of the tests in `.deps/`, from PyPI
//! wheels. A second call finds the stamp and does nothing; a call after an interruption carries on.

mod compiler;
mod environment;
mod links;
mod requirements;

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

pub(crate) use compiler::check as compiler;
pub(crate) use environment::{free_mib, inspect, interpreter};
pub(crate) use links::LIBTORCH;
pub(crate) use requirements::Requirements;

use crate::{paths, sh};

/// Options of `cargo xtask setup`.
#[derive(clap::Args, Clone, Default)]
pub(crate) struct Args {
    /// Install every package even where `LIBTORCH` or `ORT_DYLIB_PATH` point elsewhere: the tests compare with
    /// PyTorch and ONNX Runtime in Python
    #[arg(long)]
    pub(crate) all: bool,
    /// Print nothing when there is nothing to do
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Brings `.deps/` to the state that `requirements.txt` describes.
pub(crate) fn run(args: &Args) -> Result<()> {
    let outside = Outside::from_env()?;
    let wanted = Requirements::pinned().without(|name| !args.all && outside.replaces(name));
    if is_complete(&wanted, &outside) {
        if !args.quiet {
            println!("set-up is complete: `{}`", shown(&paths::deps()));
        }
        return Ok(());
    }
    let start = Instant::now();
    println!("setting up `{}`", shown(&paths::deps()));
    let compiler = compiler::check()?;
    println!("  compiler     {compiler}");
    let found = match &outside.python {
        Some(python) => environment::verify(python, &wanted)?,
        None => environment::fill(&wanted)?,
    };
    println!("  python       {} with {}", found.python, found.summary(&wanted));
    link(&outside, &found)?;
    fs::write(stamp(), wanted.hash()).with_context(|| format!("could not write `{}`", stamp().display()))?;
    println!("set-up complete in {}: plain cargo works from here on", sh::seconds(start.elapsed()));
    Ok(())
}

/// What the user's own variables provide.
struct Outside {
    libtorch: Option<PathBuf>,
    onnxruntime: Option<PathBuf>,
    python: Option<PathBuf>,
}

impl Outside {
    fn from_env() -> Result<Self> {
        let found = Self {
            libtorch: paths::external("LIBTORCH", &paths::libtorch()),
            onnxruntime: paths::external("ORT_DYLIB_PATH", &paths::onnxruntime()),
            python: paths::external("OCCLUDE_PYTHON", &paths::venv().join("bin/python")),
        };
        if let Some(path) = &found.libtorch {
            links::check_libtorch(path)?;
        }
        for (variable, path) in [("ORT_DYLIB_PATH", &found.onnxruntime), ("OCCLUDE_PYTHON", &found.python)] {
            if let Some(path) = path.as_ref().filter(|path| !path.is_file()) {
                bail!(
                    "`{variable}` names `{}`, which is not a file\nhint: correct or unset it",
                    path.display()
                );
            }
        }
        Ok(found)
    }

    /// Whether a variable of the user's makes this package unnecessary for building and running the tools.
    fn replaces(&self, package: &str) -> bool {
        match package {
            "torch" | "torchvision" => self.libtorch.is_some(),
            "onnxruntime" | "onnxruntime-ep-openvino" => self.onnxruntime.is_some(),
            _ => false,
        }
    }
}

fn stamp() -> PathBuf {
    paths::deps().join("setup.stamp")
}

fn is_complete(wanted: &Requirements, outside: &Outside) -> bool {
    let stamped = fs::read_to_string(stamp()).is_ok_and(|hash| hash == wanted.hash());
    let libtorch = outside.libtorch.is_some() || paths::libtorch().join("lib").is_dir();
    let onnxruntime = outside.onnxruntime.is_some() || paths::onnxruntime().is_file();
    stamped && libtorch && onnxruntime && paths::python().is_file()
}

fn link(outside: &Outside, found: &environment::Inspection) -> Result<()> {
    match &outside.libtorch {
        Some(path) => println!("  libtorch     `{}` (LIBTORCH)", path.display()),
        None => {
            links::point(&paths::libtorch(), found.torch()?)?;
            links::check_libtorch(&paths::libtorch())?;
            println!("  libtorch     `{}`", shown(&paths::libtorch()));
        }
    }
    match &outside.onnxruntime {
        Some(path) => println!("  onnxruntime  `{}` (ORT_DYLIB_PATH)", path.display()),
        None => {
            links::point(&paths::onnxruntime(), found.onnxruntime()?)?;
            println!("  onnxruntime  `{}`", shown(&paths::onnxruntime()));
        }
    }
    Ok(())
}

/// A path below the root, without the root.
fn shown(path: &std::path::Path) -> String {
    path.strip_prefix(paths::root()).unwrap_or(path).display().to_string()
}
