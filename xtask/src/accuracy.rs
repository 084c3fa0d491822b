//! `cargo xtask accuracy`: every method of the papers with one budget, several seeds, kNN and linear probes.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::{paths, sh};

/// Options of `cargo xtask accuracy`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder with `train` and `test`, each with one sub-folder per class
    data: PathBuf,
    /// Folder of the runs; what has ended there is not run again
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Rows to run; all of them by default
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    rows: Vec<String>,
    /// Seeds of each row, from 0
    #[arg(long, default_value_t = 2)]
    seeds: u32,
    /// Side of the pictures
    #[arg(long, default_value_t = 48)]
    image_size: u32,
    /// Stage whose cells are masked: 3 has an eighth as many cells along a side as the picture has pixels
    #[arg(long, default_value_t = 3)]
    saliency_stage: u32,
    /// Epochs of each run
    #[arg(long, default_value_t = 5)]
    epochs: u32,
    /// Pictures a batch
    #[arg(long, default_value_t = 128)]
    batch_size: u32,
    /// Architecture
    #[arg(long, default_value = "resnet18")]
    arch: String,
    /// `cpu` or `cuda`
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Runs side by side, one thread each on the CPU
    #[arg(long, default_value_t = 1)]
    jobs: usize,
}

/// One row of the table: what is compared, and the recipe with its flags besides those that all rows share.
struct Row {
    name: &'static str,
    about: &'static str,
    recipe: &'static str,
    flags: &'static [Set],
}

/// Flags that several rows share.
#[derive(Clone, Copy)]
enum Set {
    /// The budget's optimiser, head and augmentation, for recipes that are written for another.
    Common,
    /// Negatives from the batch, and the key's momentum, for MoCo's recipes.
    InBatch,
    /// Which cells are masked.
    Cells,
    These(&'static str),
}

const COMMON: &str = "--optimizer adamw --lr 1e-3 --weight-decay 0.05 --decay weights --warmup-epochs 0.5 --hidden 1024 \
                      --temperature 0.1 --bn-splits 1 --crop-min 0.2 --blur-sigma 0.1 1.0";
const IN_BATCH: &str = "--head-bn true --queue 0 --in-batch true --momentum 0.99 --momentum-start 0.95";

const SMALL: &str = "saliency-moco-small";

use Set::{Cells, Common, InBatch, These};

const ROWS: [Row; 17] = [
    row("plain", "MoCo v2", "moco-v2", &[Common, InBatch]),
    row("blur", "saliency masks, blurred", SMALL, &[Cells]),
    row("hp", "saliency masks, high-pass", SMALL, &[Cells, These("--strategy hp")]),
    row("mean", "saliency masks, mean colour", SMALL, &[Cells, These("--strategy mean")]),
    row("blur-neg", "blurred, one hard negative", SMALL, &[Cells, These("--num-nonsem 1 --alpha 2")]),
    row(
        "blur-neg-one",
        "the same, its logit not doubled",
        SMALL,
        &[Cells, These("--num-nonsem 1 --alpha 1")],
    ),
    row(
        "hp-neg",
        "high-pass, one hard negative",
        SMALL,
        &[Cells, These("--strategy hp --num-nonsem 1 --alpha 2")],
    ),
    row(
        "mean-neg",
        "mean colour, one hard negative",
        SMALL,
        &[Cells, These("--strategy mean --num-nonsem 1 --alpha 2")],
    ),
    row("key", "blurred, key branch masked", SMALL, &[Cells, These("--branch key")]),
    row("both-branches", "blurred, both branches masked", SMALL, &[Cells, These("--branch both")]),
    row("random-blur", "blurred, random cells", SMALL, &[Cells, These("--guidance random")]),
    row("random-hp", "random masks of MSCN, high-pass", "mscn-moco", &[Common, InBatch, Cells]),
    row("simclr", "SimCLR", "simclr", &[Common, These("--jitter 0.5")]),
    row(
        "saliency-simclr",
        "SimCLR, saliency masks, blurred",
        "saliency-simclr",
        &[Common, Cells, These("--jitter 0.5 --strategy blur --num-nonsem 0")],
    ),
    row("mixmask", "MixMask", "mixmask", &[Common, InBatch]),
    row("unmix", "Un-Mix", "unmix", &[Common, InBatch]),
    row("unmix+mixmask", "Un-Mix and MixMask", "unmix+mixmask", &[Common, InBatch]),
];

const fn row(name: &'static str, about: &'static str, recipe: &'static str, flags: &'static [Set]) -> Row {
    Row { name, about, recipe, flags }
}

/// What the flags of a row depend on.
#[derive(Clone, Copy)]
struct Budget {
    saliency_stage: u32,
    epochs: u32,
}

impl Row {
    /// Flags of `pretrain` for this row.
    fn flags(&self, budget: Budget) -> Vec<String> {
        let mut flags = format!("--recipe {}", self.recipe);
        for set in self.flags {
            flags += " ";
            match set {
                Common => flags += COMMON,
                InBatch => flags += IN_BATCH,
                Cells => flags += &format!("--saliency-stage {}", budget.saliency_stage),
                These(these) => flags += these,
            }
        }
        if self.recipe == SMALL || self.flags.iter().any(|set| matches!(set, InBatch)) {
            flags += &format!(" --momentum-warmup-epochs {}", budget.epochs);
        }
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// Whether its first run also measures what pixels and an untrained encoder reach: the floors are those of the
    /// contract, which only the filter changes.
    fn has_floors(&self) -> bool {
        ["plain", "hp"].contains(&self.name)
    }
}

impl Args {
    fn budget(&self) -> Budget {
        Budget { saliency_stage: self.saliency_stage, epochs: self.epochs }
    }
}

/// Sides of the pictures that a GPU is asked for, each with the stage whose cells are masked: 4 and 6 along a side.
const SIZES: [(u32, u32); 2] = [(64, 4), (96, 4)];

/// The rows as data, for a machine that has no `cargo`: what to run there with `epochs` each, and the shortest form of it.
pub(crate) fn plan(epochs: u32) -> Value {
    let entry = |row: &Row, size: u32, batch: u32, budget: Budget| {
        json!({
            "row": row.name, "about": row.about, "size": size, "epochs": budget.epochs, "batch": batch,
            "floors": row.has_floors(), "flags": row.flags(budget),
        })
    };
    let rows = SIZES.iter().flat_map(|&(size, saliency_stage)| {
        ROWS.iter().map(move |row| entry(row, size, 128, Budget { saliency_stage, epochs }))
    });
    let shortest = Budget { saliency_stage: 3, epochs: 1 };
    let tiny = ROWS.iter().filter(|row| row.name == "hp").map(|row| entry(row, 32, 8, shortest));
    json!({ "arch": "resnet18", "rows": rows.collect::<Vec<_>>(), "tiny": tiny.collect::<Vec<_>>() })
}

/// One run of one row.
#[derive(Clone, Copy)]
struct Job {
    row: &'static Row,
    seed: u32,
}

impl Job {
    fn folder(self, args: &Args) -> PathBuf {
        args.out.join(format!("{}-{}", self.row.name, self.seed))
    }

    /// Trains and measures, as far as that has not been done.
    fn run(self, args: &Args) -> Result<()> {
        let folder = self.folder(args);
        let (knn, linear) = (folder.join("knn.json"), folder.join("linear.json"));
        let (train, test) = (args.data.join("train"), args.data.join("test"));
        let last = folder.join(format!("checkpoint_{:04}.safetensors", args.epochs.saturating_sub(1)));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        let log = folder.join("log.txt");
        if !last.exists() {
            let mut command = tool("pretrain", args);
            command.arg(&train).arg("--out").arg(&folder).args(self.row.flags(args.budget()));
            command.args(["--arch", &args.arch, "--on-collapse", "warn"]);
            for (flag, value) in [
                ("--image-size", args.image_size),
                ("--batch-size", args.batch_size),
                ("--epochs", args.epochs),
                ("--seed", self.seed),
            ] {
                command.args([flag, &value.to_string()]);
            }
            if folder.join("last").exists() {
                command.arg("--resume");
            }
            sh::logged(&mut command, &log)?;
        }
        if !knn.exists() {
            let mut command = tool("knn", args);
            command.arg(&last).args([&train, &test]).arg("--json");
            if !(self.seed == 0 && self.row.has_floors()) {
                command.arg("--no-floors");
            }
            keep(&knn, &sh::logged(&mut command, &log)?)?;
        }
        if !linear.exists() {
            let mut command = tool("linear", args);
            command.arg(&last).args([&train, &test]).args(["--views", "cached", "--lr", "auto", "--json"]);
            keep(&linear, &sh::logged(&mut command, &log)?)?;
        }
        Ok(())
    }
}

fn tool(task: &str, args: &Args) -> Command {
    let mut command = sh::command(paths::tool("occlude-train"));
    command.arg(task).args(["--device", &args.device]);
    if args.device == "cpu" && args.jobs > 1 {
        command.args(["--threads", "1", "--workers", "1"]);
    }
    command
}

/// Writes a result under its name once it is whole.
fn keep(path: &Path, text: &str) -> Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    Ok(fs::rename(&part, path)?)
}

/// Runs what is left to run, then prints the table.
pub(crate) fn run(args: &Args) -> Result<()> {
    for part in ["train", "test"] {
        let folder = args.data.join(part);
        ensure!(folder.is_dir(), "`{}` is no folder; hint: DATA has `train` and `test`", folder.display());
    }
    ensure!(args.epochs > 0 && args.seeds > 0, "`--epochs` and `--seeds` are at least 1");
    let rows = choose(&args.rows)?;
    if std::env::var_os("OCCLUDE_BIN_DIR").is_none() {
        sh::show(sh::cargo().args(["build", "--release", "-p", "occlude-train"]))?;
    }
    let jobs = rows.iter().flat_map(|row| (0..args.seeds).map(move |seed| Job { row, seed }));
    let queue = Mutex::new(jobs);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let job = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(job) = job else { return };
                    eprintln!("{} (seed {})", job.row.name, job.seed);
                    if let (Err(error), Ok(mut failed)) = (job.run(args), failed.lock()) {
                        eprintln!("error: {} (seed {}): {error:#}", job.row.name, job.seed);
                        failed.push(job.row.name);
                    }
                }
            });
        }
    });
    print(args, &rows);
    let failed = failed.into_inner().unwrap_or_default();
    ensure!(failed.is_empty(), "these did not run to their end: {}", failed.join(", "));
    Ok(())
}

fn choose(names: &[String]) -> Result<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    let find = |name: &String| match ROWS.iter().find(|row| row.name == name) {
        Some(row) => Ok(row),
        None => bail!("there is no row `{name}`; hint: the rows are {}", ROWS.map(|r| r.name).join(", ")),
    };
    names.iter().map(find).collect()
}

/// Columns of the table: a heading, and where its figure stands.
const COLUMNS: [(&str, Figure); 5] = [
    ("kNN, k=1", Figure::Knn(1)),
    ("k=10", Figure::Knn(10)),
    ("k=20", Figure::Knn(20)),
    ("linear", Figure::Linear("top1")),
    ("linear, mean per class", Figure::Linear("mean_per_class")),
];

#[derive(Clone, Copy)]
enum Figure {
    Knn(u64),
    Linear(&'static str),
}

impl Figure {
    /// In per cent; none where the run has not ended.
    fn read(self, folder: &Path, features: &str) -> Option<f64> {
        let json = |name| -> Option<Value> {
            serde_json::from_str(&fs::read_to_string(folder.join(name)).ok()?).ok()
        };
        let value = match self {
            Self::Knn(k) => {
                let found = json("knn.json")?;
                let mut results = found["results"].as_array()?.iter();
                results.find(|r| r["k"] == k && r["features"] == features)?["top1"].as_f64()?
            }
            Self::Linear(key) => json("linear.json").filter(|_| features == "checkpoint")?[key].as_f64()?,
        };
        Some(100.0 * value)
    }
}

fn print(args: &Args, rows: &[&'static Row]) {
    println!("| row | {} | flags of `pretrain` |", COLUMNS.map(|c| c.0).join(" | "));
    println!("|---|{}---|", "---:|".repeat(COLUMNS.len()));
    for &row in rows {
        let folders: Vec<PathBuf> = (0..args.seeds).map(|seed| Job { row, seed }.folder(args)).collect();
        let cells = COLUMNS.map(|(_, figure)| {
            cell(&folders.iter().filter_map(|f| figure.read(f, "checkpoint")).collect::<Vec<_>>())
        });
        println!("| {} | {} | `{}` |", row.about, cells.join(" | "), row.flags(args.budget()).join(" "));
    }
    for (row, features, about) in [
        ("plain", "untrained", "untrained encoder"),
        ("hp", "untrained", "untrained encoder behind the high-pass filter"),
        ("plain", "pixels", "raw pixels, 16x16"),
    ] {
        let folder = args.out.join(format!("{row}-0"));
        let cells =
            COLUMNS.map(|(_, figure)| cell(&figure.read(&folder, features).into_iter().collect::<Vec<_>>()));
        println!("| {about} | {} | |", cells.join(" | "));
    }
}

/// The mean over the seeds and, of several, how far the farthest lies from it.
pub(crate) fn cell(values: &[f64]) -> String {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let spread = values.iter().map(|v| (v - mean).abs()).fold(0.0, f64::max);
    match values.len() {
        0 => String::new(),
        1 => format!("{mean:.1}"),
        _ => format!("{mean:.1} ±{spread:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(out: &Path) -> Args {
        let out = out.to_str().expect("a name");
        Cli::parse_from(["accuracy", "data", "--out", out]).args
    }

    #[test]
    fn names_are_unique_and_no_flag_comes_twice() {
        let dir = tempfile::tempdir().expect("a folder");
        let args = args(dir.path());
        let names: std::collections::BTreeSet<_> = ROWS.iter().map(|r| r.name).collect();
        assert_eq!(names.len(), ROWS.len());
        for row in &ROWS {
            let flags = row.flags(args.budget());
            let mut given: Vec<_> = flags.iter().filter(|f| f.starts_with("--")).collect();
            let count = given.len();
            given.sort();
            given.dedup();
            assert_eq!(given.len(), count, "{}: {flags:?}", row.name);
        }
        assert!(choose(&["plain".to_owned(), "hp".to_owned()]).is_ok_and(|rows| rows.len() == 2));
        assert!(choose(&["x".to_owned()]).err().is_some_and(|e| e.to_string().contains("mixmask")));
    }

    #[test]
    fn the_plan_has_every_row_at_every_size() {
        let plan = plan(100);
        let rows = plan["rows"].as_array().expect("rows");
        assert_eq!(rows.len(), ROWS.len() * SIZES.len());
        let flags = |row: &Value| row["flags"].as_array().map_or(0, Vec::len);
        assert!(rows.iter().all(|row| row["epochs"] == 100 && flags(row) >= 2));
        let blur = rows.iter().find(|row| row["row"] == "blur").expect("the row");
        let words: Vec<_> =
            blur["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(words.windows(2).any(|pair| pair == ["--momentum-warmup-epochs", "100"]), "{words:?}");
        assert_eq!(plan["tiny"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn figures_of_the_seeds_are_put_together() {
        assert_eq!(
            (cell(&[]), cell(&[41.26]), cell(&[40.0, 42.0])),
            (String::new(), "41.3".into(), "41.0 ±1.0".into())
        );
        let dir = tempfile::tempdir().expect("a folder");
        let knn = r#"{"results": [{"features": "untrained", "k": 10, "top1": 0.1}, {"features": "checkpoint", "k": 10, "top1": 0.25}]}"#;
        fs::write(dir.path().join("knn.json"), knn).expect("written");
        assert_eq!(Figure::Knn(10).read(dir.path(), "checkpoint"), Some(25.0));
        assert_eq!(Figure::Knn(10).read(dir.path(), "untrained"), Some(10.0));
        assert_eq!(Figure::Knn(20).read(dir.path(), "checkpoint"), None);
        assert_eq!(Figure::Linear("top1").read(dir.path(), "checkpoint"), None);
        fs::write(dir.path().join("linear.json"), r#"{"top1": 0.5}"#).expect("written");
        assert_eq!(Figure::Linear("top1").read(dir.path(), "checkpoint"), Some(50.0));
    }
}
