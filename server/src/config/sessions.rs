//! What runs a model: the same settings for the server and for bulk jobs.

use super::headings::MODEL;
use super::limits::cores;
use super::{ConfigError, Sources, check, units};

/// Execution provider asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// CUDA if it works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA or an error.
    Cuda,
    /// OpenVINO on the CPU, or an error.
    Openvino,
    /// TensorRT, with CUDA for what it does not take, or an error.
    Tensorrt,
}

/// Numbers in which OpenVINO and TensorRT multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// With OpenVINO bfloat16 where the processor multiplies it itself, else float32; with TensorRT float16.
    Auto,
    /// float16, of TensorRT.
    F16,
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

/// ONNX Runtime's sessions of a model.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Sessions {
    /// Where the models run: `cuda`, `openvino` and `tensorrt` fail at start if they cannot run; `auto` uses CUDA if it
    /// works, else the CPU, and reports which
    #[arg(long, value_enum, default_value_t = Provider::Auto, help_heading = MODEL)]
    pub provider: Provider,
    /// Arithmetic of `--provider openvino` and `tensorrt`: `bf16` is several times as fast as `f32` on processors that have
    /// it, and rounds; `auto` takes it there, and `f16` with TensorRT
    #[arg(long, value_enum, default_value_t = Precision::Auto, help_heading = MODEL)]
    pub precision: Precision,
    /// Numbers of the GPUs that CUDA and TensorRT use, like `0,1`; sessions take them in turn [default: 0]
    #[arg(long, value_name = "N,..", value_delimiter = ',', help_heading = MODEL)]
    pub devices: Vec<u32>,
    /// Sessions of each model that encode side by side, each with its own copy of the weights
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = MODEL)]
    pub workers: usize,
    /// Threads within one session, on the CPU [default: cores divided by workers]
    #[arg(long, value_name = "N", help_heading = MODEL)]
    pub intra_threads: Option<usize>,
    /// Maximum bytes of GPU memory that one session uses for weights and activations, like `4GiB` [default: as needed]
    #[arg(long, value_name = "BYTES", value_parser = units::bytes, help_heading = MODEL)]
    pub gpu_mem_limit: Option<usize>,
}

impl Sessions {
    /// On the CPU alone, with so many threads in one session.
    pub fn on_cpu(threads: usize) -> Self {
        Self {
            provider: Provider::Cpu,
            precision: Precision::Auto,
            devices: Vec::new(),
            workers: 1,
            intra_threads: Some(threads),
            gpu_mem_limit: None,
        }
    }

    /// Threads of each session.
    pub fn intra_threads(&self) -> usize {
        self.intra_threads.unwrap_or_else(|| (cores() / self.workers.max(1)).max(1))
    }

    /// Checks the numbers, and that nothing is set for a provider that is not asked for.
    ///
    /// # Errors
    /// The [`ConfigError`] names the setting.
    pub fn check(&self, sources: &Sources) -> Result<(), ConfigError> {
        let counts = [
            ("workers", self.workers as u64),
            ("intra-threads", self.intra_threads.unwrap_or(1) as u64),
            ("gpu-mem-limit", self.gpu_mem_limit.unwrap_or(1) as u64),
        ];
        check::counts(sources, &counts)?;
        let without = |flag, provider: &str| ConfigError::Without {
            setting: sources.name(flag),
            other: format!("`--provider {provider}`"),
        };
        match (self.precision, self.provider) {
            (Precision::Auto, _) | (_, Provider::Tensorrt) => {}
            (Precision::F16, _) => return Err(without("precision", "tensorrt")),
            (_, Provider::Openvino) => {}
            _ => return Err(without("precision", "openvino")),
        }
        let on_gpus = matches!(self.provider, Provider::Cuda | Provider::Tensorrt | Provider::Auto);
        if !self.devices.is_empty() && !on_gpus {
            return Err(without("devices", "cuda"));
        }
        // A GPU that is named and gets no session would stay idle silently.
        let devices = self.devices.len() as u64;
        check::bounds(sources, &[(("devices", devices), ("workers", self.workers as u64))])
    }
}
