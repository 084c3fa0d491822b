//! Sizes, counts and times as people write them.

use std::time::Duration;

/// Longest time of a setting in seconds: a day.
const LONGEST: f64 = 86_400.0;

/// A time of a setting, in seconds as it was given. Whether it is a usable one is checked together with the other
/// settings, so that the message names the place where it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seconds(f64);

impl Seconds {
    /// The number, which may be negative or none at all.
    pub(crate) fn given(self) -> f64 {
        self.0
    }

    /// Whether it is more than no time, and at most a day.
    pub(super) fn is_usable(self) -> bool {
        self.0 > 0.0 && self.0 <= LONGEST
    }

    /// Whether it is no time.
    pub(super) fn is_zero(self) -> bool {
        self.0 == 0.0
    }

    /// The time; no time at all where it is not a usable one.
    pub fn time(self) -> Duration {
        Duration::try_from_secs_f64(self.0).unwrap_or_default()
    }
}

impl From<Duration> for Seconds {
    fn from(time: Duration) -> Self {
        Self(time.as_secs_f64())
    }
}

/// Factors of sizes, by their unit in lower case. As in Kubernetes, `M` is a million and `Mi` is 2^20; the `B` may be
/// left out.
const SIZES: [(&str, u64); 9] = [
    ("", 1),
    ("k", 1_000),
    ("m", 1_000_000),
    ("g", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
    ("ti", 1 << 40),
];

/// Seconds of each unit of time.
const TIMES: [(&str, f64); 12] = [
    ("ms", 1e-3),
    ("s", 1.0),
    ("sec", 1.0),
    ("second", 1.0),
    ("seconds", 1.0),
    ("m", 60.0),
    ("min", 60.0),
    ("minute", 60.0),
    ("minutes", 60.0),
    ("h", 3600.0),
    ("hour", 3600.0),
    ("hours", 3600.0),
];

/// Bytes: `20971520`, `20MiB`, `1.5 GB`, `64Ki`.
pub(crate) fn bytes(text: &str) -> Result<usize, String> {
    let value = scaled(text, |unit| unit.strip_suffix('b').unwrap_or(unit).to_owned());
    let value = value.ok_or("expected bytes, like `20971520`, `20MiB` or `1GB`")?;
    usize::try_from(value).map_err(|_| "more bytes than this machine can address".to_owned())
}

/// A number of things: `50000000`, `50_000_000`, `50M`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    let value = scaled(text, ToOwned::to_owned);
    value.ok_or_else(|| "expected a number, like `50000000` or `50M`".to_owned())
}

/// Seconds: `30`, `30s`, `500ms`, `2min`, `1h`.
pub(crate) fn seconds(text: &str) -> Result<Seconds, String> {
    let wrong = || "expected seconds, or a time like `30s`, `500ms` or `2min`".to_owned();
    time(text, 1.0).map(Seconds).ok_or_else(wrong)
}

/// Whole milliseconds: `4`, `4ms`, `0.5s`.
pub(crate) fn millis(text: &str) -> Result<Duration, String> {
    let wrong = || "expected milliseconds, or a time like `4ms` or `0.1s`".to_owned();
    let value = time(text, 1e-3).ok_or_else(wrong)? * 1e3;
    let rounded = value.round();
    // A day is more than any picture waits.
    if (0.0..=86_400_000.0).contains(&rounded) && (value - rounded).abs() < 1e-6 {
        Ok(Duration::from_millis(rounded as u64))
    } else {
        Err(wrong())
    }
}

/// A number and its unit, in lower case.
fn split(text: &str) -> (String, String) {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number.trim().replace('_', ""), unit.to_ascii_lowercase())
}

fn scaled(text: &str, base: impl Fn(&str) -> String) -> Option<u64> {
    let (number, unit) = split(text);
    let unit = base(&unit);
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(*factor);
    }
    // A fraction of a unit; of single bytes there is none.
    let value = number.parse::<f64>().ok()? * *factor as f64;
    let plain = number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    (plain && *factor > 1 && value < u64::MAX as f64).then_some(value as u64)
}

fn time(text: &str, plain: f64) -> Option<f64> {
    // Also `NaN` and `-1`, which whoever asks refuses by the setting's own bounds.
    if let Ok(value) = text.trim().parse::<f64>() {
        return Some(value * plain);
    }
    let (number, unit) = split(text);
    let (_, factor) = TIMES.iter().find(|(name, _)| *name == unit)?;
    number.parse::<f64>().ok().map(|value| value * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let cases = [
            ("20971520", 20 << 20),
            ("20MiB", 20 << 20),
            ("20 mib", 20 << 20),
            ("20Mi", 20 << 20),
            ("1GB", 1_000_000_000),
            ("1G", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("64k", 64_000),
            ("64KB", 64_000),
            ("64KiB", 65_536),
            ("7B", 7),
            ("1_000", 1000),
            (" 5 ", 5),
            ("0", 0),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in
            ["", "MiB", "-1", "20XB", "1.5", "1e3", "20MiBB", "99999999999999999999", "20000000TiB", "1,5GB"]
        {
            assert!(bytes(text).unwrap_err().contains("bytes"), "{text}");
        }
    }

    #[test]
    fn counts_are_read_as_people_write_them() {
        for (text, expected) in
            [("50000000", 50_000_000), ("50M", 50_000_000), ("1_000_000", 1_000_000), ("2.5k", 2500)]
        {
            assert_eq!(count(text), Ok(expected), "{text}");
        }
        for text in ["", "-3", "50MB", "x", "0.5"] {
            assert!(count(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let cases = [
            ("30", 30.0),
            ("30s", 30.0),
            ("1.5", 1.5),
            ("500ms", 0.5),
            ("2min", 120.0),
            ("2m", 120.0),
            ("1 h", 3600.0),
        ];
        for (text, expected) in cases {
            assert_eq!(seconds(text), Ok(Seconds(expected)), "{text}");
        }
        for text in ["", "s", "30x", "1s2", "ms"] {
            assert!(seconds(text).unwrap_err().contains("30s"), "{text}");
        }
        for (text, expected) in [("4", 4), ("4ms", 4), ("0.1s", 100), ("0", 0)] {
            assert_eq!(millis(text), Ok(Duration::from_millis(expected)), "{text}");
        }
        for (given, usable) in
            [("NaN", false), ("-1", false), ("0", false), ("86401", false), ("1day", false), ("24h", true)]
        {
            assert_eq!(seconds(given).is_ok_and(Seconds::is_usable), usable, "{given}");
        }
        assert_eq!(Seconds::from(Duration::from_millis(60)).time(), Duration::from_millis(60));
        assert_eq!(Seconds(f64::NAN).time(), Duration::ZERO);
        for text in ["-1", "0.5", "NaN", "2 days", "1e300"] {
            assert!(millis(text).is_err(), "{text}");
        }
    }
}
