//! `cargo xtask bench`: ours and the peer in one run, on the same inputs, one table of ratios.

mod export;
mod hostile;
mod index;
pub(crate) mod load;
mod loader;
mod overload;
mod proc;
mod quantize;
mod serve;
mod train;
mod vit;
mod wire;

use anyhow::{Context, Result, bail};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{build, paths, setup, sh};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Benchmarks to run; all of them by default
    names: Vec<String>,
    /// Print the names and stop
    #[arg(long)]
    list: bool,
    /// Also write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Folder of JPEG photos for `loader` and `serve`; without it photos are generated
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// One benchmark: a row of the table below and a module beside this one.
struct Bench {
    name: &'static str,
    about: &'static str,
    /// Gets an empty folder of its own and what was asked for.
    run: fn(&Path, &Args) -> Result<Vec<Figure>>,
}

const BENCHES: [Bench; 9] = [
    Bench {
        name: "export",
        about: "MoCo ResNet-50 to ONNX and to Detectron2: our tools, PyTorch",
        run: |folder, _| export::run(folder),
    },
    Bench {
        name: "loader",
        about: "JPEG files to two augmented views of 224 px, one processor: occlude-train, Pillow and torchvision",
        run: |folder, args| loader::run(folder, args.data.as_deref()),
    },
    Bench {
        name: "index",
        about: "1.3 million files in 1,000 folders: our index, torchvision's ImageFolder",
        run: |folder, _| index::run(folder),
    },
    Bench {
        name: "quantize",
        about: "ResNet-50 at 224 px in ONNX Runtime: int8, fp32, ONNX Runtime's quantiser",
        run: |folder, _| quantize::run(folder),
    },
    Bench {
        name: "serve",
        about: "JPEG files to embeddings over HTTP: occlude-serve, FastAPI, ONNX Runtime alone; fp32 and int8",
        run: |folder, args| serve::run(folder, args.data.as_deref()),
    },
    Bench {
        name: "overload",
        about: "occlude-serve under ten times what it can do, for a minute; fails where a promise is broken",
        run: |folder, _| overload::run(folder),
    },
    Bench {
        name: "hostile",
        about: "10,000 requests to occlude-serve, 5 % of them hostile; fails where an answer is wrong or memory grows",
        run: |folder, _| hostile::run(folder),
    },
    Bench {
        name: "train",
        about: "ResNet-18 at 64 px, batch 128: occlude-train, MoCo v2 written in PyTorch, MoCo v2 and BYOL of lightly",
        run: |folder, _| train::run(folder),
    },
    Bench {
        name: "vit",
        about: "ViT-S/16 at 224 px: ONNX Runtime with our model, with torch.onnx's of timm's; a step of iBOT, in PyTorch with timm",
        run: |folder, _| vit::run(folder),
    },
];

/// Which way a figure is better.
#[derive(Clone, Copy)]
enum Better {
    Lower,
    Higher,
}

/// One measured pair.
struct Figure {
    what: String,
    unit: &'static str,
    ours: f64,
    peer: f64,
    better: Better,
}

impl Figure {
    /// How many times better ours is.
    fn ratio(&self) -> f64 {
        match self.better {
            Better::Lower => self.peer / self.ours,
            Better::Higher => self.ours / self.peer,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.list {
        BENCHES.iter().for_each(|bench| println!("{:<10} {}", bench.name, bench.about));
        return Ok(());
    }
    let chosen = choose(&args.names)?;
    setup::run(&setup::Args { all: true, quiet: true })?;
    // Tools that somebody else built are measured as they are.
    if std::env::var_os("OCCLUDE_BIN_DIR").is_none() {
        build::tools()?;
    }
    let mut all = Vec::new();
    for bench in chosen {
        println!("{}: {}", bench.name, bench.about);
        let folder = paths::release().join("bench").join(bench.name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let figures =
            (bench.run)(&folder, args).with_context(|| format!("the benchmark `{}` failed", bench.name))?;
        print(&figures);
        all.extend(figures.iter().map(|f| record(bench.name, f)));
    }
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_string_pretty(&all)? + "\n")
            .with_context(|| format!("could not write `{}`", path.display()))?;
    }
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Bench>> {
    let find = |name: &String| BENCHES.iter().find(|bench| bench.name == name);
    let known = || BENCHES.map(|bench| bench.name).join("`, `");
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        bail!("no benchmark is named `{unknown}`\nhint: `{}`", known());
    }
    Ok(if names.is_empty() { BENCHES.iter().collect() } else { names.iter().filter_map(find).collect() })
}

fn print(figures: &[Figure]) {
    println!("  {:<60} {:>12} {:>12} {:>8}", "", "ours", "peer", "ratio");
    for f in figures {
        let unit = format!("{}, {}", f.what, f.unit);
        println!("  {unit:<60} {:>12.3} {:>12.3} {:>7.2}x", f.ours, f.peer, f.ratio());
    }
}

fn record(bench: &str, f: &Figure) -> serde_json::Value {
    json!({"bench": bench, "what": f.what, "unit": f.unit, "ours": f.ours, "peer": f.peer, "ratio": f.ratio()})
}

/// A Python peer: the script runs in the project's environment and prints one JSON object of figures.
fn peer(script: &str, arguments: &[&Path]) -> Result<serde_json::Value> {
    let mut python = sh::command(paths::python());
    let text = sh::capture(python.args(["-c", script]).args(arguments))?;
    serde_json::from_str(text.lines().last().unwrap_or_default()).context("the peer printed no JSON")
}

/// Packages of a peer's that the environment lacks, into a folder of their own. Without their dependencies, which would bring
/// another torch.
fn install(folder: &Path, packages: &[&str]) -> Result<()> {
    let mut pip = sh::command(paths::python());
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target"]);
    let names = packages.join("`, `");
    sh::capture(pip.arg(folder).args(packages))
        .with_context(|| format!("could not install `{names}`"))
        .map(drop)
}

/// One figure of a peer's answer.
fn number(value: &serde_json::Value, key: &str) -> Result<f64> {
    value.get(key).and_then(serde_json::Value::as_f64).with_context(|| format!("the peer printed no `{key}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = choose(&["exprt".into()]).err().unwrap().to_string();
        assert!(message.contains("exprt") && message.contains("export"), "{message}");
        assert_eq!(choose(&[]).unwrap().len(), BENCHES.len());
    }

    #[test]
    fn a_ratio_above_one_is_always_in_our_favour() {
        let figure = |better| Figure { what: String::new(), unit: "s", ours: 1.0, peer: 2.0, better };
        assert!((figure(Better::Lower).ratio() - 2.0).abs() < 1e-9);
        assert!((figure(Better::Higher).ratio() - 0.5).abs() < 1e-9);
    }
}
