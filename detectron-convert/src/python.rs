//! Detectron2's own answer, by way of Python.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::driver::{CHECK, DRIVER, DRIVER_NAME};
use crate::error::Error;

/// What Detectron2's checkpointer made of a pickle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Version of Detectron2.
    pub detectron2: String,
    /// Version of PyTorch.
    pub torch: String,
    /// Encoder tensors of the detector that equal the pickle's arrays bit for bit after loading.
    pub matched: usize,
    /// Encoder tensors of the detector that the pickle lacks.
    pub missing: Vec<String>,
    /// Those that differ after loading: not matched, or changed.
    pub different: Vec<String>,
    /// Arrays that the detector has no place for.
    pub left_over: Vec<String>,
    /// Settings of the YAML that do not go with such an encoder.
    pub doubtful_settings: Vec<String>,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Detectron2 has loaded the pickle.
    Loaded(Loaded),
    /// There is no Python, or no Detectron2 in it.
    Unavailable(String),
}

/// One of the two forms of the script's last line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Unavailable { unavailable: String },
    Loaded(Loaded),
}

/// The interpreter: as asked, else `OCCLUDE_PYTHON`, else `python3`.
fn interpreter(asked: Option<&Path>) -> OsString {
    let environment = || std::env::var_os("OCCLUDE_PYTHON").filter(|value| !value.is_empty());
    asked.map(|path| path.as_os_str().to_owned()).or_else(environment).unwrap_or_else(|| "python3".into())
}

/// Builds the detector of `config` and lets Detectron2 load `weights` into it. Python executes what is in the
/// pickle: look at it first.
///
/// # Errors
/// [`Error::Python`] when the interpreter that was asked for does not start, or the script fails.
pub(crate) fn ask_detectron2(asked: Option<&Path>, config: &Path, weights: &Path) -> Result<Answer, Error> {
    let python = interpreter(asked);
    let fail = |reason: String| Error::Python { python: python.to_string_lossy().into_owned(), reason };
    let folder = scripts().map_err(|e| fail(e.to_string()))?;
    let mut command = Command::new(&python);
    command.arg(folder.path().join("check_weights.py")).args([config, weights]);
    // The scripts' folder goes away, so that nothing is to be compiled into it.
    command.env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::null());
    let output = match command.output() {
        Ok(output) => output,
        Err(reason) if asked.is_some() => return Err(fail(reason.to_string())),
        Err(reason) => {
            return Ok(Answer::Unavailable(format!("`{}`: {reason}", python.to_string_lossy())));
        }
    };
    if !output.status.success() {
        return Err(fail(last_lines(&String::from_utf8_lossy(&output.stderr))));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    match serde_json::from_str(line) {
        Ok(Line::Loaded(loaded)) => Ok(Answer::Loaded(loaded)),
        Ok(Line::Unavailable { unavailable }) => {
            Ok(Answer::Unavailable(format!("`{}`: {unavailable}", python.to_string_lossy())))
        }
        Err(reason) => Err(fail(format!("it answered `{line}`: {reason}"))),
    }
}

fn scripts() -> std::io::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join(DRIVER_NAME), DRIVER)?;
    fs::write(folder.path().join("check_weights.py"), CHECK)?;
    Ok(folder)
}

/// The end of a traceback.
fn last_lines(text: &str) -> String {
    const SHOWN: usize = 6;
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_answers_are_read() {
        let line = r#"{"unavailable": "No module named 'detectron2'"}"#;
        assert!(matches!(serde_json::from_str(line), Ok(Line::Unavailable { .. })));
        let line = serde_json::to_string(&Loaded { matched: 318, ..Loaded::default() }).expect("JSON");
        assert!(matches!(serde_json::from_str(&line), Ok(Line::Loaded(Loaded { matched: 318, .. }))));
    }

    #[test]
    fn the_end_of_a_traceback_is_shown() {
        assert_eq!(last_lines("a\nb"), "a\nb");
        assert_eq!(last_lines("1\n2\n3\n4\n5\n6\n7"), "2\n3\n4\n5\n6\n7");
    }
}
