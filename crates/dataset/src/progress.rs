//! Telling how far a long job is, and on how many threads it runs.

use crate::Error;

/// Is told how a long job gets on; `()` tells nobody.
pub trait Progress: Sync {
    /// A stretch of work begins: `total` units, called `unit`.
    fn begin(&self, total: u64, unit: &'static str);
    /// `n` more units are done.
    fn advance(&self, n: u64);
}

impl Progress for () {
    fn begin(&self, _: u64, _: &'static str) {}
    fn advance(&self, _: u64) {}
}

/// Runs a job on `workers` threads in place of one for each processor.
///
/// # Errors
/// [`Error::Threads`] where they cannot be started, else the job's own.
pub fn with_workers<T: Send>(
    workers: usize,
    job: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers.max(1)).build();
    pool.map_err(|e| Error::Threads { reason: e.to_string() })?.install(job)
}
