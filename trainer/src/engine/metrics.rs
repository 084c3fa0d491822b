//! Metrics of a run: JSON lines and TensorBoard events in files, a progress bar on the terminal.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use occlude_report::events::Writer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::terminal::is_quiet;

/// `metrics.jsonl`, one object a line, appended and flushed; the same numbers as a TensorBoard event file; and
/// `report.html`.
pub(super) struct Log {
    run: PathBuf,
    /// Absent where another process writes.
    files: Option<Files>,
}

struct Files {
    metrics: File,
    events: Writer,
}

impl Log {
    /// Opens the files in the folder of the run, after taking out of `metrics.jsonl` what a killed run wrote beyond
    /// `step`: steps that will be made again, and a torn last line.
    ///
    /// # Errors
    /// Where a file cannot be read or written.
    pub(super) fn open(run: &Path, step: u64) -> Result<Self> {
        let path = &run.join("metrics.jsonl");
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let kept: Vec<&str> = text.lines().filter(|line| belongs(line, step)).collect();
                if kept.len() < text.lines().count() {
                    occlude_output::write(path, |w| kept.iter().try_for_each(|line| writeln!(w, "{line}")))
                        .with_context(|| format!("cannot write `{}`", path.display()))?;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read `{}`", path.display())),
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("cannot write `{}`", path.display()))?;
        let events = if step == 0 { Writer::create(run) } else { Writer::resume(run, step) }?;
        Ok(Self { run: run.to_owned(), files: Some(Files { metrics: file, events }) })
    }

    /// Writes nothing: another process does.
    pub(super) fn silent(run: &Path) -> Self {
        Self { run: run.to_owned(), files: None }
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&mut self, value: &Value) -> Result<()> {
        let Some(files) = &mut self.files else { return Ok(()) };
        let line = format!("{value}\n");
        files.scalars(value);
        files.events.flush()?;
        files
            .metrics
            .write_all(line.as_bytes())
            .context("cannot write `metrics.jsonl`; hint: is the disk full? `--resume` continues from the last checkpoint")
    }

    /// Adds a picture of the run's folder, if it is there.
    ///
    /// # Errors
    /// Where the event file cannot be written.
    pub(super) fn picture(&mut self, name: &str, step: u64) -> Result<()> {
        let Some(Files { events, .. }) = &mut self.files else { return Ok(()) };
        let Ok(png) = std::fs::read(self.run.join(name)) else { return Ok(()) };
        let Ok((width, height)) = image::image_dimensions(self.run.join(name)) else { return Ok(()) };
        events.image(name.trim_end_matches(".png"), step, now(), &png, width, height);
        Ok(events.flush()?)
    }

    /// Writes the page of the run anew. That it cannot be written is no reason to stop.
    pub(super) fn report(&self) {
        if self.files.is_none() {
            return;
        }
        if let Err(error) = occlude_report::html::write(&self.run) {
            tell!("warning: no report: {error}");
        }
    }
}

impl Files {
    /// The numbers of a line, named `step/loss`, `epoch/loss`, `knn/top1`.
    fn scalars(&mut self, row: &Value) {
        let (Some(kind), Some(fields)) = (row["kind"].as_str(), row.as_object()) else { return };
        let step = row["step"].as_u64().unwrap_or_default();
        for (name, value) in
            fields.iter().filter(|(name, _)| !["kind", "step", "epoch"].contains(&name.as_str()))
        {
            match value {
                Value::Number(n) => {
                    let value = n.as_f64().unwrap_or(f64::NAN);
                    self.events.scalar(&format!("{kind}/{name}"), step, now(), value);
                }
                Value::String(text) if name == "message" => self.events.text(kind, step, now(), text),
                _ => {}
            }
        }
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0.0, |d| d.as_secs_f64())
}

/// Whether a line tells of a step up to `step`; events are kept whatever their step.
fn belongs(line: &str, step: u64) -> bool {
    serde_json::from_str::<Value>(line)
        .is_ok_and(|row| row["kind"] == "event" || row["step"].as_u64().is_some_and(|at| at <= step))
}

/// Averages of the metrics of an epoch, or of the stretch since the last line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    sums: Vec<(String, f64)>,
    samples: usize,
    images: usize,
    seconds: f64,
    waited: f64,
}

impl Meter {
    /// Counts a batch's images, the seconds it took, and those of them that were spent waiting for data.
    pub(super) fn count(&mut self, images: usize, seconds: f64, waited: f64) {
        self.images += images;
        self.seconds += seconds;
        self.waited += waited;
    }

    /// Adds values read from the device.
    pub(super) fn add(&mut self, values: &[(String, f64)]) {
        self.samples += 1;
        for (name, value) in values {
            match self.sums.iter_mut().find(|(n, _)| n == name) {
                Some((_, sum)) => *sum += value,
                None => self.sums.push((name.clone(), *value)),
            }
        }
    }

    /// Mean of a metric over what was read.
    pub(super) fn mean(&self, name: &str) -> Option<f64> {
        self.sums.iter().find(|(n, _)| n == name).map(|(_, sum)| sum / self.samples.max(1) as f64)
    }

    /// Images a second.
    pub(super) fn rate(&self) -> f64 {
        self.images as f64 / self.seconds.max(1e-9)
    }

    /// Share of the time that was spent waiting for data.
    pub(super) fn data_wait(&self) -> f64 {
        self.waited / self.seconds.max(1e-9)
    }

    /// Everything as JSON fields.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let n = self.samples.max(1) as f64;
        let mut out: Map<_, _> = self.sums.iter().map(|(name, sum)| (name.clone(), json!(sum / n))).collect();
        out.insert("images_per_s".into(), json!(self.rate()));
        out.insert("data_wait".into(), json!(self.data_wait()));
        out.insert("seconds".into(), json!(self.seconds));
        out
    }
}

/// A bar on a terminal, a line an epoch elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    epochs: usize,
    total: u64,
    started: (Instant, u64),
}

impl Progress {
    /// Over `total` steps, of which `done` lie behind.
    pub(super) fn new(total: u64, done: u64, epochs: usize) -> Self {
        let terminal = std::io::stderr().is_terminal() && !is_quiet();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} steps, {msg}") {
            bar.set_style(style);
        }
        bar.set_position(done);
        Self { bar, terminal, epochs, total, started: (Instant::now(), done) }
    }

    /// Moves to `step`; backwards after a rollback.
    pub(super) fn at(&mut self, step: u64) {
        if step < self.bar.position() {
            self.started = (Instant::now(), step);
        }
        self.bar.set_position(step);
    }

    /// Time left at the pace since the start: training, evaluation and saving together.
    fn left(&self) -> Option<Duration> {
        let (since, from) = self.started;
        let step = self.bar.position();
        let done = step.checked_sub(from).filter(|&n| n > 0)?;
        Some(since.elapsed().mul_f64(self.total.saturating_sub(step) as f64 / done as f64))
    }

    /// Says how it goes.
    pub(super) fn show(&self, epoch: usize, meter: &Meter) {
        let value = |name| meter.mean(name).unwrap_or(f64::NAN);
        let left = self.left().map_or_else(String::new, |d| format!(", {} left", span(d)));
        // methods without a softmax tell that of the batch, or none
        let accuracy = meter.mean("acc1").or_else(|| meter.mean("batch_acc1"));
        let accuracy = accuracy.map_or_else(String::new, |a| format!(", acc {:.1} %", 100.0 * a));
        let message = format!(
            "epoch {}/{}, loss {:.3}{accuracy}, {:.0} images/s, {:.0} % waiting for data{left}",
            epoch + 1,
            self.epochs,
            value("loss"),
            meter.rate(),
            100.0 * meter.data_wait()
        );
        self.bar.set_message(message);
    }

    /// Ends an epoch: a line that stays.
    pub(super) fn epoch(&self, epoch: usize, meter: &Meter) {
        self.show(epoch, meter);
        let spread = meter.mean("feature_std").unwrap_or(f64::NAN);
        self.say(&format!("{}, feature std {spread:.2}", self.bar.message()));
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        if self.terminal {
            self.bar.println(line);
        } else {
            tell!("{line}");
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A duration as people say it: `3 d 4 h`, `2 h 05 min`, `4 min 10 s`.
fn span(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86400 => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time() {
        for (seconds, text) in
            [(7, "7 s"), (250, "4 min 10 s"), (7500, "2 h 05 min"), (273_600 + 500, "3 d 4 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_log_forgets_what_comes_again_and_a_torn_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("metrics.jsonl");
        let lines = [
            r#"{"kind":"step","step":10}"#,
            r#"{"kind":"event","step":15}"#,
            r#"{"kind":"step","step":20}"#,
            r#"{"kind":"epo"#,
        ];
        std::fs::write(&path, lines.join("\n")).expect("written");
        Log::open(dir.path(), 10)
            .expect("opened")
            .write(&json!({ "kind": "step", "step": 11 }))
            .expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        let kept: Vec<&str> = text.lines().collect();
        assert_eq!(kept, [lines[0], lines[1], r#"{"kind":"step","step":11}"#]);
    }

    #[test]
    fn meters_average_and_add_up() {
        let mut meter = Meter::default();
        meter.count(64, 2.0, 0.5);
        meter.count(64, 2.0, 0.5);
        meter.add(&[("loss".into(), 1.0)]);
        meter.add(&[("loss".into(), 3.0)]);
        assert_eq!((meter.mean("loss"), meter.rate(), meter.data_wait()), (Some(2.0), 32.0, 0.25));
        assert_eq!(meter.mean("nothing"), None);
    }
}
