//! ONNX Runtime and tract behind one signature.

#[cfg(feature = "tract")]
mod tract;

use std::collections::BTreeMap;
use std::path::Path;

use occlude_contract::InputKind;
use ort::session::SessionOutputs;
use ort::value::TensorRef;

use occlude_onnxruntime::environment;

use crate::Error;
use crate::pictures::{Batch, Pixels};

#[cfg(feature = "tract")]
pub(crate) use tract::TractModel;

/// The outputs for one picture, by name.
pub(crate) type Outputs = BTreeMap<String, Vec<f32>>;

/// A model in ONNX Runtime, on the CPU.
pub(crate) struct Session(ort::session::Session);

fn ort_error(action: &'static str) -> impl Fn(ort::Error) -> Error {
    move |e| Error::Runtime { runtime: "ONNX Runtime", action, reason: e.to_string() }
}

impl Session {
    /// A model in memory, with all its weights.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let failed = ort_error("load the model");
        let mut builder = ort::session::Session::builder(environment()?).map_err(&failed)?;
        builder.commit_from_memory(bytes).map(Self).map_err(failed)
    }

    /// A model in a file, whose weights may be in another one.
    pub(crate) fn from_file(path: &Path) -> Result<Self, Error> {
        let failed = ort_error("load the model");
        let mut builder = ort::session::Session::builder(environment()?).map_err(&failed)?;
        builder.commit_from_file(path).map(Self).map_err(failed)
    }

    /// Runs a batch; `take` gets the position of each name and the values of that output.
    pub(crate) fn run(
        &mut self,
        batch: &Batch<'_>,
        names: &[String],
        take: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        let failed = ort_error("run the model");
        let input = match &batch.pixels {
            Pixels::Float(_) => InputKind::Float,
            Pixels::Uint8(_) => InputKind::Uint8,
        };
        let outputs = self.outputs(input.name(), batch)?;
        for (at, name) in names.iter().enumerate() {
            let value = outputs.get(name).ok_or_else(|| missing_output("ONNX Runtime", name))?;
            take(at, value.try_extract_tensor::<f32>().map_err(&failed)?.1);
        }
        Ok(())
    }

    /// Runs a batch of a model that calls its input something else; `take` gets the shape and the values of one output.
    pub(crate) fn run_as(
        &mut self,
        input: &str,
        batch: &Batch<'_>,
        output: &str,
        take: &mut dyn FnMut(&[i64], &[f32]),
    ) -> Result<(), Error> {
        let outputs = self.outputs(input, batch)?;
        let value = outputs.get(output).ok_or_else(|| missing_output("ONNX Runtime", output))?;
        let (shape, values) = value.try_extract_tensor::<f32>().map_err(ort_error("run the model"))?;
        take(shape, values);
        Ok(())
    }

    fn outputs(&mut self, input: &str, batch: &Batch<'_>) -> Result<SessionOutputs<'_>, Error> {
        let failed = ort_error("run the model");
        let shape = batch.shape();
        match &batch.pixels {
            Pixels::Float(data) => {
                let tensor = TensorRef::from_array_view((shape, &**data)).map_err(&failed)?;
                self.0.run(ort::inputs![input => tensor])
            }
            Pixels::Uint8(data) => {
                let tensor = TensorRef::from_array_view((shape, &**data)).map_err(&failed)?;
                self.0.run(ort::inputs![input => tensor])
            }
        }
        .map_err(&failed)
    }

    /// Runs a batch; one entry per picture.
    pub(crate) fn rows(&mut self, batch: &Batch<'_>, names: &[String]) -> Result<Vec<Outputs>, Error> {
        let mut rows = vec![Outputs::new(); batch.rows];
        self.run(batch, names, &mut |at, values| {
            let length = values.len() / batch.rows.max(1);
            for (row, values) in rows.iter_mut().zip(values.chunks(length.max(1))) {
                row.insert(names[at].clone(), values.to_vec());
            }
        })?;
        Ok(rows)
    }
}

fn missing_output(runtime: &'static str, output: &str) -> Error {
    let reason = format!("the model has no output `{output}`");
    Error::Runtime { runtime, action: "run the model", reason }
}
