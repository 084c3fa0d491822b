//! What operators see: metrics, traces, the log, and what a supervisor is told.

pub(crate) mod logs;
mod made;
pub(crate) mod metrics;
mod process;
pub(crate) mod supervisor;
pub(crate) mod telemetry;
