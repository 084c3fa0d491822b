//! Metrics of a run: JSON lines in a file, a progress bar on the terminal.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

/// `metrics.jsonl`: one object a line, appended and flushed.
pub(super) struct Log {
    file: File,
}

impl Log {
    /// Opens `path` for appending.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.with_context(|| format!("cannot write `{}`", path.display()))? })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}").context("cannot write `metrics.jsonl`; hint: is the disk full?")
    }
}

/// Averages of an epoch's metrics, and of the stretch since the last line.
pub(super) struct Meter {
    sums: Vec<(String, f64)>,
    samples: usize,
    started: Instant,
    images: usize,
    waited: f64,
}

impl Meter {
    /// Starts the clock.
    pub(super) fn start() -> Self {
        Self { sums: Vec::new(), samples: 0, started: Instant::now(), images: 0, waited: 0.0 }
    }

    /// Counts a step's images and the seconds it waited for data.
    pub(super) fn step(&mut self, images: usize, waited: f64) {
        self.images += images;
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

    /// Images a second since the start.
    pub(super) fn rate(&self) -> f64 {
        self.images as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    /// Everything as JSON fields.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let seconds = self.started.elapsed().as_secs_f64();
        let n = self.samples.max(1) as f64;
        let mut out: Map<_, _> = self.sums.iter().map(|(name, sum)| (name.clone(), json!(sum / n))).collect();
        out.insert("images_per_s".into(), json!(self.rate()));
        out.insert("data_wait".into(), json!(self.waited / seconds.max(1e-9)));
        out.insert("seconds".into(), json!(seconds));
        out
    }
}

/// A bar on a terminal, a line an epoch elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
    terminal: bool,
    epochs: usize,
}

impl Progress {
    /// Over `total` steps, of which `done` lie behind.
    pub(super) fn new(total: u64, done: u64, epochs: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} steps, {msg}, eta {eta}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(done);
        bar.reset_eta();
        Self { bar, terminal, epochs }
    }

    /// One step further.
    pub(super) fn step(&self) {
        self.bar.inc(1);
    }

    /// Says how it goes.
    pub(super) fn show(&self, epoch: usize, meter: &Meter) {
        let value = |name| meter.mean(name).unwrap_or(f64::NAN);
        let message = format!(
            "epoch {}/{}, loss {:.3}, acc {:.1} %, {:.0} images/s",
            epoch + 1,
            self.epochs,
            value("loss"),
            100.0 * value("acc1"),
            meter.rate()
        );
        self.bar.set_message(message);
    }

    /// Ends an epoch: a line that stays.
    pub(super) fn epoch(&self, epoch: usize, meter: &Meter) {
        self.show(epoch, meter);
        let spread = meter.mean("feature_std").unwrap_or(f64::NAN);
        let line = format!("{}, feature std {spread:.2}", self.bar.message());
        if self.terminal {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
