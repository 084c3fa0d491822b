//! What Linux says about this process, under the names that Prometheus' own libraries give it
//! (prometheus.io/docs/instrumenting/writing_clientlibs, "process metrics").

use procfs::process::{LimitValue, Process as Own};
use procfs::{boot_time_secs, page_size, ticks_per_second};
use prometheus::Gauge;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;

use crate::observe::made::made;

/// The process; what never changes is read once.
#[derive(Default)]
pub(crate) struct Process {
    /// Unix seconds.
    started: std::sync::OnceLock<Option<f64>>,
}

impl Process {
    /// What can be read at present; nothing where `/proc` is not there.
    pub(crate) fn collect(&self) -> Vec<MetricFamily> {
        let Ok(own) = Own::myself() else { return Vec::new() };
        let mut families = Vec::new();
        if let Ok(stat) = own.stat() {
            let ticks = ticks_per_second() as f64;
            let cpu = (stat.utime + stat.stime) as f64 / ticks;
            families.extend(counter("process_cpu_seconds_total", "user and system CPU time", cpu));
            let resident = stat.rss as f64 * page_size() as f64;
            families.extend(gauge("process_resident_memory_bytes", "resident memory", resident));
            let virtual_ = stat.vsize as f64;
            families.extend(gauge("process_virtual_memory_bytes", "virtual memory", virtual_));
            families.extend(gauge("process_threads", "threads", stat.num_threads as f64));
            let started = || Some(boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks);
            if let Some(at) = *self.started.get_or_init(started) {
                families.extend(gauge(
                    "process_start_time_seconds",
                    "start time of the process, in Unix seconds",
                    at,
                ));
            }
        }
        if let Ok(open) = own.fd_count() {
            families.extend(gauge("process_open_fds", "open file descriptors", open as f64));
        }
        if let Ok(LimitValue::Value(most)) = own.limits().map(|l| l.max_open_files.soft_limit) {
            families.extend(gauge("process_max_fds", "most file descriptors that may be open", most as f64));
        }
        families
    }
}

/// A gauge or counter of the process, made when it is read.
fn gauge(name: &str, help: &str, value: f64) -> Vec<MetricFamily> {
    let gauge = made(Gauge::new(name, help));
    gauge.set(value);
    gauge.collect()
}

/// [`gauge`], of what only grows.
fn counter(name: &str, help: &str, value: f64) -> Vec<MetricFamily> {
    let counter = made(prometheus::Counter::new(name, help));
    counter.inc_by(value.max(0.0));
    counter.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_this_process() {
        let process = Process::default();
        let value = |name: &str| {
            let families = process.collect();
            let family = families.iter().find(|f| f.name() == name).unwrap_or_else(|| panic!("no {name}"));
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let started = value("process_start_time_seconds");
        assert!(started < now + 2.0 && started > now - 3600.0, "{started} {now}");
        let resident = value("process_resident_memory_bytes");
        assert!(resident > 1e6 && resident < value("process_virtual_memory_bytes"), "{resident}");
        assert!(value("process_threads") >= 1.0 && value("process_max_fds") >= value("process_open_fds"));
        let (files, before) = (value("process_open_fds"), value("process_cpu_seconds_total"));
        let many: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(
            value("process_open_fds") >= files + 30.0,
            "other tests open and close some at the same time"
        );
        drop(many);
        while value("process_cpu_seconds_total") < before + 0.05 {
            std::hint::black_box((0..1_000_000u64).fold(0, |a, b| a ^ b));
        }
    }
}
