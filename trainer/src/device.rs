//! Where to compute and in which precision.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use tch::{Cuda, Device, Tensor};

/// `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// CUDA where there is any, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// That CUDA device.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match s.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(n)) => Ok(Self::Cuda(n)),
                _ => Err("expected `auto`, `cpu`, `cuda` or `cuda:N`".into()),
            },
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl Choice {
    /// The device; asking for CUDA where it cannot run is an error, never the CPU.
    ///
    /// # Errors
    /// Where that device is not there.
    pub fn resolve(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto => Ok(Device::cuda_if_available()),
            Self::Cuda(n) if Cuda::is_available() && (n as i64) < Cuda::device_count() => Ok(Device::Cuda(n)),
            Self::Cuda(n) => bail!(
                "`--device cuda:{n}`: {} CUDA devices are usable; hint: `occlude-train doctor` reports what is missing, `--device cpu` runs without CUDA",
                if Cuda::is_available() { Cuda::device_count() } else { 0 }
            ),
        }
    }
}

impl Choice {
    /// That of one of several processes on this machine: CUDA devices are theirs by their numbers.
    #[must_use]
    pub fn of_rank(self, local_rank: usize) -> Self {
        match self {
            Self::Auto if Cuda::is_available() => Self::Cuda(local_rank),
            Self::Cuda(0) => Self::Cuda(local_rank),
            other => other,
        }
    }
}

/// `--precision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// bfloat16 on CUDA and on CPUs that multiply it themselves (AMX, AVX512-BF16), else float32
    Auto,
    /// float32
    Fp32,
    /// Convolutions and matrix products in bfloat16, everything else in float32
    Bf16,
}

impl Precision {
    /// Whether to compute in bfloat16 on `device`.
    pub fn bf16(self, device: Device) -> bool {
        match self {
            Self::Fp32 => false,
            Self::Bf16 => true,
            Self::Auto => device.is_cuda() || CpuBf16::here().is_some(),
        }
    }
}

/// How a CPU multiplies bfloat16 itself, which makes training about twice as fast (docs/benchmarks.md). Others take float32
/// apart for it, and gain nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuBf16 {
    /// In tiles.
    Amx,
    /// In vectors of 512 bits: AVX512-BF16.
    Avx512,
}

impl CpuBf16 {
    /// How this machine's does; none where it does not, or the system does not say.
    pub fn here() -> Option<Self> {
        std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|said| Self::of(&said))
    }

    /// By what Linux says of the processors.
    fn of(cpuinfo: &str) -> Option<Self> {
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
        let has = |flag: &str| flags.split_ascii_whitespace().any(|word| word == flag);
        if has("amx_bf16") { Some(Self::Amx) } else { has("avx512_bf16").then_some(Self::Avx512) }
    }
}

/// `host` on `device` without waiting for what the device has still to do.
pub fn upload(host: &Tensor, device: Device) -> Tensor {
    // pinned memory can run out; then the copy is one that waits
    occlude_torch_ext::upload(host, device).unwrap_or_else(|_| host.to(device))
}

/// Lets cuDNN try its algorithms for convolutions on the first batch and keep the fastest: every batch has one shape.
pub fn prepare(device: Device) {
    if device.is_cuda() {
        Cuda::cudnn_set_benchmark(true);
    }
}

/// Lets libtorch use deterministic algorithms only. To be called before CUDA is first used.
pub fn be_deterministic() {
    // SAFETY: no other thread runs yet that could read the environment.
    unsafe { std::env::set_var("CUBLAS_WORKSPACE_CONFIG", ":4096:8") };
    occlude_torch_ext::deterministic();
}

/// Keeps freed memory in the process. A training step frees and takes again the same gigabytes of
/// feature maps; given back to the system in between, every page of them would be cleared and
/// mapped anew each step.
pub fn tune_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: plain settings of glibc's allocator, before any thread is started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_multiplies_bfloat16_where_its_flags_say_so() {
        let of =
            |flags: &str| CpuBf16::of(&format!("processor\t: 0\nflags\t\t: fpu {flags} avx2\nbugs\t: x\n"));
        assert_eq!(of("avx512_bf16 amx_bf16 amx_tile"), Some(CpuBf16::Amx));
        assert_eq!(of("avx512f avx512_bf16"), Some(CpuBf16::Avx512));
        // AVX-512 and tiles alone do not
        assert_eq!(of("avx512f avx512_vnni amx_tile amx_int8"), None);
        assert_eq!(CpuBf16::of(""), None);
    }

    #[test]
    fn names_of_devices() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
        }
        assert!("gpu".parse::<Choice>().is_err() && "cuda:x".parse::<Choice>().is_err());
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let error = Choice::Cuda(99).resolve().expect_err("no such device").to_string();
        assert!(error.contains("cuda:99") && error.contains("doctor"), "{error}");
    }

    /// What happens on CUDA is checked by `selftest --device cuda`.
    #[test]
    fn without_cuda_copies_are_plain_or_refused() {
        let host = Tensor::from_slice(&[1u8, 2, 3]);
        assert!(upload(&host, Device::Cpu) == host);
        if !Cuda::is_available() {
            let error = occlude_torch_ext::Copier::new(Device::Cuda(0)).expect_err("no device").to_string();
            assert!(error.starts_with("libtorch: "), "{error}");
            assert!(occlude_torch_ext::upload(&host, Device::Cuda(0)).is_err());
        }
    }
}
