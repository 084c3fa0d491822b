//! The configuration file: TOML whose keys are the flags.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, Command};
use occlude_preprocess::files::utf8;

use super::ConfigError;
use super::data::is_secret;
use super::source::{Origin, Setting, SettingValue, is_list, is_switch, nearest, settable};

/// The settings of a file, which `setting` names.
pub(super) fn read(path: &Path, setting: &str, command: &Command) -> Result<Vec<Setting>, ConfigError> {
    let mut settings = Vec::new();
    for (key, value) in table(path, setting)? {
        let flag = flag(command, &key).ok_or_else(|| unknown(path, command, &key))?;
        let value = parse(path, flag, &key, &value)?;
        settings.push(Setting::new(flag, Origin::Key { path: path.to_owned(), key }, value));
    }
    Ok(settings)
}

fn table(path: &Path, setting: &str) -> Result<toml::Table, ConfigError> {
    let read =
        |source| ConfigError::Unreadable { setting: setting.to_owned(), path: path.to_owned(), source };
    // A pipe is as good as a file: `--config <(envsubst < serve.toml)`.
    let text = std::fs::read(path).and_then(utf8).map_err(read)?;
    text.parse().map_err(|e: toml::de::Error| {
        // The parser repeats the line, with whatever password is in it.
        let reason = if is_secret(&text) { e.message().to_owned() } else { e.to_string() };
        ConfigError::Toml { path: path.to_owned(), reason }
    })
}

fn names(command: &Command) -> impl Iterator<Item = &Arg> {
    settable(command).filter(|a| a.get_id() != "config")
}

/// Keys are written as flags; an underscore is as good as a hyphen.
fn flag<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let long = key.replace('_', "-");
    names(command).find(|a| a.get_long() == Some(&long))
}

fn unknown(path: &Path, command: &Command, key: &str) -> ConfigError {
    let near = nearest(key, names(command).filter_map(Arg::get_long)).to_owned();
    ConfigError::UnknownKey { path: path.to_owned(), key: key.to_owned(), near }
}

fn parse(path: &Path, flag: &Arg, key: &str, value: &toml::Value) -> Result<SettingValue, ConfigError> {
    use toml::Value;

    let wrong = |expected| ConfigError::Value {
        path: path.to_owned(),
        key: key.to_owned(),
        value: Some(value.to_string())
            .filter(|text| !is_secret(text))
            .unwrap_or_else(|| "another kind".to_owned()),
        expected,
    };
    let one = |value: &Value| match value {
        Value::String(text) => Ok(OsString::from(text)),
        Value::Integer(n) => Ok(n.to_string().into()),
        Value::Float(n) => Ok(n.to_string().into()),
        _ => Err(wrong("a string or a number")),
    };
    match value {
        Value::Boolean(on) if is_switch(flag) => Ok(SettingValue::Switch(*on)),
        _ if is_switch(flag) => Err(wrong("`true` or `false`")),
        Value::Array(items) if is_list(flag) => {
            items.iter().map(one).collect::<Result<_, _>>().map(SettingValue::Values)
        }
        _ => Ok(SettingValue::Values(vec![one(value)?])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Args;
    use clap::CommandFactory;

    fn with(toml: impl AsRef<[u8]>) -> Result<Vec<String>, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let settings = read(file.path(), "`--config`", &Args::command())?;
        Ok(settings.iter().flat_map(Setting::words).map(|w| w.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn keys_are_flags() {
        let mut words = with(
            "\u{feff}max-batch = 16\nmax_delay = \"2ms\"\nallow-url-fetch = true\nmodel = [\"a=a.onnx\", \"b.onnx\"]",
        )
        .unwrap();
        words.sort();
        assert_eq!(
            words,
            ["--allow-url-fetch", "--max-batch=16", "--max-delay=2ms", "--model=a=a.onnx", "--model=b.onnx"]
        );
    }

    #[test]
    fn files_of_other_editors_are_read() {
        let text = "max-batch = 16\r\ndata = \"é\"\r\n";
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [[b"\xef\xbb\xbf", text.as_bytes()].concat(), [b"\xff\xfe".as_slice(), &wide].concat()] {
            let mut words = with(bytes).unwrap();
            words.sort();
            assert_eq!(words, ["--data=é", "--max-batch=16"]);
        }
        let broken = with(b"max-batch = 1\ndata = \"\xe9\"\n").unwrap_err();
        let reason =
            std::error::Error::source(&broken).map_or_else(|| broken.to_string(), ToString::to_string);
        assert!(reason.contains("line 2 is not UTF-8"), "{reason}");
    }

    #[test]
    fn what_cannot_be_a_setting_is_an_error_that_says_where() {
        let error = |toml| with(toml).unwrap_err().to_string();
        let unknown = error("max-batsch = 3");
        assert!(unknown.contains("`max-batsch`") && unknown.contains("`max-batch`"), "{unknown}");
        assert!(error("config = \"other.toml\"").contains("`config`"));
        assert!(error("port = [1]").contains("a string or a number"));
        assert!(error("model = [[1]]").contains("a string or a number"));
        assert!(error("allow-url-fetch = 1").contains("`true` or `false`"));
        assert!(error("port = ").contains("TOML"));
        for toml in ["data = [\"postgres://me:s3cret@host/db\"]", "data = \"postgres://me:s3cret@host/db"] {
            assert!(!error(toml).contains("s3cret"), "{}", error(toml));
        }
        let gone = read(Path::new("gone.toml"), "`OCCLUDE_SERVE_CONFIG`", &Args::command()).unwrap_err();
        let gone = gone.to_string();
        assert!(gone.contains("gone.toml") && gone.contains("`OCCLUDE_SERVE_CONFIG`"), "{gone}");
    }
}
