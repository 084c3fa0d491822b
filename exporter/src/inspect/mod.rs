//! What is inside a file: any checkpoint, or an ONNX model.

mod checkpoint;
mod onnx;

use std::fmt;
use std::path::Path;

use occlude_checkpoint::{Checkpoint, Error as CheckpointError, LoadOptions};
use serde_json::Value;

use crate::{Error, OnnxFile};

/// Longest metadata value that the text form shows whole, in characters.
const LONG: usize = 160;

/// What was found; shown as text, or as JSON by [`Inspection::json`].
pub struct Inspection {
    text: String,
    json: Value,
}

impl Inspection {
    /// The same facts, complete and for machines.
    pub fn json(&self) -> &Value {
        &self.json
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Looks into a file. `options` choose the encoder where a checkpoint has several.
///
/// # Errors
/// [`Error::Checkpoint`] for a file that is neither a checkpoint nor an ONNX model, or is damaged;
/// [`Error::NotOnnx`] for a damaged ONNX model. A checkpoint without a usable encoder is no error:
/// the result says why there is none.
pub fn inspect(path: &Path, options: &LoadOptions) -> Result<Inspection, Error> {
    match Checkpoint::open(path) {
        Ok(file) => checkpoint::look(&file, options),
        Err(unknown @ CheckpointError::Unrecognised { .. }) => match OnnxFile::open(path) {
            Ok(file) => Ok(onnx::look(&file)),
            // An ONNX extension asks for ONNX's own message.
            Err(e) if path.extension().is_some_and(|x| x == "onnx") => Err(e),
            Err(_) => Err(unknown.into()),
        },
        Err(e) => Err(e.into()),
    }
}

/// Aligned lines `label  value`, continued ones indented.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, value: impl fmt::Display) {
        self.0.push_str(&format!("{label:<12} {value}\n"));
    }

    /// A value that may be long or have line breaks, cut for the eye.
    fn add_cut(&mut self, label: &str, value: &str) {
        let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match line.char_indices().nth(LONG) {
            Some((end, _)) => {
                self.add(label, format!("{}... ({} bytes; see --json)", &line[..end], value.len()));
            }
            None => self.add(label, line),
        }
    }

    fn table(&mut self, header: [&str; 3], rows: &[[String; 3]]) {
        let width = |i: usize| rows.iter().map(|r| r[i].len()).chain([header[i].len()]).max().unwrap_or(0);
        let (a, b) = (width(0), width(1));
        for [x, y, z] in std::iter::once(header.map(str::to_owned)).chain(rows.iter().cloned()) {
            self.0.push_str(&format!("  {x:<a$}  {y:<b$}  {z}\n"));
        }
    }
}

/// `44.7 MiB`.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(46_871_347), "44.7 MiB");
        assert_eq!(size(5 << 40), "5120.0 GiB");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let mut lines = Lines::default();
        lines.add_cut("key", &"ä\n".repeat(200));
        assert!(lines.0.contains("... (600 bytes"), "{}", lines.0);
        assert_eq!(lines.0.lines().count(), 1);
    }
}
