//! `ModelInfer`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;

use super::super::answer::gather;
use super::super::inputs::{
    Asked, Data, Elements, Input, Pictures, Rules, Wanted, invalid, only, outputs, pictures, shared,
};
use super::super::tensor::Element;
use super::super::{VERSION, encode, named, version};
use super::bounds::{REQUEST, within};
use super::frame::{Framed, check, framed, read_message, unframed};
use super::message::{
    Choice, InferInputTensor, InferOutputTensor, InferParameter, InferRequestedOutputTensor,
    ModelInferRequest, ModelInferResponse,
};
use super::some;
use crate::error::{ApiError, Kind};
use crate::inference::encode::Encoded;
use crate::inference::model::{Model, ModelInfo};
use crate::observe::metrics::Stage;
use crate::routes::receive::whole;
use crate::serving::admission::Admitted;
use crate::serving::state::AppState;

/// Most fields of a request besides its pictures.
const FIELDS: usize = 4096;

/// A request, read.
struct Read {
    model: Arc<Model>,
    /// What it wants and sends, or why that cannot be.
    pictures: Result<(Asked, Pictures), ApiError>,
}

pub(super) async fn infer(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    check(&head.headers)?;
    let mut admitted = Admitted::new(&state)?;
    let body = whole(&state, &mut admitted, &head.headers, body).await?;
    let (mut message, coding) = unframed(&head.headers, body)?;
    if let Some(coding) = coding {
        let limit = state.limits().max_body;
        message = state.pooled(move || coding.decode(&message, limit)).await??;
        admitted.bytes(message.len())?;
    }
    let known = state.clone();
    let Read { model, pictures } = state.on_pool(Stage::Parse, None, move || read(&known, message)).await??;
    let start = Instant::now();
    let pictures = pictures.map(|(asked, pictures)| answer(&state, &model, &mut admitted, asked, pictures));
    let answered = match pictures {
        Ok(answer) => answer.await,
        Err(error) => Err(error),
    };
    state.metrics().inferred(&model.info.name, answered.is_ok(), start.elapsed());
    answered
}

/// The model's answer.
async fn answer(
    state: &AppState,
    model: &Arc<Model>,
    admitted: &mut Admitted,
    asked: Asked,
    pictures: Pictures,
) -> Result<Response, ApiError> {
    let encoded = encode(state, model, admitted, pictures).await?;
    let info = Arc::clone(model);
    let write = move || write(&info.info, &asked, &encoded);
    let made = state.on_pool(Stage::Render, Some(&model.info.name), write).await??;
    Ok(named(made, &model.info))
}

fn read(state: &AppState, message: Bytes) -> Result<Read, ApiError> {
    let most = FIELDS + state.limits().max_images;
    if !within(&message, &REQUEST, most) {
        let error = ApiError::new(Kind::BadRequest, format!("the message has more than {most} fields"));
        return Err(error.hint("send pictures as one element each, and tensors in `raw_input_contents`"));
    }
    let request: ModelInferRequest = read_message(message)?;
    let model = version(state, Some(&request.model_name), some(&request.model_version))?;
    let pictures = parse(request, Rules::of(state.limits(), &model.info));
    Ok(Read { model, pictures })
}

fn parse(request: ModelInferRequest, rules: Rules) -> Result<(Asked, Pictures), ApiError> {
    let wanted: Vec<Wanted<'_>> = request.outputs.iter().map(Wanted::from).collect();
    let outputs = outputs(&wanted, true, rules.maps)?;
    let id = some(&request.id).map(str::to_owned);
    Ok((Asked { id, outputs }, input(request.inputs, request.raw_input_contents, rules)?))
}

impl<'a> From<&'a InferRequestedOutputTensor> for Wanted<'a> {
    fn from(output: &'a InferRequestedOutputTensor) -> Self {
        let has = |name| output.parameters.contains_key(name);
        Self {
            name: &output.name,
            binary: None,
            otherwise: has("classification") || has("shared_memory_region"),
        }
    }
}

/// The pictures of the one input; its data may lie beside it.
fn input(mut inputs: Vec<InferInputTensor>, mut raw: Vec<Bytes>, rules: Rules) -> Result<Pictures, ApiError> {
    only(&inputs)?;
    let Some(tensor) = inputs.pop() else { return Err(invalid("0 inputs: expected one")) };
    let InferInputTensor { name, datatype, shape, parameters, contents } = tensor;
    if parameters.contains_key("shared_memory_region") {
        return Err(shared(&name));
    }
    let size = |&dimension: &i64| u64::try_from(dimension).ok();
    let Some(shape) = shape.iter().map(size).collect::<Option<Vec<u64>>>() else {
        return Err(invalid(format!("input `{name}` has shape {shape:?}: expected sizes of 0 or more")));
    };
    let data = match (contents, raw.pop()) {
        (_, Some(_)) if !raw.is_empty() => {
            let message =
                format!("{} elements in `raw_input_contents`: expected one for the input", raw.len() + 1);
            return Err(invalid(message));
        }
        (None, Some(raw)) => Data::Binary(raw),
        (Some(list), None) => Data::Typed(Elements {
            bytes: list.bytes_contents,
            unsigned: list.uint_contents,
            floats: list.fp32_contents,
        }),
        _ => {
            return Err(invalid(format!(
                "input `{name}`: expected either `contents` or `raw_input_contents`"
            )));
        }
    };
    let content_type = text(&parameters, "content_type");
    pictures(Input { name: &name, datatype: &datatype, shape: &shape, content_type }, data, rules)
}

/// A parameter that is text; of any other type it is none that is known.
fn text<'a>(parameters: &'a HashMap<String, InferParameter>, name: &str) -> Option<&'a str> {
    match parameters.get(name)?.choice.as_ref()? {
        Choice::Text(text) => Some(text),
        Choice::Bool(_) | Choice::Int64(_) => None,
    }
}

/// The outputs asked for, as the HTTP route writes them in binary.
fn write(info: &ModelInfo, asked: &Asked, rows: &[Encoded]) -> Result<Framed, ApiError> {
    let mut answer = ModelInferResponse {
        model_name: info.name.clone(),
        model_version: VERSION.to_owned(),
        id: asked.id.clone().unwrap_or_default(),
        ..Default::default()
    };
    for output in &asked.outputs {
        let (shape, data) = gather(output.name, rows)?;
        let shape = shape.into_iter().map(|n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
        answer.outputs.push(InferOutputTensor {
            name: output.name.to_owned(),
            datatype: f32::DATATYPE.to_owned(),
            shape,
        });
        let bytes: Vec<u8> = data.iter().flat_map(|v| v.to_le_bytes()).collect();
        answer.raw_output_contents.push(bytes.into());
    }
    Ok(framed(&answer))
}
