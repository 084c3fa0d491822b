//! What a process holds, from `/proc`.

use anyhow::{Context, Result};
use std::fs;

/// Bytes in memory.
pub(super) fn resident(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let text =
        fs::read_to_string(&path).with_context(|| format!("could not read `{path}` (only Linux has it)"))?;
    let row = text.lines().find_map(|row| row.strip_prefix("VmRSS:"));
    let kib: Option<u64> = row.and_then(|row| row.trim().strip_suffix("kB")?.trim().parse().ok());
    Ok(kib.with_context(|| format!("`{path}` has no `VmRSS`"))? << 10)
}

/// Open files and sockets.
pub(super) fn open_files(process: u32) -> Result<usize> {
    let path = format!("/proc/{process}/fd");
    Ok(fs::read_dir(&path).with_context(|| format!("could not list `{path}`"))?.count())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_something() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 1 << 20);
        assert!(open_files(own).unwrap() >= 3);
        assert!(resident(u32::MAX).is_err());
    }
}
