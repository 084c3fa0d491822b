//! How long runs take: what finished ones took, else what a few steps say.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

use super::experiment::{Data, Experiment, Run, read, write};
use super::job::{ABOUT, KNN, LINEAR};
use super::stats::mean;
use crate::sh;

/// Steps that are measured, after one that is not.
const STEPS: &str = "3";
/// Passes over the data set that the evaluations cost, in passes of training: they only go forward.
const EVALUATION: f64 = 2.0;

/// Seconds that a run took; none where it has not ended.
fn took(experiment: &Experiment, run: Run<'_>) -> Option<f64> {
    let folder = run.folder(&experiment.out);
    let ended = [KNN, LINEAR].iter().all(|name| folder.join(name).exists());
    read(&folder.join(ABOUT)).ok()??["seconds"].as_f64().filter(|_| ended)
}

/// Mean of the seconds that the arm's runs on that data set took.
fn of_finished(experiment: &Experiment, run: Run<'_>) -> Option<f64> {
    let seeds = (0..experiment.seeds).filter_map(|seed| took(experiment, Run { seed, ..run }));
    mean(&seeds.collect::<Vec<_>>())
}

/// Seconds of a run, by the arm's finished runs, else by those of all arms on that data set; none where nothing has ended.
pub(super) fn expected(experiment: &Experiment, run: Run<'_>) -> Option<f64> {
    let others = || {
        let all = experiment.arms.iter().filter_map(|arm| of_finished(experiment, Run { arm, ..run }));
        mean(&all.collect::<Vec<_>>())
    };
    of_finished(experiment, run).or_else(others)
}

/// Time for these runs, `jobs` side by side; none where nothing has ended that tells.
pub(super) fn left(experiment: &Experiment, runs: &[Run<'_>]) -> Option<Duration> {
    let seconds = runs.iter().map(|run| expected(experiment, *run)).sum::<Option<f64>>()?;
    Some(Duration::from_secs_f64(seconds / experiment.jobs as f64))
}

/// A line of the plan.
pub(super) struct Estimate {
    /// Images a second in training; none where finished runs say how long they take.
    pub(super) rate: Option<f64>,
    /// Of one run.
    pub(super) seconds: f64,
}

/// How long a run takes: by finished ones of the arm, else by a few steps, whose rate is kept in the experiment's folder.
///
/// # Errors
/// Where the steps cannot run.
pub(super) fn estimate(experiment: &Experiment, run: Run<'_>) -> Result<Estimate> {
    if let Some(seconds) = of_finished(experiment, run) {
        return Ok(Estimate { rate: None, seconds });
    }
    let rate = rate(experiment, run)?;
    let flags = experiment.flags(run)?;
    let (epochs, batch) =
        (flags.number("--epochs").unwrap_or(1), flags.number("--batch-size").unwrap_or(1).max(1));
    let Data { pictures, .. } = run.data;
    let trained = f64::from(epochs * (pictures / batch) * batch);
    Ok(Estimate { rate: Some(rate), seconds: (trained + EVALUATION * f64::from(*pictures)) / rate })
}

/// Images a second of the run's own steps.
fn rate(experiment: &Experiment, run: Run<'_>) -> Result<f64> {
    let kept = experiment.out.join("speed.json");
    let mut known = read(&kept)?.unwrap_or_else(|| json!({}));
    let flags = experiment.flags(Run { seed: 0, ..run })?;
    let key = format!("{}: {flags}", run.data.name);
    if let Some(rate) = known[&key].as_f64() {
        return Ok(rate);
    }
    let file: PathBuf = experiment.out.join("profile.json");
    let mut command = experiment.tool("profile");
    command.arg(run.data.part("train")).args(flags.words());
    command.args(["--warmup", "1", "--steps", STEPS, "--json"]).arg(&file);
    // of a call that was killed; the trainer replaces nothing
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    sh::capture(&mut command)?;
    let measured: Value = read(&file)?.context("`occlude-train profile` wrote nothing")?;
    std::fs::remove_file(&file)?;
    let rate = measured["images_per_second"].as_f64().filter(|r| *r > 0.0);
    let rate = rate.context("`occlude-train profile` measured no speed")?;
    known[&key] = json!(rate);
    write(&kept, &known)?;
    Ok(rate)
}

/// `3 h 05 min`, `12 min`, `40 s`.
pub(super) fn span(seconds: f64) -> String {
    let s = seconds.round().max(0.0) as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s.div_ceil(60)),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}
