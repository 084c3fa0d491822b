//! Under which headings `--help` lists the settings.

pub(super) const MODEL: &str = "Models";
pub(super) const WORK: &str = "Concurrency";
pub(super) const REQUESTS: &str = "Requests";
pub(super) const NETWORK: &str = "Network";
pub(super) const LOGS: &str = "Logs and configuration";
