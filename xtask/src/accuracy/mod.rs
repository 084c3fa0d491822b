//! `cargo xtask accuracy`: arms of an experiment beside their controls, paired by seed, on several data sets, in the
//! background and for as long as it takes.

mod arms;
mod background;
mod experiment;
mod figures;
mod flags;
mod job;
mod pairing;
mod rows;
mod speed;
mod stats;
mod table;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::build;
use arms::Collection;
use background::End;
use experiment::{Experiment, Run};
use figures::{Figures, Measure};
use job::Job;
use rows::Budget;
use speed::span;

/// Options of `cargo xtask accuracy`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folders with `train` and `test`, each with one sub-folder per class
    #[arg(required = true, value_name = "DATA")]
    data: Vec<PathBuf>,
    /// Folder of the runs; the same command continues there, wherever it was
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Arms to run, if none are named
    #[arg(long, value_enum, default_value = "experiment")]
    set: Collection,
    /// Arms by name
    #[arg(long, alias = "rows", value_name = "NAME", value_delimiter = ',')]
    arms: Vec<String>,
    /// A further arm, with the flags of another and some of its own instead: `hot=plain --temperature 0.2`
    #[arg(long = "arm", value_name = "NAME=ARM FLAGS")]
    own: Vec<String>,
    /// Flags of `pretrain` that all arms have unless they set something else: `'--views 1,1,2x16'`
    #[arg(
        long,
        value_name = "FLAGS",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    shared: String,
    /// Seeds of each arm, from 0; the runs of one seed are pairs
    #[arg(long, default_value_t = 5)]
    seeds: u32,
    /// Side of the pictures
    #[arg(long, default_value_t = 64)]
    image_size: u32,
    /// Stage whose cells are masked: 3 has an eighth as many cells along a side as the picture has pixels
    #[arg(long, default_value_t = 3)]
    saliency_stage: u32,
    /// Steps of each run, rounded up to whole epochs
    #[arg(long, default_value_t = 3000)]
    steps: u32,
    /// Epochs of each run, instead of steps
    #[arg(long, conflicts_with = "steps")]
    epochs: Option<u32>,
    /// Pictures per batch
    #[arg(long, default_value_t = 128)]
    batch_size: u32,
    /// Architecture
    #[arg(long, default_value = "resnet18")]
    arch: String,
    /// Numbers that whitened features have, of the encoder and of the floors
    #[arg(long, value_name = "DIM", default_value_t = 128)]
    whiten: u32,
    /// `auto`, `cpu`, `cuda` or `cuda:N`; `auto` uses CUDA if available
    #[arg(long, default_value = "auto")]
    device: String,
    /// Runs side by side, each with one thread on the CPU; default: 1, on a GPU 4
    #[arg(long)]
    jobs: Option<usize>,
    /// Threads of a run; default: all processors, with `--jobs` one
    #[arg(long)]
    threads: Option<u32>,
    /// Minutes after which to stop; the same command continues
    #[arg(long)]
    minutes: Option<f64>,
    /// Print what would run and how long it takes, from the measured speed of a few steps, and stop
    #[arg(long)]
    plan: bool,
    /// Do not take the lowest priority
    #[arg(long)]
    keep_priority: bool,
    /// Delete the checkpoints of a run when it has been measured
    #[arg(long)]
    delete_checkpoints: bool,
}

/// Sides of the pictures that a GPU is asked for, each with the stage whose cells are masked: 4 and 6 along a side.
const SIZES: [(u32, u32); 2] = [(64, 4), (96, 4)];

/// The methods as data, for a machine that has no `cargo`: what to run there with `epochs` each, and the shortest form of it.
pub(crate) fn plan(epochs: u32) -> Value {
    let entries = |size: u32, batch: u32, budget: Budget| {
        arms::plan(budget).map(move |(row, about, flags, floors)| {
            json!({
                "row": row, "about": about, "size": size, "epochs": budget.epochs, "batch": batch,
                "floors": floors, "flags": flags,
            })
        })
    };
    let rows = SIZES
        .iter()
        .flat_map(|&(size, saliency_stage)| entries(size, 128, Budget { saliency_stage, epochs }));
    let shortest = Budget { saliency_stage: 3, epochs: 1 };
    let tiny = entries(32, 8, shortest).filter(|entry| entry["row"] == "hp");
    json!({ "arch": "resnet18", "rows": rows.collect::<Vec<_>>(), "tiny": tiny.collect::<Vec<_>>() })
}

/// Runs what is left to run, then prints the tables.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut experiment = Experiment::open(args)?;
    if !args.keep_priority {
        eprintln!("{}", background::step_aside());
    }
    if std::env::var_os("OCCLUDE_BIN_DIR").is_none() {
        build::tools()?;
    }
    fs::create_dir_all(&experiment.out)
        .with_context(|| format!("cannot create `{}`", experiment.out.display()))?;
    let _lock = background::lock(&experiment.out)?;
    for note in experiment.prepare(args.jobs)? {
        eprintln!("{note}");
    }
    for run in experiment.runs() {
        Job::new(&experiment, run, None).begun()?;
    }
    if args.plan {
        return say_plan(&experiment);
    }
    let deadline = args.minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let failed = work(&experiment, deadline, args.delete_checkpoints);
    publish(&experiment)?;
    ensure!(failed.is_empty(), "these did not run to their end: {}", failed.join("; "));
    Ok(())
}

/// Does what is left, `jobs` runs at a time; the names of those that failed.
fn work(experiment: &Experiment, deadline: Option<Instant>, delete_checkpoints: bool) -> Vec<String> {
    let runs = experiment.runs();
    let done = |run: &Run<'_>| Job::new(experiment, *run, deadline).done();
    let (finished, open): (Vec<Run<'_>>, Vec<Run<'_>>) = runs.iter().copied().partition(done);
    eprintln!("{} of {} runs are done", finished.len(), runs.len());
    let queue = Mutex::new(open.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..experiment.jobs {
            scope.spawn(|| {
                loop {
                    if deadline.is_some_and(|at| Instant::now() >= at) {
                        return;
                    }
                    let run = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(run) = run else { return };
                    match Job::new(experiment, run, deadline).work(delete_checkpoints) {
                        Ok(End::Done) => eprintln!("{}", progress(experiment, run)),
                        Ok(End::Stopped) => eprintln!("{}: stopped, because the time is up", run.name()),
                        Err(error) => {
                            eprintln!("error: {}: {error:#}", run.name());
                            failed.lock().map(|mut failed| failed.push(run.name())).unwrap_or_default();
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_default()
}

/// A line for a run that has ended.
fn progress(experiment: &Experiment, run: Run<'_>) -> String {
    let runs = experiment.runs();
    let open: Vec<Run<'_>> =
        runs.iter().filter(|run| !Job::new(experiment, **run, None).done()).copied().collect();
    let figures = Figures::read(experiment, run.data);
    let value = |measure: Measure| {
        let found = figures.as_ref().ok()?.of(&run.arm.name).find(|f| f.seed == run.seed)?.figure(measure)?;
        Some(format!("{} {found:.1}", measure.name()))
    };
    let values: Vec<String> = figures::MEASURES.into_iter().filter_map(value).collect();
    let left = match speed::left(experiment, &open) {
        Some(left) if !open.is_empty() => format!(", about {} left", span(left.as_secs_f64())),
        _ => String::new(),
    };
    format!("{}: {}; {} of {} runs{left}", run.name(), values.join(", "), runs.len() - open.len(), runs.len())
}

/// Prints the tables, and keeps them in the experiment's folder, as JSON, too.
fn publish(experiment: &Experiment) -> Result<()> {
    let all =
        experiment.data.iter().map(|data| Figures::read(experiment, data)).collect::<Result<Vec<_>>>()?;
    let (text, value) = (table::markdown(experiment, &all), table::json(experiment, &all));
    fs::write(experiment.out.join("table.md"), &text)?;
    experiment::write(&experiment.out.join("table.json"), &value)?;
    print!("{text}");
    Ok(())
}

/// Prints what is left to run, and how long it takes.
fn say_plan(experiment: &Experiment) -> Result<()> {
    let runs = experiment.runs();
    let mut total = 0.0;
    println!("| data | arm | runs left | images/s | a run | all |\n|---|---|---:|---:|---:|---:|");
    for data in &experiment.data {
        for arm in &experiment.arms {
            let of_arm = |run: &&Run<'_>| run.data == data && run.arm == arm;
            let left =
                runs.iter().filter(of_arm).filter(|run| !Job::new(experiment, **run, None).done()).count();
            if left == 0 {
                println!("| {} | `{}` | 0 | | | |", data.name, arm.name);
                continue;
            }
            let one = speed::estimate(experiment, Run { data, arm, seed: 0 })?;
            let all = one.seconds * left as f64;
            total += all;
            let rate = one.rate.map_or("finished runs".to_owned(), |rate| format!("{rate:.0}"));
            println!(
                "| {} | `{}` | {left} | {rate} | {} | {} |",
                data.name,
                arm.name,
                span(one.seconds),
                span(all)
            );
        }
    }
    let jobs = experiment.jobs;
    println!(
        "\nAbout {} in all, one run after the other; the speed is the present one, with whatever else is running.",
        span(total)
    );
    if jobs > 1 {
        println!("{jobs} runs side by side take less: how much less was not measured.");
    }
    for arm in &experiment.arms {
        for data in &experiment.data {
            println!(
                "- `{}` on {}: `{}`",
                arm.name,
                data.name,
                experiment.flags(Run { data, arm, seed: 0 })?
            );
        }
    }
    Ok(())
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
mod tests;
