//! The second runtime. It is half of what the exporter takes to build, so that it is a feature of its own.

use std::sync::Arc;

use occlude_contract::InputKind;
use tract_onnx::prelude::{Datum, InferenceFact, Tensor};
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable, TypedRunnableModel, tvec};

use super::{Outputs, missing_output};
use crate::pictures::{Batch, Pixels};
use crate::{Error, OnnxFile};

/// The model in tract, for one picture at a time.
pub(crate) struct TractModel {
    plan: Arc<TypedRunnableModel>,
    outputs: Vec<String>,
}

fn tract_error(action: &'static str) -> impl Fn(tract_onnx::prelude::TractError) -> Error {
    move |e| Error::Runtime { runtime: "tract", action, reason: format!("{e:#}") }
}

impl TractModel {
    pub(crate) fn load(file: &OnnxFile, side: usize) -> Result<Self, Error> {
        let failed = tract_error("load the model");
        let kind = file.input()?;
        let element = match kind {
            InputKind::Float => f32::datum_type(),
            InputKind::Uint8 => u8::datum_type(),
        };
        let fact = InferenceFact::dt_shape(element, kind.shape(1, side));
        let plan = tract_onnx::onnx()
            .model_for_path(file.path())
            .and_then(|model| model.with_input_fact(0, fact))
            .and_then(InferenceModelExt::into_optimized)
            .and_then(IntoRunnable::into_runnable)
            .map_err(failed)?;
        Ok(Self { plan, outputs: file.ports().1.into_iter().map(|p| p.name).collect() })
    }

    /// Runs a batch of one picture.
    pub(crate) fn run(&self, batch: &Batch<'_>) -> Result<Outputs, Error> {
        let input = match &batch.pixels {
            Pixels::Float(data) => Tensor::from_shape(&batch.shape(), data),
            Pixels::Uint8(data) => Tensor::from_shape(&batch.shape(), data),
        };
        let failed = tract_error("run the model");
        let outputs = input.and_then(|input| self.plan.run(tvec!(input.into()))).map_err(&failed)?;
        let values = |at: usize, name: &String| -> Result<(String, Vec<f32>), Error> {
            let tensor = outputs.get(at).ok_or_else(|| missing_output("tract", name))?;
            let values = tensor.to_plain_array_view::<f32>().map_err(&failed)?;
            Ok((name.clone(), values.iter().copied().collect()))
        };
        self.outputs.iter().enumerate().map(|(at, name)| values(at, name)).collect()
    }
}
