//! What this machine has, and what is missing.

use std::process::ExitCode;

use serde_json::json;
use tch::{Cuda, Device};

use crate::device::{CpuBf16, Precision};

/// Prints the findings; fails where training could not run at all.
pub fn run(as_json: bool) -> ExitCode {
    let compiled = occlude_torch_ext::torch_version();
    let (cuda, devices, cudnn) = (Cuda::is_available(), Cuda::device_count(), Cuda::cudnn_is_available());
    let linked = cuda_is_linked();
    let mut missing: Vec<String> = Vec::new();
    if !linked {
        missing.push(
            "libtorch was built without CUDA, or the linker dropped it: training runs on the CPU; hint: `pip install torch==2.11.0` from PyPI, or `cargo xtask setup` in a checkout, installs a libtorch with CUDA".into(),
        );
    } else if !cuda {
        missing.push("no CUDA device is usable: training runs on the CPU; hint: on a GPU machine check `nvidia-smi` and the driver's version".into());
    } else if !cudnn {
        missing.push("cuDNN cannot be used: convolutions will be slow; hint: reinstall the nvidia-cudnn wheel of libtorch".into());
    }
    let threads = tch::get_num_threads();
    if as_json {
        answer!(
            "{}",
            json!({
                "version": env!("CARGO_PKG_VERSION"), "libtorch": compiled, "cuda_linked": linked, "cuda": cuda,
                "cuda_devices": devices, "cudnn": cudnn, "cpu_threads": threads, "cpu_bf16": CpuBf16::here(), "missing": missing,
            })
        );
    } else {
        answer!("occlude-train  {}", env!("CARGO_PKG_VERSION"));
        answer!("libtorch       {compiled}");
        answer!("CUDA           linked: {linked}, usable: {cuda}, devices: {devices}, cuDNN: {cudnn}");
        let multiplies = match CpuBf16::here() {
            Some(CpuBf16::Amx) => "in tiles (AMX)",
            Some(CpuBf16::Avx512) => "in vectors (AVX512-BF16)",
            None => "not by itself",
        };
        answer!("CPU            {threads} threads, multiplies bfloat16 {multiplies}");
        let precision = if Precision::Auto.bf16(Device::cuda_if_available()) { "bf16" } else { "fp32" };
        answer!("--precision auto means {precision} here");
        missing.iter().for_each(|m| answer!("missing: {m}"));
    }
    ExitCode::SUCCESS
}

/// Whether libtorch_cuda is loaded in this process: nothing names its symbols, so a careless link loses it. Its own needs
/// tell it from the empty library that stands in for it in the wheel.
fn cuda_is_linked() -> bool {
    std::fs::read_to_string("/proc/self/maps").is_ok_and(|maps| maps.contains("libc10_cuda"))
}
