//! Rules that several settings follow. A setting is its flag, without the hyphens, and its value.

use super::units::Seconds;
use super::{ConfigError, Sources};

/// A count and its flag.
type Count<'a> = (&'a str, u64);

/// Nothing works with none of these.
pub(super) fn counts(sources: &Sources, counts: &[Count<'_>]) -> Result<(), ConfigError> {
    match counts.iter().find(|(_, n)| *n == 0) {
        Some((flag, _)) => Err(ConfigError::Zero { setting: sources.name(flag) }),
        None => Ok(()),
    }
}

/// The first of each pair is at most the second.
pub(super) fn bounds(sources: &Sources, pairs: &[(Count<'_>, Count<'_>)]) -> Result<(), ConfigError> {
    match pairs.iter().find(|((_, value), (_, limit))| value > limit) {
        Some(((flag, _), (other, limit))) => {
            Err(ConfigError::Above { setting: sources.name(flag), other: sources.name(other), limit: *limit })
        }
        None => Ok(()),
    }
}

/// More than no time, and at most a day.
pub(super) fn times(sources: &Sources, times: &[(&str, Seconds)]) -> Result<(), ConfigError> {
    match times.iter().find(|(_, time)| !time.is_usable()) {
        Some((flag, time)) => Err(ConfigError::Seconds { setting: sources.name(flag), value: time.given() }),
        None => Ok(()),
    }
}

/// A setting that does nothing alone.
#[cfg(feature = "tls")]
pub(super) fn without(sources: &Sources, flag: &str, other: &str) -> ConfigError {
    ConfigError::Without { setting: sources.name(flag), other: sources.name(other) }
}

/// A value that is none of its setting.
pub(super) fn wrong(sources: &Sources, flag: &str, value: &str, reason: &str) -> ConfigError {
    let (value, reason) = (value.to_owned(), reason.to_owned());
    ConfigError::Setting { setting: sources.name(flag), value, reason, flag: flag.to_owned() }
}
