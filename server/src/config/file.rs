//! The configuration file: TOML whose keys are the flags, turned into arguments that stand before the user's own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

use super::ConfigError;
use super::args::ENVIRONMENT;

/// The file that `--config FILE`, `--config=FILE` or the environment names.
pub(super) fn named(words: &[OsString], environment: &Option<OsString>) -> Option<PathBuf> {
    let mut found = environment.clone();
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        let text = word.to_string_lossy();
        if text == "--config" {
            found = rest.next().cloned();
        } else if let Some(path) = text.strip_prefix("--config=") {
            found = Some(path.into());
        }
    }
    found.map(PathBuf::from)
}

/// `words` with the file's settings put behind the program's name, but for those that the words or the environment
/// decide.
pub(super) fn before(
    path: &Path,
    command: &Command,
    mut words: Vec<OsString>,
) -> Result<Vec<OsString>, ConfigError> {
    let decided = |flag: &Arg| {
        let variable = format!("{ENVIRONMENT}{}", flag.get_id().as_str().to_uppercase());
        std::env::var_os(variable).is_some() || given(&words, flag.get_long().unwrap_or_default())
    };
    let mut settings = Vec::new();
    for (key, value) in table(path)? {
        let flag = flag(command, &key).ok_or_else(|| unknown(path, command, &key))?;
        let arguments = arguments(path, flag, &key, &value)?;
        if !decided(flag) {
            settings.extend(arguments);
        }
    }
    let own = words.split_off(words.len().min(1));
    Ok(words.into_iter().chain(settings).chain(own).collect())
}

fn table(path: &Path) -> Result<toml::Table, ConfigError> {
    let read = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(read)?;
    text.parse()
        .map_err(|e: toml::de::Error| ConfigError::Toml { path: path.to_owned(), reason: e.to_string() })
}

/// Keys are written as flags; an underscore is as good as a hyphen.
fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let long = key.replace('_', "-");
    let excluded = ["config", "help", "version"];
    command.get_arguments().find(|a| a.get_long() == Some(&long) && !excluded.contains(&long.as_str()))
}

fn unknown(path: &Path, command: &Command, key: &str) -> ConfigError {
    let known = command.get_arguments().filter_map(Arg::get_long);
    let near = known.filter(|k| !["config", "help", "version"].contains(k));
    let near = near.max_by_key(|k| k.chars().zip(key.chars()).take_while(|(a, b)| a == b).count());
    ConfigError::UnknownKey {
        path: path.to_owned(),
        key: key.to_owned(),
        near: near.unwrap_or_default().to_owned(),
    }
}

fn given(words: &[OsString], long: &str) -> bool {
    let flag = format!("--{long}");
    let starts = |w: &OsStr| w == flag.as_str() || w.to_string_lossy().starts_with(&format!("{flag}="));
    words.iter().skip(1).any(|w| starts(w))
}

fn arguments(path: &Path, flag: &Arg, key: &str, value: &toml::Value) -> Result<Vec<OsString>, ConfigError> {
    use toml::Value;

    let wrong = |expected| ConfigError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value: value.to_string(),
        expected,
    };
    let long = format!("--{}", flag.get_long().unwrap_or_default());
    let one = |value: &Value| match value {
        Value::String(text) => Ok(OsString::from(text)),
        Value::Integer(n) => Ok(n.to_string().into()),
        Value::Float(n) => Ok(n.to_string().into()),
        _ => Err(wrong("a string or a number")),
    };
    match (flag.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(on)) => Ok(on.then(|| long.into()).into_iter().collect()),
        (ArgAction::SetTrue, _) => Err(wrong("`true` or `false`")),
        (ArgAction::Append, Value::Array(items)) => {
            let pairs = items.iter().map(|item| Ok([OsString::from(&long), one(item)?]));
            Ok(pairs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        }
        _ => Ok(vec![long.into(), one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Args;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn with(toml: &str, line: &str) -> Result<Vec<OsString>, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        before(file.path(), &Args::described(), words(line))
    }

    #[test]
    fn settings_stand_before_the_words_that_override_them() {
        let all = with(
            "max-batch = 16\nmax_delay = 2\nmodel = [\"a=a.onnx\", \"b.onnx\"]",
            "x --max-batch=4 --port 1",
        );
        let expected = words("x --max-delay 2 --model a=a.onnx --model b.onnx --max-batch=4 --port 1");
        let (mut all, mut expected) = (all.unwrap(), expected);
        assert_eq!(all[0], "x");
        assert_eq!(all.last().unwrap(), "1");
        all.sort();
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn what_cannot_be_a_setting_is_an_error_that_says_where() {
        let error = |toml| with(toml, "x").unwrap_err().to_string();
        let unknown = error("max-batsch = 3");
        assert!(unknown.contains("`max-batsch`") && unknown.contains("`max-batch`"), "{unknown}");
        assert!(error("config = \"other.toml\"").contains("`config`"));
        assert!(error("port = [1]").contains("a string or a number"));
        assert!(error("model = [[1]]").contains("a string or a number"));
        assert!(error("port = ").contains("TOML"));
        let gone = before(Path::new("gone.toml"), &Args::described(), words("x")).unwrap_err();
        assert!(gone.to_string().contains("gone.toml"), "{gone}");
    }

    #[test]
    fn the_file_is_named_by_flag_or_environment() {
        assert_eq!(named(&words("x --config a.toml"), &None), Some("a.toml".into()));
        assert_eq!(named(&words("x --config=a.toml"), &Some("b.toml".into())), Some("a.toml".into()));
        assert_eq!(named(&words("x --port 1"), &Some("b.toml".into())), Some("b.toml".into()));
        assert_eq!(named(&words("x --port 1"), &None), None);
    }
}
