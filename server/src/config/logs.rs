//! What is logged and traced.

use super::headings::LOGS;
use super::{ConfigError, Sources, check};

/// How messages are written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// The log.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Logs {
    /// Lowest level of messages that are logged to stderr: `error`, `warn`, `info` (a line for every request) or
    /// `debug`
    #[arg(long, default_value = "info", value_name = "LEVEL", help_heading = LOGS)]
    pub log_level: tracing::Level,
    /// How messages are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, help_heading = LOGS)]
    pub log_format: LogFormat,
}

/// A collector's address; where it ends in the path of traces, that is known already.
pub(super) fn endpoint(text: &str, sources: &Sources) -> Result<String, ConfigError> {
    let base = text.trim_end_matches('/');
    let base = base.strip_suffix("/v1/traces").unwrap_or(base);
    let uri = base.parse::<axum::http::Uri>().ok();
    let good = uri.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
    let reason = "expected an address like `http://127.0.0.1:4318`";
    if good { Ok(base.to_owned()) } else { Err(check::wrong(sources, "otlp-endpoint", text, reason)) }
}
