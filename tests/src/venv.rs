//! A fresh Python environment with the wheel in it, as a user would make one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use xtask::{paths, sh};

use crate::run::Said;

/// The environment and the folder that commands run in.
pub struct Venv {
    folder: PathBuf,
    cwd: PathBuf,
}

impl Venv {
    /// An environment in `folder` with the wheel alone, from a Python of another version than the project's where there
    /// is one; nothing is downloaded.
    ///
    /// # Panics
    /// Where Python or pip fail.
    pub fn new(folder: &Path, wheel: &Path) -> Self {
        let made =
            sh::capture(Command::new(another_python()).args(["-m", "venv", "--without-pip"]).arg(folder));
        made.unwrap_or_else(|error| panic!("{error:#}"));
        let cwd = folder.join("somewhere else");
        fs::create_dir_all(&cwd).expect("a folder");
        let venv = Self { folder: folder.to_owned(), cwd };
        let mut pip = Command::new(paths::python());
        pip.args(["-m", "pip", "--python"]).arg(venv.program("python"));
        pip.args(["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]).arg(wheel);
        sh::capture(&mut pip).unwrap_or_else(|error| panic!("{error:#}"));
        venv
    }

    /// A program that pip or Python put into the environment.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// The folder of its packages.
    ///
    /// # Panics
    /// Where there is none.
    pub fn packages(&self) -> PathBuf {
        let below = fs::read_dir(self.folder.join("lib")).expect("`lib`").flatten().map(|entry| entry.path());
        let found = below.map(|path| path.join("site-packages")).find(|path| path.is_dir());
        found.expect("`site-packages`")
    }

    /// Where its commands run.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// Lets it see the packages of the project's own environment behind its own.
    ///
    /// # Panics
    /// Where Python does not say where they are.
    pub fn sees_the_projects_packages(&self) {
        let script = "import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))";
        let place = sh::capture(Command::new(paths::python()).args(["-c", script]));
        fs::write(self.packages().join("project.pth"), place.expect("torch")).expect("written");
    }

    /// A command in it, without the variables and library folders that cargo gives to tests.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        for variable in ["LIBTORCH", "ORT_DYLIB_PATH", "OCCLUDE_PYTHON", "LD_LIBRARY_PATH", "PYTHONPATH"] {
            command.env_remove(variable);
        }
        command.current_dir(&self.cwd).stdin(Stdio::null());
        command
    }

    /// Runs a command whose arguments are plain words to its end.
    pub fn words(&self, name: &str, line: &str) -> Said {
        Said::of(self.command(name).args(line.split_whitespace()))
    }
}

/// A Python of another version than the project's that pip still serves; the project's where there is none.
fn another_python() -> PathBuf {
    let version = |python: &Path| {
        let script = "import sys, venv; print(*sys.version_info[:2])";
        sh::capture(Command::new(python).args(["-c", script])).ok()
    };
    let own = version(&paths::python());
    let named = (10..=14).rev().map(|minor| PathBuf::from(format!("python3.{minor}")));
    // pyenv's commands on PATH work in the versions that were chosen only.
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv/versions");
    let below: BTreeSet<PathBuf> =
        fs::read_dir(home).into_iter().flatten().flatten().map(|e| e.path()).collect();
    let wanted =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("3.1"));
    let pyenv = below.into_iter().rev().filter(wanted).map(|path| path.join("bin/python"));
    let mut others = named.chain(pyenv).filter(|python| version(python).is_some_and(|v| Some(v) != own));
    others.next().unwrap_or_else(paths::python)
}
