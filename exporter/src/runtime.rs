//! ONNX Runtime and tract behind one signature.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use tract_onnx::prelude::{Datum, InferenceFact, Tensor};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, TypedRunnableModel, tvec};

use crate::onnx::InputKind;
use crate::{Error, OnnxFile};

const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Why there is no ONNX Runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// Nowhere to be found.
    #[error(
        "no ONNX Runtime library; hint: run `cargo xtask setup`, or set {VARIABLE} to libonnxruntime.so (looked for {})",
        .looked.iter().map(|p| format!("`{}`", p.display())).collect::<Vec<_>>().join(", ")
    )]
    Missing {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The variable or the file leads nowhere.
    #[error("cannot load ONNX Runtime from `{}`: {reason}; hint: run `cargo xtask setup`, or correct {VARIABLE}", .path.display())]
    Load {
        /// The library.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
}

/// A batch of inputs, `rows` of equal length one behind the other.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Batch<'a> {
    /// Normalised planes.
    Float(&'a [f32]),
    /// Pixels.
    Uint8(&'a [u8]),
}

/// The outputs for one picture.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outputs {
    pub(crate) embedding: Vec<f32>,
    pub(crate) saliency: Vec<f32>,
}

/// The process's ONNX Runtime: there can be one, so the first outcome is everybody's.
fn environment() -> Result<&'static Environment, LibraryError> {
    static ENVIRONMENT: OnceLock<Result<Environment, LibraryError>> = OnceLock::new();
    let load = || {
        let path =
            library(std::env::var_os(VARIABLE).map(PathBuf::from), std::env::current_exe().ok().as_deref())?;
        let failed = |reason: String| LibraryError::Load { path: path.clone(), reason };
        let builder = ort::init_from(&path).map_err(|e| failed(e.to_string()))?;
        let environment = builder.with_name("occlude").with_telemetry(false).build();
        let environment = environment.map_err(|e| failed(e.to_string()))?;
        environment.set_log_level(ort::logging::LogLevel::Error);
        Ok(environment)
    };
    ENVIRONMENT.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// The variable where it is set; else beside the executable, as in a bundle, or what `cargo xtask setup` put into the
/// checkout that it was built in.
fn library(variable: Option<PathBuf>, executable: Option<&Path>) -> Result<PathBuf, LibraryError> {
    if let Some(path) = variable.filter(|v| !v.as_os_str().is_empty()) {
        let reason = "no such file".to_owned();
        return if path.exists() { Ok(path) } else { Err(LibraryError::Load { path, reason }) };
    }
    let folder = executable.and_then(Path::parent).unwrap_or(Path::new("."));
    let places = ["../lib", ".", "../../.deps/onnxruntime"];
    let looked: Vec<_> = places.iter().map(|place| folder.join(place).join("libonnxruntime.so")).collect();
    looked.iter().find(|p| p.exists()).cloned().ok_or(LibraryError::Missing { looked })
}

/// The model in ONNX Runtime, on the CPU.
pub(crate) struct OrtModel {
    session: Session,
    input: InputKind,
    side: usize,
}

fn ort_error(action: &'static str) -> impl Fn(ort::Error) -> Error {
    move |e| Error::Runtime { runtime: "ONNX Runtime", action, reason: e.to_string() }
}

impl OrtModel {
    pub(crate) fn load(file: &OnnxFile, side: usize) -> Result<Self, Error> {
        let failed = ort_error("load the model");
        let mut builder = Session::builder(environment()?).map_err(&failed)?;
        let session = builder.commit_from_memory(file.bytes()).map_err(&failed)?;
        Ok(Self { session, input: file.input()?, side })
    }

    /// Runs a batch of `rows` pictures.
    pub(crate) fn run(&mut self, batch: Batch<'_>, rows: usize) -> Result<Vec<Outputs>, Error> {
        let failed = ort_error("run the model");
        let (name, side) = (self.input.name(), self.side);
        let outputs = match batch {
            Batch::Float(data) => {
                let tensor = TensorRef::from_array_view(([rows, 3, side, side], data)).map_err(&failed)?;
                self.session.run(ort::inputs![name => tensor])
            }
            Batch::Uint8(data) => {
                let tensor = TensorRef::from_array_view(([rows, side, side, 3], data)).map_err(&failed)?;
                self.session.run(ort::inputs![name => tensor])
            }
        }
        .map_err(&failed)?;
        let values = |output: &str| -> Result<Vec<f32>, Error> {
            let value = outputs.get(output).ok_or_else(|| missing_output("ONNX Runtime", output))?;
            Ok(value.try_extract_tensor::<f32>().map_err(&failed)?.1.to_vec())
        };
        Ok(split(rows, &values("embedding")?, &values("saliency")?))
    }
}

fn missing_output(runtime: &'static str, output: &str) -> Error {
    let reason = format!("the model has no output `{output}`");
    Error::Runtime { runtime, action: "run the model", reason }
}

/// One [`Outputs`] per picture.
fn split(rows: usize, embedding: &[f32], saliency: &[f32]) -> Vec<Outputs> {
    let row = |values: &[f32], i: usize| {
        let length = values.len() / rows.max(1);
        values[i * length..(i + 1) * length].to_vec()
    };
    (0..rows).map(|i| Outputs { embedding: row(embedding, i), saliency: row(saliency, i) }).collect()
}

/// The model in tract, for one picture at a time.
pub(crate) struct TractModel {
    plan: Arc<TypedRunnableModel>,
    side: usize,
    /// Positions of `embedding` and `saliency` among the outputs.
    outputs: (usize, usize),
}

fn tract_error(action: &'static str) -> impl Fn(tract_onnx::prelude::TractError) -> Error {
    move |e| Error::Runtime { runtime: "tract", action, reason: format!("{e:#}") }
}

impl TractModel {
    pub(crate) fn load(file: &OnnxFile, side: usize) -> Result<Self, Error> {
        let failed = tract_error("load the model");
        let fact = match file.input()? {
            InputKind::Float => InferenceFact::dt_shape(f32::datum_type(), tvec!(1, 3, side, side)),
            InputKind::Uint8 => InferenceFact::dt_shape(u8::datum_type(), tvec!(1, side, side, 3)),
        };
        let plan = tract_onnx::onnx()
            .model_for_proto_model(file.proto())
            .and_then(|model| model.with_input_fact(0, fact))
            .and_then(InferenceModelExt::into_optimized)
            .and_then(IntoRunnable::into_runnable)
            .map_err(failed)?;
        let (_, names) = file.ports();
        let at = |name: &str| {
            names.iter().position(|p| p.name == name).ok_or_else(|| missing_output("tract", name))
        };
        Ok(Self { plan, side, outputs: (at("embedding")?, at("saliency")?) })
    }

    /// Runs one picture.
    pub(crate) fn run(&self, row: Batch<'_>) -> Result<Outputs, Error> {
        let side = self.side;
        let input = match row {
            Batch::Float(data) => Tensor::from_shape(&[1, 3, side, side], data),
            Batch::Uint8(data) => Tensor::from_shape(&[1, side, side, 3], data),
        };
        let failed = tract_error("run the model");
        let outputs = input.and_then(|input| self.plan.run(tvec!(input.into()))).map_err(&failed)?;
        let values = |at: usize| -> Result<Vec<f32>, Error> {
            let tensor = outputs.get(at).ok_or_else(|| missing_output("tract", "embedding"))?;
            Ok(tensor.to_plain_array_view::<f32>().map_err(&failed)?.iter().copied().collect())
        };
        Ok(Outputs { embedding: values(self.outputs.0)?, saliency: values(self.outputs.1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_or_an_error_says_where_it_was_sought() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let exe = folder.path().join("bin").join("occlude-export");
        let missing = library(None, Some(&exe)).expect_err("nothing there");
        assert!(missing.to_string().contains("cargo xtask setup"), "{missing}");
        assert!(matches!(&missing, LibraryError::Missing { looked } if looked.len() == 3));
        let dangling = library(Some("/nowhere/libonnxruntime.so".into()), Some(&exe));
        assert!(matches!(dangling, Err(LibraryError::Load { .. })));
        std::fs::create_dir_all(folder.path().join("bin")).expect("makes");
        let beside = folder.path().join("bin/libonnxruntime.so");
        std::fs::write(&beside, "").expect("writes");
        let found = library(Some(PathBuf::new()), Some(&exe)).expect("beside");
        assert_eq!(found.canonicalize().expect("there"), beside.canonicalize().expect("there"));
    }

    #[test]
    fn rows_are_split() {
        let rows = split(2, &[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0]);
        assert_eq!(rows[1], Outputs { embedding: vec![3.0, 4.0], saliency: vec![6.0] });
    }
}
