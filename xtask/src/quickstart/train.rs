//! The pretraining step: starts the trainer and narrates its metrics.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{paths, sh};

/// Smallest number of epochs between two lines of narration.
const LINES: usize = 10;
/// The trainer's batch where the data allow it.
const BATCH: usize = 128;

/// What metric lines call the share of views that were told apart, and what it is called here.
pub(super) const ACCURACIES: [(&str, &str); 2] =
    [("acc1", "contrastive accuracy"), ("batch_acc1", "images told apart")];

/// What to train.
pub(super) struct Plan<'a> {
    pub(super) recipe: &'a str,
    /// ONNX file of the network to learn from, if the recipe has one.
    pub(super) teacher: Option<&'a Path>,
    pub(super) arch: &'a str,
    pub(super) image_size: &'a str,
    pub(super) epochs: usize,
    /// Number of training images.
    pub(super) images: usize,
}

/// What a finished run left.
pub(super) struct Trained {
    pub(super) checkpoint: PathBuf,
    /// The trainer's page about it.
    pub(super) report: PathBuf,
    pub(super) epochs: Vec<Value>,
    pub(super) seconds: f64,
}

/// Runs `occlude-train pretrain`; prints a line for about every tenth of the epochs.
pub(super) fn pretrain(plan: &Plan<'_>, data: &Path, out: &Path, log: &Path) -> Result<Trained> {
    let mut command = sh::command(paths::tool("occlude-train"));
    command.arg("pretrain").arg(data).arg("--out").arg(out);
    command.args(["--recipe", plan.recipe, "--arch", plan.arch, "--image-size", plan.image_size]);
    command.args(["--epochs", &plan.epochs.to_string()]);
    // A batch must not be larger than the data.
    command.args(["--batch-size", &BATCH.min(plan.images).to_string()]);
    if let Some(teacher) = plan.teacher {
        command.arg("--teacher").arg(teacher);
    }
    let file = sh::open_log(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let start = Instant::now();
    let mut child = command.spawn().with_context(|| format!("could not start `{}`", sh::line(&command)))?;
    let status = follow(&mut child, &out.join("metrics.jsonl"), plan.epochs)?;
    if !status.success() {
        bail!("{}", sh::failure(&sh::line(&command), &status.to_string(), log));
    }
    collect(out, start.elapsed().as_secs_f64())
}

fn follow(child: &mut Child, metrics: &Path, epochs: usize) -> Result<std::process::ExitStatus> {
    let every = epochs.div_ceil(LINES);
    let mut shown = 0;
    loop {
        let status = child.try_wait()?;
        let done = read(metrics, "epoch");
        for epoch in done.iter().skip(shown) {
            shown += 1;
            if shown % every == 0 || shown == epochs {
                println!("{:17}{}", "", narrate(epoch, shown, epochs));
            }
        }
        if let Some(status) = status {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(250));
    }
}

fn narrate(epoch: &Value, number: usize, epochs: usize) -> String {
    let figure = |key: &str| epoch.get(key).and_then(Value::as_f64);
    let mut line = format!("epoch {number:>3}/{epochs}");
    if let Some(loss) = figure("loss") {
        line += &format!("   loss {loss:.3}");
    }
    for (key, name) in ACCURACIES {
        if let Some(share) = figure(key) {
            line += &format!("   {name} {:.1} %", 100.0 * share);
        }
    }
    if let Some(speed) = figure("images_per_s") {
        line += &format!("   {speed:.0} images/s");
    }
    line
}

/// The lines of one kind; a line that is still being written is left for the next look.
fn read(metrics: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(metrics).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("kind").and_then(Value::as_str) == Some(kind)).collect()
}

fn collect(out: &Path, seconds: f64) -> Result<Trained> {
    let last = out.join("last");
    let newest = fs::read_to_string(&last).with_context(|| format!("no checkpoint: `{}`", last.display()))?;
    Ok(Trained {
        checkpoint: out.join(newest.trim()),
        report: out.join("report.html"),
        epochs: read(&out.join("metrics.jsonl"), "epoch"),
        seconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_line_is_left_out() {
        let path = std::env::temp_dir().join(format!("occlude-metrics-{}.jsonl", std::process::id()));
        fs::write(&path, "{\"kind\":\"epoch\",\"loss\":1.5}\n{\"kind\":\"step\"}\n{\"kind\":\"epo").unwrap();
        let epochs = read(&path, "epoch");
        assert_eq!(epochs.len(), 1);
        assert_eq!(narrate(&epochs[0], 2, 10), "epoch   2/10   loss 1.500");
        assert!(read(&path.join("nowhere"), "epoch").is_empty());
        fs::remove_file(path).unwrap();
    }
}
