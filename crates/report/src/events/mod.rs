//! TensorBoard event files, append-only.
//!
//! An event file is a sequence of TFRecords that hold `tensorflow.Event` messages, the first of which names the
//! version of the format:
//! <https://github.com/tensorflow/tensorboard/blob/master/tensorboard/compat/proto/event.proto>.

mod proto;
mod record;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use crate::Error;
use proto::{Event, Image, Summary, Tensor, Value, What};

/// What the names of event files begin with.
const PREFIX: &str = "events.out.tfevents.";

/// An event file under construction.
///
/// Calls collect records in memory; [`flush`](Writer::flush) appends them to the file in one write. What was not
/// flushed is written when the writer goes, where errors go unseen.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
}

impl Writer {
    /// Begins a new event file in `dir`, which is made where it is missing. Its name sorts behind those of the event
    /// files that are there, because TensorBoard reads them in that order; what these hold is dropped.
    ///
    /// # Errors
    /// Where the folder or the file cannot be made or written.
    pub fn create(dir: &Path) -> Result<Self, Error> {
        Self::start(dir, 0)
    }

    /// Begins a new event file of a run that goes on after `step` steps: TensorBoard then drops what earlier files of
    /// the folder hold of later steps.
    ///
    /// # Errors
    /// Where the folder or the file cannot be made or written.
    pub fn resume(dir: &Path, step: u64) -> Result<Self, Error> {
        // TensorBoard drops the named step too, which an earlier file may rightly hold
        Self::start(dir, step.saturating_add(1))
    }

    /// Begins a file whose session starts at `step`. Every file says so, for TensorBoard takes the first start that it
    /// sees for the run's own.
    fn start(dir: &Path, step: u64) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        let seconds = now().max(newest(dir)?.map_or(0.0, |newest| newest as f64 + 1.0));
        let (path, file) = begin(dir, seconds as u64)?;
        let mut writer = Self { path, file, pending: Vec::new() };
        writer.push(seconds, 0, What::FileVersion("brain.Event:2".into()));
        writer.push(seconds, step, What::SessionLog(proto::SessionLog { status: proto::SESSION_START }));
        writer.flush()?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number at `step`, `seconds` since the epoch. TensorBoard keeps 32 bits of it.
    pub fn scalar(&mut self, tag: &str, step: u64, seconds: f64, value: f64) {
        self.summary(step, seconds, Value { simple_value: Some(value as f32), ..Value::of(tag) });
    }

    /// A picture: the bytes of a PNG file of `width` x `height` pixels.
    pub fn image(&mut self, tag: &str, step: u64, seconds: f64, png: &[u8], width: u32, height: u32) {
        let side = |pixels: u32| i32::try_from(pixels).unwrap_or(i32::MAX);
        let image =
            Image { height: side(height), width: side(width), colorspace: proto::RGB, encoded: png.to_vec() };
        self.summary(step, seconds, Value { image: Some(image), ..Value::of(tag) });
    }

    /// Markdown.
    pub fn text(&mut self, tag: &str, step: u64, seconds: f64, markdown: &str) {
        let value = Value {
            tensor: Some(Tensor::text(markdown)),
            metadata: Some(proto::Metadata::plugin("text")),
            ..Value::of(tag)
        };
        self.summary(step, seconds, value);
    }

    /// Appends what was collected to the file.
    ///
    /// # Errors
    /// Where the file cannot be written; what was collected is then lost, so that a full disk does not become a full
    /// memory.
    pub fn flush(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written.map_err(Error::io("write", &self.path))
    }

    fn summary(&mut self, step: u64, seconds: f64, value: Value) {
        self.push(seconds, step, What::Summary(Summary { values: vec![value] }));
    }

    fn push(&mut self, seconds: f64, step: u64, what: What) {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time: seconds, step, what: Some(what) };
        record::append(&mut self.pending, &event.encode_to_vec());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // whoever wants to know calls `flush`
        let _ = self.flush();
    }
}

/// Seconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The time in the name of the newest event file of `dir`.
fn newest(dir: &Path) -> Result<Option<u64>, Error> {
    let entries = fs::read_dir(dir).map_err(Error::io("read", dir))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    // a name with a time that will not be reached is not the trainer's
    let times = names.filter_map(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
    Ok(times.filter(|&seconds: &u64| seconds < 9_999_999_999).max())
}

fn begin(dir: &Path, seconds: u64) -> Result<(PathBuf, File), Error> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let host = gethostname::gethostname();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let host: String = host.to_string_lossy().chars().take(64).map(plain).collect();
    loop {
        let n = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{PREFIX}{seconds:010}.{host}.{}.{n}", std::process::id()));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(reason) => return Err(Error::Io { action: "create", path, reason }),
        }
    }
}

#[cfg(test)]
mod tests;
