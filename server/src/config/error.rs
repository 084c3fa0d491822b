//! What can be wrong with a configuration.

use std::path::PathBuf;

/// A setting that makes no sense, alone or beside another. `setting` and `other` are what a message calls one: the
/// flag, the variable, or key and file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ConfigError {
    /// Nothing to serve.
    #[error(
        "no model; hint: `--model FILE`, the variable `OCCLUDE_SERVE_MODEL` or `model = [..]` in the configuration names \
         what `occlude-export onnx` wrote"
    )]
    NoModel,
    /// A count of nothing.
    #[error("{setting} must be at least 1")]
    Zero { setting: String },
    /// Not a usable number of seconds.
    #[error("{setting} is {value} s; hint: use more than 0 s and at most 86400 s")]
    Seconds {
        setting: String,
        /// What was given.
        value: f64,
    },
    /// Two models of one name.
    #[error("two models are called `{name}`; hint: `--model NAME=FILE` gives one another name")]
    SameName { name: String },
    /// A value that cannot be what the setting is.
    #[error("{setting} is `{value}`: {reason}; hint: `occlude-serve --help` says what `--{flag}` takes")]
    Setting {
        setting: String,
        /// What was given.
        value: String,
        reason: String,
        /// The flag of the setting.
        flag: String,
    },
    /// Collections that are nowhere.
    #[error("{setting}: {source}")]
    Data { setting: String, source: occlude_retrieval::Error },
    /// The configuration file cannot be read.
    #[error("{setting}: cannot read the configuration `{}`: {source}", .path.display())]
    Unreadable {
        /// What names the file.
        setting: String,
        path: PathBuf,
        source: std::io::Error,
    },
    /// The configuration file is no TOML.
    #[error("`{}` is not valid TOML: {reason}", .path.display())]
    Toml {
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
    /// The configuration file sets what does not exist.
    #[error("`{}` sets `{key}`, which is not a flag; hint: did you mean `{near}`? `occlude-serve --help` lists them", .path.display())]
    UnknownKey {
        path: PathBuf,
        key: String,
        /// The flag that is most alike.
        near: String,
    },
    /// The configuration file sets a flag to what it cannot be.
    #[error("`{}` sets `{key}` to {value}, expected {expected}", .path.display())]
    Value {
        path: PathBuf,
        key: String,
        /// What is there.
        value: String,
        /// What could be.
        expected: &'static str,
    },
    /// One setting contradicts another.
    #[error("{setting} must be at most {other} ({limit})")]
    Above {
        /// What is too large.
        setting: String,
        /// What bounds it.
        other: String,
        /// The bound.
        limit: u64,
    },
    /// A setting has no effect without another.
    #[error("{setting} has no effect without {other}")]
    Without {
        /// What is set.
        setting: String,
        /// What is not.
        other: String,
    },
}
