//! TensorRT's execution provider: it builds an engine of the whole graph for one GPU, which takes minutes and is kept.

use std::path::{Path, PathBuf};

use occlude_onnxruntime::encoder;
use occlude_preprocess::Preprocess;
use ort::ep::{ExecutionProvider, TensorRT};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;

use super::error::LoadError;
use crate::config::Precision;
use occlude_contract::{InputKind, key};

/// In which numbers TensorRT multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    F16,
    Bf16,
    F32,
}

impl From<Precision> for Arithmetic {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto | Precision::F16 => Self::F16,
            Precision::Bf16 => Self::Bf16,
            Precision::F32 => Self::F32,
        }
    }
}

/// What an engine is built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Engine {
    kind: InputKind,
    side: u32,
    max_batch: usize,
    /// SHA-256 of the model's file and its external data. ONNX Runtime names engines by the graph alone: of two models that
    /// differ in their weights, one would run as the other.
    digest: String,
    /// Where engines are kept.
    folder: Option<PathBuf>,
}

pub(super) fn refused(reason: String) -> LoadError {
    LoadError::Provider {
        provider: "tensorrt",
        reason,
        hint: "`pip install onnxruntime-gpu tensorrt-cu13-libs`, and point ORT_DYLIB_PATH to the library of the former; \
               `--provider cuda` needs no TensorRT",
    }
}

/// # Errors
/// Where ONNX Runtime does not know TensorRT.
pub(super) fn available() -> Result<(), LoadError> {
    occlude_onnxruntime::preload_tensorrt();
    match TensorRT::is_available() {
        Ok(true) => Ok(()),
        _ => Err(refused("this ONNX Runtime is built without TensorRT".to_owned())),
    }
}

impl Engine {
    /// For the model at `path`, whose input and contract a session on the CPU tells.
    ///
    /// # Errors
    /// Where it is no model of ours; the same errors come of loading it elsewhere.
    pub(super) fn of(path: &Path, digest: &str, max_batch: usize) -> Result<Self, LoadError> {
        let failed = |reason: String| LoadError::Session { path: path.to_owned(), reason };
        let builder =
            Session::builder(occlude_onnxruntime::environment()?).map_err(|e| failed(e.to_string()))?;
        let builder = builder.with_optimization_level(GraphOptimizationLevel::Disable);
        let mut builder = builder.map_err(|e| failed(e.to_string()))?;
        let session = builder.commit_from_file(path).map_err(|e| failed(e.to_string()))?;
        let metadata = session.metadata().map_err(|e| failed(e.to_string()))?;
        let missing = || LoadError::Metadata { path: path.to_owned(), key: key::PREPROCESS };
        let text = metadata.custom(key::PREPROCESS).ok_or_else(missing)?;
        let contract = Preprocess::from_json(&text)
            .map_err(|source| LoadError::Contract { path: path.to_owned(), source })?;
        let kind = encoder::input(&session, contract.crop)
            .map_err(|mismatch| LoadError::Shape { path: path.to_owned(), mismatch })?;
        let folder = occlude_dataset::default_cache_folder().map(|cache| cache.join("tensorrt"));
        Ok(Self { kind, side: contract.crop, max_batch, digest: digest.to_owned(), folder })
    }

    /// The provider on a GPU.
    ///
    /// # Errors
    /// Where the folder of engines cannot be made.
    pub(super) fn provider(
        &self,
        arithmetic: Arithmetic,
        device: Option<u32>,
    ) -> Result<TensorRT, LoadError> {
        let [least, most] = [1, self.max_batch].map(|n| self.shape(n));
        // One profile for all batches: an engine for each size would be built while clients wait.
        let provider = TensorRT::default()
            .with_profile_min_shapes(&least)
            .with_profile_opt_shapes(&most)
            .with_profile_max_shapes(&most)
            .with_fp16(arithmetic == Arithmetic::F16)
            .with_bf16(arithmetic == Arithmetic::Bf16)
            // Their sums overflow in float16.
            .with_layer_norm_fp32_fallback(true);
        let provider = match device {
            Some(device) => provider.with_device_id(i32::try_from(device).unwrap_or(i32::MAX)),
            None => provider,
        };
        let Some(folder) = &self.folder else { return Ok(provider) };
        std::fs::create_dir_all(folder).map_err(|e| {
            refused(format!("cannot make `{}`, where engines are kept: {e}", folder.display()))
        })?;
        let path = folder.display();
        let prefix: String = self.digest.chars().take(16).collect();
        Ok(provider
            .with_engine_cache(true)
            .with_engine_cache_path(&path)
            .with_engine_cache_prefix(format!("occlude-{prefix}"))
            .with_timing_cache(true)
            .with_timing_cache_path(&path))
    }

    /// As TensorRT reads it: `images:8x224x224x3`.
    fn shape(&self, batch: usize) -> String {
        let sides = self.kind.shape(batch as u64, u64::from(self.side)).map(|side| side.to_string());
        format!("{}:{}", self.kind.name(), sides.join("x"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_takes_batches_of_all_sizes() {
        let engine = |kind| Engine { kind, side: 224, max_batch: 8, digest: String::new(), folder: None };
        assert_eq!(engine(InputKind::Float).shape(1), "pixel_values:1x3x224x224");
        assert_eq!(engine(InputKind::Uint8).shape(8), "images:8x224x224x3");
        assert_eq!(Arithmetic::from(Precision::Auto), Arithmetic::F16);
    }
}
