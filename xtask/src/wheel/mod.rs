//! `cargo xtask wheel`: the four programs as a Python wheel, for people who have Python and torch but not Rust.
//!
//! The wheel's folder is laid out from the release binaries, so that nothing is built twice, and the package `wheel`
//! packs it. A few lines of Python (`packaging/python/occlude`) find libtorch and ONNX Runtime in the environment that
//! the wheel is installed in; neither is inside.

mod metadata;
mod platform;

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

use crate::{paths, setup, sh};

/// Largest wheel: it has to travel to cluster nodes.
const LIMIT_MIB: f64 = 40.0;
/// The library that a trainer linked with CUDA's libtorch asks for, and that a libtorch without CUDA lacks.
const CUDA: &str = "libtorch_cuda.so";

/// Options of `cargo xtask wheel`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder to write it into; an older wheel of Occlude there is replaced
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let path = build(&paths::root().join(&args.out))?;
    println!("{}: {:.1} MiB", path.display(), mib(&path)?);
    println!("hint: pip install '{}[train,serve]'", path.display());
    Ok(())
}

/// Builds the tools in release mode where cargo finds them out of date, and packs them into a wheel in the folder `out`,
/// which is made where it is missing. Returns the wheel's path.
///
/// # Errors
/// Whatever of building, packing and writing fails, and a wheel beyond 40 MiB.
pub fn build(out: &Path) -> Result<PathBuf> {
    setup::run(&setup::Args { all: true, quiet: true })?;
    crate::build::tools()?;
    let binaries: Vec<PathBuf> = paths::TOOLS.iter().map(|tool| paths::release().join(tool)).collect();
    let tree = Tree::new()?;
    tree.python()?;
    tree.binaries(&binaries)?;
    tree.metadata(&platform::tag(&binaries)?)?;
    let path = tree.pack(out)?;
    let size = mib(&path)?;
    if size > LIMIT_MIB {
        bail!("`{}` has {size:.1} MiB, more than {LIMIT_MIB:.0}", path.display());
    }
    Ok(path)
}

/// The wheel before it is packed: the folder that pip would make.
struct Tree(PathBuf);

impl Tree {
    /// An empty one, below the folder of the binaries.
    fn new() -> Result<Self> {
        // Several at once, as tests may be, do not meet.
        let root = paths::release().join("wheel").join(std::process::id().to_string());
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("could not empty `{}`", root.display()))?;
        }
        Ok(Self(root))
    }

    fn python(&self) -> Result<()> {
        let from = paths::root().join("packaging/python/occlude");
        for name in ["__init__.py", "__main__.py", "launch.py"] {
            copy(&from.join(name), &self.0.join("occlude").join(name))?;
        }
        Ok(())
    }

    /// The programs, without the folders of the machine that built them, and what a libtorch without CUDA lacks.
    fn binaries(&self, binaries: &[PathBuf]) -> Result<()> {
        let lib = self.0.join("occlude/lib");
        fs::create_dir_all(&lib)?;
        for path in binaries {
            let to = self.0.join("occlude/bin").join(path.file_name().context("a program has a name")?);
            copy(path, &to)?;
            platform::relocate(&to)?;
        }
        platform::empty_library(&lib.join(CUDA))
    }

    fn metadata(&self, tag: &str) -> Result<()> {
        let info = self.0.join(format!("{}.dist-info", metadata::stem()));
        let root = paths::root();
        let readme = fs::read_to_string(root.join("README.md")).context("could not read `README.md`")?;
        for licence in metadata::LICENCES {
            copy(&root.join(licence), &info.join("licenses").join(licence))?;
        }
        fs::write(info.join("METADATA"), metadata::metadata(&readme))?;
        fs::write(info.join("WHEEL"), metadata::wheel(tag))?;
        Ok(fs::write(info.join("entry_points.txt"), metadata::entry_points())?)
    }

    fn pack(self, out: &Path) -> Result<PathBuf> {
        fs::create_dir_all(out).with_context(|| format!("could not make `{}`", out.display()))?;
        for old in wheels(out)? {
            fs::remove_file(&old).with_context(|| format!("could not replace `{}`", old.display()))?;
        }
        let mut pack = sh::command(paths::python());
        sh::capture(pack.args(["-m", "wheel", "pack"]).arg(&self.0).arg("--dest-dir").arg(out))?;
        fs::remove_dir_all(&self.0)?;
        wheels(out)?.pop().with_context(|| format!("`wheel pack` left nothing in `{}`", out.display()))
    }
}

/// Occlude's wheels in a folder.
fn wheels(folder: &Path) -> Result<Vec<PathBuf>> {
    let ours = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.starts_with("occlude-") && name.ends_with("_x86_64.whl")
    };
    let entries = fs::read_dir(folder).with_context(|| format!("could not read `{}`", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(ours).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("could not copy `{}`", from.display())).map(|_| ())
}

fn mib(path: &Path) -> Result<f64> {
    Ok(fs::metadata(path)?.len() as f64 / f64::from(1 << 20))
}
