//! What a run was made with: `environment.json`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tch::{Cuda, Device};

use super::Run;

/// Writes what can be known of the machine, the programs and the data.
///
/// # Errors
/// Where the file cannot be written.
pub(super) fn write(path: &Path, run: &Run, pictures: usize) -> Result<()> {
    let text = serde_json::to_string_pretty(&describe(run, pictures))?;
    occlude_output::write(path, |w| writeln!(w, "{text}"))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

fn describe(run: &Run, pictures: usize) -> Value {
    let command: Vec<String> = std::env::args().collect();
    json!({
        "occlude": env!("CARGO_PKG_VERSION"),
        "libtorch": occlude_torch_ext::torch_version(),
        "command": command.join(" "),
        "data": run.data.display().to_string(),
        "pictures": pictures,
        "device": format!("{:?}", run.device),
        "cuda_devices": if run.device == Device::Cpu { 0 } else { Cuda::device_count() },
        "precision": if run.bf16 { "bfloat16" } else { "float32" },
        "libtorch_threads": tch::get_num_threads(),
        "loader_threads": run.workers,
        "host": host(),
        "processor": processor(),
        "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

fn host() -> Option<String> {
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    read.map(|s| s.trim().to_owned()).or_else(|| std::env::var("HOSTNAME").ok())
}

fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}
