//! What a run's folder says.

mod log;

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::Error;
pub(crate) use log::{Event, Log, Rows};

/// Bytes of a picture that go into a page.
const PICTURE_BYTES: u64 = 16 << 20;
/// Bytes of a JSON file that are read.
const JSON_BYTES: u64 = 4 << 20;
/// How long a run may be silent before it counts as stopped.
const SILENCE: Duration = Duration::from_secs(180);

/// Whether a run still goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing was logged yet, and not long ago either.
    Starting,
    /// It logged a moment ago.
    Running,
    /// All epochs are done.
    Finished,
    /// Neither.
    Stopped,
}

/// A picture of a run.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    /// `first_batch` or `neighbours`.
    pub(crate) name: &'static str,
    /// A PNG file.
    pub(crate) png: Vec<u8>,
    /// Its pixels.
    pub(crate) width: u32,
    /// Its pixels.
    pub(crate) height: u32,
}

/// A run's folder, read.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The folder's name.
    pub(crate) name: String,
    /// `config.json`.
    pub(crate) config: Option<Value>,
    /// `environment.json`.
    pub(crate) environment: Option<Value>,
    /// `metrics.jsonl`.
    pub(crate) log: Log,
    /// Those that are there.
    pub(crate) pictures: Vec<Picture>,
    /// Whether it still goes.
    pub(crate) state: State,
    /// When it logged last.
    pub(crate) touched: Option<SystemTime>,
    /// Files that are there and could not be read, for people.
    pub(crate) trouble: Vec<String>,
}

impl Run {
    /// Reads a folder. A file that cannot be understood is named in `trouble`, for the rest may still be shown.
    ///
    /// # Errors
    /// Where neither configuration nor metrics are there, or the metrics cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let metrics = dir.join("metrics.jsonl");
        if !metrics.is_file() && !dir.join("config.json").is_file() {
            return Err(Error::NoRun { path: dir.to_owned() });
        }
        let mut trouble = Vec::new();
        let log = match File::open(&metrics) {
            Ok(file) => Log::read(BufReader::new(file)).map_err(Error::io("read", &metrics))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Log::default(),
            Err(reason) => return Err(Error::Io { action: "read", path: metrics, reason }),
        };
        let config = json(&dir.join("config.json"), &mut trouble);
        let environment = json(&dir.join("environment.json"), &mut trouble);
        let pictures = ["first_batch", "neighbours"];
        let pictures = pictures.into_iter().filter_map(|name| picture(dir, name, &mut trouble)).collect();
        if log.unreadable > 0 {
            trouble.push(format!("`metrics.jsonl`: {} lines cannot be read", log.unreadable));
        }
        let touched = modified(&metrics).or_else(|| modified(&dir.join("config.json")));
        let mut run = Self {
            name: name(dir),
            config,
            environment,
            log,
            pictures,
            state: State::Stopped,
            touched,
            trouble,
        };
        run.state = run.state(dir);
        Ok(run)
    }

    /// Epochs that were asked for.
    pub(crate) fn epochs(&self) -> Option<u64> {
        self.config.as_ref()?.get("epochs")?.as_u64()
    }

    /// Epochs that are done.
    pub(crate) fn epochs_done(&self) -> u64 {
        let last = self.log.epochs.last_key_value().and_then(|(_, row)| row.epoch);
        last.map_or(0, |epoch| epoch.saturating_add(1))
    }

    /// Steps that are done, as far as logged.
    pub(crate) fn steps_done(&self) -> u64 {
        let last = |rows: &Rows| rows.last_key_value().map_or(0, |(&step, _)| step);
        last(&self.log.steps).max(last(&self.log.epochs))
    }

    /// Seconds of training in the lines that count.
    pub(crate) fn seconds(&self) -> f64 {
        let sum = |rows: &Rows| rows.values().filter_map(|row| row.get("seconds")).sum::<f64>();
        sum(&self.log.steps).max(sum(&self.log.epochs))
    }

    /// A value of the configuration, by the name of a field at its top.
    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        match self.config.as_ref()?.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }

    fn state(&self, dir: &Path) -> State {
        if self.epochs().is_some_and(|epochs| self.epochs_done() >= epochs) {
            return State::Finished;
        }
        let said = self.log.events.last().filter(|_| self.log.ends_in_event).map(|event| event.name.as_str());
        if matches!(said, Some("stopped" | "interrupted" | "diverged" | "failed")) {
            return State::Stopped;
        }
        let last = dir.join("last");
        let interrupted = fs::read_to_string(&last).is_ok_and(|name| name.starts_with("interrupted"));
        let silent =
            self.touched.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
        // a stretch may take longer than usual, not ten times as long
        let pace = self.log.steps.last_key_value().and_then(|(_, row)| row.get("seconds")).unwrap_or(0.0);
        let patience = SILENCE.max(Duration::try_from_secs_f64(10.0 * pace).unwrap_or(SILENCE));
        if (interrupted && modified(&last) >= self.touched) || silent > patience {
            State::Stopped
        } else if self.steps_done() == 0 {
            State::Starting
        } else {
            State::Running
        }
    }
}

/// The folder's own name, also of `.`.
fn name(dir: &Path) -> String {
    let full = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    full.file_name().unwrap_or(full.as_os_str()).to_string_lossy().into_owned()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

/// A small file, where it is there.
fn small(path: &Path, limit: u64, trouble: &mut Vec<String>) -> Option<Vec<u8>> {
    let label = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let length = fs::metadata(path).ok().filter(fs::Metadata::is_file)?.len();
    if length > limit {
        trouble.push(format!("`{}` has {length} bytes, more than {limit}: left out", label()));
        return None;
    }
    fs::read(path).map_err(|error| trouble.push(format!("cannot read `{}`: {error}", label()))).ok()
}

fn json(path: &Path, trouble: &mut Vec<String>) -> Option<Value> {
    let bytes = small(path, JSON_BYTES, trouble)?;
    let label = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    serde_json::from_slice(&bytes)
        .map_err(|error| trouble.push(format!("`{}` is not JSON: {error}", label())))
        .ok()
}

fn picture(dir: &Path, name: &'static str, trouble: &mut Vec<String>) -> Option<Picture> {
    let path: PathBuf = dir.join(format!("{name}.png"));
    let png = small(&path, PICTURE_BYTES, trouble)?;
    match png_size(&png) {
        Some((width, height)) => Some(Picture { name, png, width, height }),
        None => {
            trouble.push(format!("`{name}.png` is not a PNG file"));
            None
        }
    }
}

/// Width and height in the header: <https://www.w3.org/TR/png-3/#11IHDR>.
fn png_size(png: &[u8]) -> Option<(u32, u32)> {
    let header = png.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(..16)?;
    let side = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    (header.get(4..8)? == b"IHDR").then_some(())?;
    Some((side(8)?, side(12)?)).filter(|&(width, height)| width > 0 && height > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("folder");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("file");
        }
        dir
    }

    fn state(files: &[(&str, &str)]) -> State {
        Run::read(folder(files).path()).expect("a run").state
    }

    const EPOCH: &str = "{\"kind\":\"epoch\",\"epoch\":0,\"step\":5,\"loss\":1,\"seconds\":2}\n";

    #[test]
    fn the_state_follows_what_was_logged() {
        assert_eq!(state(&[("config.json", "{\"epochs\":1}"), ("metrics.jsonl", EPOCH)]), State::Finished);
        assert_eq!(state(&[("config.json", "{\"epochs\":2}"), ("metrics.jsonl", EPOCH)]), State::Running);
        assert_eq!(state(&[("config.json", "{\"epochs\":2}")]), State::Starting);
        let stopped = format!("{EPOCH}{{\"kind\":\"event\",\"event\":\"stopped\",\"step\":5}}\n");
        assert_eq!(state(&[("config.json", "{\"epochs\":2}"), ("metrics.jsonl", &stopped)]), State::Stopped);
        let last = ("last", "interrupted.safetensors\n");
        assert_eq!(
            state(&[("config.json", "{\"epochs\":2}"), ("metrics.jsonl", EPOCH), last]),
            State::Stopped
        );
    }

    #[test]
    fn a_run_silent_for_long_has_stopped() {
        let dir = folder(&[("config.json", "{\"epochs\":2}"), ("metrics.jsonl", EPOCH)]);
        let file = File::options().write(true).open(dir.path().join("metrics.jsonl")).expect("file");
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).expect("time");
        assert_eq!(Run::read(dir.path()).expect("a run").state, State::Stopped);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_shown() {
        let dir = folder(&[
            ("config.json", "{"),
            ("metrics.jsonl", EPOCH),
            ("first_batch.png", "GIF89a"),
            ("environment.json", "{\"a\":1}"),
        ]);
        let run = Run::read(dir.path()).expect("a run");
        assert_eq!(run.trouble.len(), 2, "{:?}", run.trouble);
        assert!(run.trouble[0].starts_with("`config.json` is not JSON"));
        assert_eq!(run.trouble[1], "`first_batch.png` is not a PNG file");
        assert_eq!((run.epochs_done(), run.steps_done(), run.seconds()), (1, 5, 2.0));
        assert!(run.environment.is_some());
    }

    #[test]
    fn a_folder_without_a_run_is_an_error() {
        let dir = folder(&[("x.txt", "")]);
        let error = Run::read(dir.path()).expect_err("no run");
        assert!(matches!(error, Error::NoRun { .. }));
        assert!(error.to_string().contains("hint: "), "{error}");
    }
}
