//! Where a setting comes from, so that a message can name what has to be changed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use clap::{Arg, ArgAction, Command};

use super::ConfigError;

/// Where a setting stands, if not on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An environment variable.
    Variable(String),
    /// A key of the configuration file.
    Key {
        /// The file.
        path: PathBuf,
        /// The key, as it is written there.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "`{name}`"),
            Self::Key { path, key } => write!(f, "`{key}` in `{}`", path.display()),
        }
    }
}

/// Where each flag's value comes from.
#[derive(Debug, Clone, Default)]
pub struct Sources(BTreeMap<String, Origin>);

impl Sources {
    pub(super) fn add(&mut self, flag: &str, origin: Origin) {
        self.0.insert(flag.to_owned(), origin);
    }

    /// What a message calls the setting of a flag (without its hyphens): the flag, the variable, or key and file.
    pub fn name(&self, flag: &str) -> String {
        self.0.get(flag).map_or_else(|| format!("`--{flag}`"), ToString::to_string)
    }
}

/// A flag that the environment or the file sets.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) id: String,
    pub(super) flag: String,
    pub(super) origin: Origin,
    pub(super) value: SettingValue,
}

#[derive(Debug)]
pub(super) enum SettingValue {
    /// Of a flag that takes none.
    Switch(bool),
    Values(Vec<OsString>),
}

impl Setting {
    pub(super) fn new(argument: &Arg, origin: Origin, value: SettingValue) -> Self {
        let flag = argument.get_long().unwrap_or_default().to_owned();
        Self { id: argument.get_id().as_str().to_owned(), flag, origin, value }
    }

    pub(super) fn first(&self) -> Option<&OsString> {
        match &self.value {
            SettingValue::Values(values) => values.first(),
            SettingValue::Switch(_) => None,
        }
    }

    /// The words that say the same on a command line.
    pub(super) fn words(&self) -> Vec<OsString> {
        let word = |value: &OsString| {
            let mut word = OsString::from(format!("--{}=", self.flag));
            word.push(value);
            word
        };
        match &self.value {
            SettingValue::Switch(on) => on.then(|| format!("--{}", self.flag).into()).into_iter().collect(),
            SettingValue::Values(values) => values.iter().map(word).collect(),
        }
    }

    /// Parses the value alone, so that what is wrong with it is said of its place.
    pub(super) fn check(&self, command: &Command) -> Result<(), ConfigError> {
        let SettingValue::Values(values) = &self.value else { return Ok(()) };
        for (word, value) in self.words().into_iter().zip(values) {
            let parsed = command.clone().try_get_matches_from([OsString::from("occlude-serve"), word]);
            parsed.map_err(|error| ConfigError::Setting {
                setting: self.origin.to_string(),
                value: value.to_string_lossy().into_owned(),
                reason: reason(&error),
                flag: self.flag.clone(),
            })?;
        }
        Ok(())
    }
}

/// Why clap does not take a value, without its words about flags.
fn reason(error: &clap::Error) -> String {
    use clap::error::{ContextKind, ContextValue};
    use std::error::Error;

    if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue)
        && !valid.is_empty()
    {
        return format!(
            "expected one of {}",
            valid.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ")
        );
    }
    match error.source() {
        Some(source) => source.to_string(),
        None => "a value is required".to_owned(),
    }
}

/// Whether a flag may be given several times.
pub(super) fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// Whether a flag takes no value.
pub(super) fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

/// The flags that can be set elsewhere than on the command line.
pub(super) fn settable(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|a| !matches!(a.get_id().as_str(), "help" | "version"))
}

/// Of `known`, what is most like a word.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|k| strsim::damerau_levenshtein(word, k)).unwrap_or_default()
}
