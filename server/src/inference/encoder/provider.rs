//! Sessions on the execution provider that was asked for. None falls back to another silently.

use std::path::Path;

use occlude_onnxruntime::environment;
use occlude_onnxruntime::openvino::{Arithmetic, OpenVinoError, with_openvino, with_own_kernels};
use ort::ep::{ArenaExtendStrategy, CUDA, ExecutionProvider, cuda::ConvAlgorithmSearch};
use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::error::LoadError;
use super::golden::Least;
use super::tensorrt::{self, Engine};
use crate::config::{Precision, Provider, Sessions};

/// What really runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    Cpu,
    Cuda,
    OpenVino(Arithmetic),
    TensorRt(tensorrt::Arithmetic),
}

impl Runs {
    /// In ONNX Runtime's name without `ExecutionProvider`; OpenVINO with its arithmetic.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Cuda => "CUDA",
            Self::OpenVino(Arithmetic::Bf16) => "OpenVINO bf16",
            Self::OpenVino(Arithmetic::F32) => "OpenVINO f32",
            Self::TensorRt(tensorrt::Arithmetic::F16) => "TensorRT f16",
            Self::TensorRt(tensorrt::Arithmetic::Bf16) => "TensorRT bf16",
            Self::TensorRt(tensorrt::Arithmetic::F32) => "TensorRT f32",
        }
    }

    /// Least cosines between the golden picture's answers and those of a right computation. bfloat16 has 8 bits for the
    /// digits of a number. Embeddings of trained networks were measured at 0.9998 and above; the map of one at 0.9975,
    /// because it divides the differences within a picture by their deviation.
    pub(super) fn least(self) -> Least {
        match self {
            // float16 has 11 bits; TensorRT's were never measured
            Self::OpenVino(Arithmetic::Bf16)
            | Self::TensorRt(tensorrt::Arithmetic::F16 | tensorrt::Arithmetic::Bf16) => {
                Least { embedding: 0.999, saliency: 0.99 }
            }
            Self::Cpu
            | Self::Cuda
            | Self::OpenVino(Arithmetic::F32)
            | Self::TensorRt(tensorrt::Arithmetic::F32) => Least::both(1.0),
        }
    }
}

/// How the sessions of a model are made.
pub(super) struct Opener<'a> {
    path: &'a Path,
    options: &'a Sessions,
    pub(super) runs: Runs,
    /// Of TensorRT.
    engine: Option<Engine>,
}

impl<'a> Opener<'a> {
    /// The first session, what it really runs on, and why that is not CUDA where it was to be if possible. `digest`: of the
    /// model's files.
    pub(super) fn first(
        path: &'a Path,
        sessions: &'a Sessions,
        (max_batch, digest): (usize, &str),
    ) -> Result<(Self, Session, Option<String>), LoadError> {
        environment()?;
        let on = |runs, engine| {
            let opener = Self { path, options: sessions, runs, engine };
            let session = opener.session(0)?;
            Ok((opener, session))
        };
        let cuda = || cuda_available().and_then(|()| on(Runs::Cuda, None));
        let (opened, why) = match sessions.provider {
            Provider::Cpu => (on(Runs::Cpu, None)?, None),
            Provider::Cuda => (cuda()?, None),
            Provider::Openvino => {
                let arithmetic = arithmetic(sessions.precision, multiplies_bf16())?;
                (on(Runs::OpenVino(arithmetic), None)?, None)
            }
            Provider::Tensorrt => {
                tensorrt::available()?;
                let engine = Engine::of(path, digest, max_batch)?;
                (on(Runs::TensorRt(sessions.precision.into()), Some(engine))?, None)
            }
            Provider::Auto => match cuda() {
                Ok(opened) => (opened, None),
                Err(LoadError::Provider { reason, .. }) => (on(Runs::Cpu, None)?, Some(reason)),
                Err(other) => return Err(other),
            },
        };
        Ok((opened.0, opened.1, why))
    }
}

fn cuda_available() -> Result<(), LoadError> {
    match CUDA::is_available() {
        Ok(true) => Ok(()),
        _ => Err(LoadError::Provider {
            provider: "cuda",
            reason: "this ONNX Runtime is built without CUDA".to_owned(),
            hint: "point ORT_DYLIB_PATH to the library of the onnxruntime-gpu package, or use `--provider cpu`",
        }),
    }
}

/// Whether the processor multiplies bfloat16 itself.
fn multiplies_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

fn arithmetic(precision: Precision, bf16: bool) -> Result<Arithmetic, LoadError> {
    match precision {
        Precision::F32 => Ok(Arithmetic::F32),
        Precision::F16 => Err(LoadError::Provider {
            provider: "openvino",
            reason: "`--precision f16` is TensorRT's".to_owned(),
            hint: "use `--precision auto`, `bf16` or `f32`",
        }),
        Precision::Auto if !bf16 => Ok(Arithmetic::F32),
        Precision::Bf16 if !bf16 => Err(LoadError::Provider {
            provider: "openvino",
            reason: "`--precision bf16`, but this processor does not multiply bfloat16 (AVX512-BF16)"
                .to_owned(),
            hint: "use `--precision auto`, which takes f32 here",
        }),
        Precision::Auto | Precision::Bf16 => Ok(Arithmetic::Bf16),
    }
}

impl Opener<'_> {
    /// The session of a worker, counted from 0.
    pub(super) fn session(&self, worker: usize) -> Result<Session, LoadError> {
        let Self { path, options, runs, engine } = self;
        let failed = |reason: String| match runs {
            Runs::Cpu => LoadError::Session { path: (*path).to_owned(), reason },
            Runs::Cuda => LoadError::Provider {
                provider: "cuda",
                reason,
                hint: "check the driver with nvidia-smi and the CUDA and cuDNN libraries; `--provider cpu` needs neither",
            },
            Runs::OpenVino(_) => LoadError::Provider {
                provider: "openvino",
                reason: format!("`{}`: {reason}", path.display()),
                hint: "`--provider cpu` takes every model",
            },
            Runs::TensorRt(_) => tensorrt::refused(format!("`{}`: {reason}", path.display())),
        };
        let text = |e: ort::Error| failed(e.to_string());
        let builder = Session::builder(environment()?).map_err(text)?;
        let builder =
            builder.with_intra_threads(options.intra_threads()).map_err(|e| failed(e.to_string()))?;
        // Threads that spin between runs take the cores that decode the next pictures.
        let builder = builder.with_intra_op_spinning(false).map_err(|e| failed(e.to_string()))?;
        let mut builder = match runs {
            Runs::Cpu => with_own_kernels(builder, environment()?).map_err(text)?,
            Runs::Cuda => {
                let builder = alone(builder).map_err(failed)?;
                // Without `error_on_failure` a provider that fails to load leaves the CPU in its place, silently.
                let cuda = cuda(options, worker).build().error_on_failure();
                builder.with_execution_providers([cuda]).map_err(|e| failed(e.to_string()))?
            }
            Runs::OpenVino(arithmetic) => {
                let builder = alone(builder).map_err(failed)?;
                with_openvino(builder, environment()?, options.intra_threads(), *arithmetic)
                    .map_err(|e| openvino(&e))?
            }
            Runs::TensorRt(arithmetic) => {
                let builder = alone(builder).map_err(failed)?;
                let engine = engine.as_ref().ok_or_else(|| failed("no engine was described".to_owned()))?;
                let device = options.devices.get(worker % options.devices.len().max(1)).copied();
                let tensorrt = engine.provider(*arithmetic, device)?.build().error_on_failure();
                let cuda = cuda(options, worker).build().error_on_failure();
                builder.with_execution_providers([tensorrt, cuda]).map_err(|e| failed(e.to_string()))?
            }
        };
        builder.commit_from_file(path).map_err(text)
    }
}

/// Nodes that the provider has no kernel for would run on the CPU, silently, with copies around each.
fn alone(builder: SessionBuilder) -> Result<SessionBuilder, String> {
    builder.with_config_entry("session.disable_cpu_ep_fallback", "1").map_err(|e| e.to_string())
}

/// CUDA's settings.
fn cuda(options: &Sessions, worker: usize) -> CUDA {
    let cuda = CUDA::default()
        // The exhaustive search stalls every new batch shape for hundreds of milliseconds.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        // The default doubles the arena with each extension and never gives anything back.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
    let cuda = match options.devices.get(worker % options.devices.len().max(1)) {
        Some(&device) => cuda.with_device_id(i32::try_from(device).unwrap_or(i32::MAX)),
        None => cuda,
    };
    match options.gpu_mem_limit {
        Some(bytes) => cuda.with_memory_limit(bytes),
        None => cuda,
    }
}

fn openvino(error: &OpenVinoError) -> LoadError {
    let hint = match error {
        OpenVinoError::Missing { .. } => {
            "`pip install onnxruntime-ep-openvino` alongside onnxruntime, `cargo xtask setup` in a checkout, or set \
             OPENVINO_EP_PATH to libonnxruntime_providers_openvino_plugin.so"
        }
        OpenVinoError::Load { .. } => {
            "the package onnxruntime-ep-openvino 1.8 needs ONNX Runtime 1.23 or later"
        }
        OpenVinoError::NoDevice { .. } | OpenVinoError::Session { .. } => {
            "`--provider cpu` takes every model"
        }
    };
    LoadError::Provider { provider: "openvino", reason: error.to_string(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_bfloat16_where_the_processor_has_it() {
        assert_eq!(arithmetic(Precision::Auto, true).unwrap(), Arithmetic::Bf16);
        assert_eq!(arithmetic(Precision::Auto, false).unwrap(), Arithmetic::F32);
        assert_eq!(arithmetic(Precision::F32, true).unwrap(), Arithmetic::F32);
        let refused = arithmetic(Precision::Bf16, false).unwrap_err().to_string();
        assert!(refused.contains("AVX512-BF16") && refused.contains("hint: "), "{refused}");
    }
}
