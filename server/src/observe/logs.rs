//! What the server tells its operator: messages on stderr, as text or as JSON lines.

use std::io::IsTerminal;

use tracing::Level;

use crate::config::LogFormat;

/// Writes messages of `level` and worse to stderr from now on; the first call of a process counts.
pub fn start(level: Level, format: LogFormat) {
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    // A terminal that is gone is no reason to panic.
    let builder = builder.log_internal_errors(false);
    // Fails only where somebody else listens already, as in tests.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
}
