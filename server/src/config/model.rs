//! Which file a model is, and what it is called.

use std::path::{Path, PathBuf};

/// A model to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFile {
    /// Its name in requests and answers.
    pub name: String,
    /// The ONNX file.
    pub path: PathBuf,
}

/// What stands before `=` is a name where it is a plain word; `./a=b.onnx` is a file.
fn named(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| ModelFile::is_name(name))
}

impl ModelFile {
    /// Whether a text is a plain word.
    pub(crate) fn is_name(text: &str) -> bool {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    }

    /// Whether the text, as a whole, names something that is there.
    pub(super) fn is_there(text: &str) -> bool {
        Path::new(text).exists() || named(text).is_some_and(|(_, path)| Path::new(path).exists())
    }
}

impl From<&str> for ModelFile {
    /// `FILE`, whose name without extension is the model's, or `NAME=FILE`. A file that is there is a file, whatever
    /// its name: `epoch=99-step=5.onnx` is called `epoch=99-step=5`.
    fn from(text: &str) -> Self {
        if let Some((name, path)) = named(text).filter(|_| !Path::new(text).exists()) {
            return Self { name: name.to_owned(), path: path.into() };
        }
        let path = PathBuf::from(text);
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned());
        Self { name: stem.unwrap_or_else(|| "model".to_owned()), path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, String) {
        let ModelFile { name, path } = ModelFile::from(text);
        (name, path.to_string_lossy().into_owned())
    }

    #[test]
    fn a_model_has_a_name_of_its_own_or_that_of_its_file() {
        assert_eq!(parse("a=x/y.onnx"), ("a".to_owned(), "x/y.onnx".to_owned()));
        assert_eq!(parse("x/y.v2.onnx"), ("y.v2".to_owned(), "x/y.v2.onnx".to_owned()));
        assert_eq!(parse("./a=b.onnx"), ("a=b".to_owned(), "./a=b.onnx".to_owned()));
    }

    #[test]
    fn a_file_that_is_there_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(path("epoch=99-step=5.onnx"), "x").unwrap();
        assert_eq!(
            parse(&path("epoch=99-step=5.onnx")),
            ("epoch=99-step=5".to_owned(), path("epoch=99-step=5.onnx"))
        );
        let renamed = format!("best={}", path("epoch=99-step=5.onnx"));
        assert_eq!(parse(&renamed), ("best".to_owned(), path("epoch=99-step=5.onnx")));
        assert!(ModelFile::is_there(&renamed) && ModelFile::is_there(&path("epoch=99-step=5.onnx")));
        assert!(!ModelFile::is_there(&path("gone.onnx")) && !ModelFile::is_there("a=gone.onnx"));
    }
}
