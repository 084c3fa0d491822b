//! Metrics of names that are known to be valid.

/// The names and buckets are constants, whose validity the tests hold.
pub(crate) fn made<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("a metric with a valid name")
}
