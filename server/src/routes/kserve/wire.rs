//! Requests of inference, as JSON alone or with tensors in binary behind it.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::inputs::{
    Asked, Data, HINT, Input, Pictures, Rules, Wanted, invalid, only, outputs, pictures, shared,
};
use crate::error::{ApiError, Kind};
use crate::routes::json;

/// The JSON of a request; parameters that are not known are ignored, as the protocol has it.
#[derive(Deserialize, ToSchema)]
pub(super) struct InferRequest<'a> {
    /// Comes back in the answer.
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    #[serde(borrow)]
    inputs: Vec<InputTensor<'a>>,
    /// All outputs without it.
    #[serde(default)]
    outputs: Option<Vec<OutputRequest>>,
}

#[derive(Deserialize, Default, ToSchema)]
struct RequestParameters {
    /// Whether outputs are binary that do not say.
    #[serde(default)]
    binary_data_output: bool,
}

#[derive(Deserialize, ToSchema)]
struct InputTensor<'a> {
    name: String,
    datatype: String,
    shape: Vec<u64>,
    #[serde(default)]
    parameters: InputParameters,
    /// Elements row-major, in lists of any depth; without it they follow the JSON in binary.
    #[serde(default, borrow)]
    #[schema(value_type = Option<Vec<serde_json::Value>>)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default, ToSchema)]
struct InputParameters {
    /// Bytes of this tensor behind the JSON.
    #[serde(default)]
    binary_data_size: Option<usize>,
    /// `base64` of strings in JSON; there is no other.
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    shared_memory_region: Option<String>,
}

#[derive(Deserialize, ToSchema)]
struct OutputRequest {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Deserialize, Default, ToSchema)]
struct OutputParameters {
    #[serde(default)]
    binary_data: Option<bool>,
    #[serde(default)]
    classification: Option<u64>,
    #[serde(default)]
    shared_memory_region: Option<String>,
}

/// Reads a request, whose JSON is its first `json` bytes where tensors follow in binary.
pub(super) fn parse(bytes: &Bytes, json: Option<usize>, rules: Rules) -> Result<(Asked, Pictures), ApiError> {
    let split = json.unwrap_or(bytes.len());
    let Some(head) = bytes.get(..split) else {
        let message =
            format!("`Inference-Header-Content-Length` is {split}, but the body has {} bytes", bytes.len());
        return Err(ApiError::new(Kind::BadRequest, message));
    };
    let request: InferRequest<'_> = json::parse(head).map_err(|e| e.hint(HINT))?;
    let asked: Vec<Wanted<'_>> = request.outputs.iter().flatten().map(Wanted::from).collect();
    let outputs = outputs(&asked, request.parameters.binary_data_output, rules.maps)?;
    let tensor = only(&request.inputs)?;
    let input = Input {
        name: &tensor.name,
        datatype: &tensor.datatype,
        shape: &tensor.shape,
        content_type: tensor.parameters.content_type.as_deref(),
    };
    let pictures = pictures(input, data(tensor, bytes.slice(split..))?, rules)?;
    Ok((Asked { id: request.id, outputs }, pictures))
}

impl<'a> From<&'a OutputRequest> for Wanted<'a> {
    fn from(OutputRequest { name, parameters }: &'a OutputRequest) -> Self {
        let otherwise = parameters.classification.is_some() || parameters.shared_memory_region.is_some();
        Self { name, binary: parameters.binary_data, otherwise }
    }
}

fn data<'a>(input: &InputTensor<'a>, rest: Bytes) -> Result<Data<'a>, ApiError> {
    let name = &input.name;
    if input.parameters.shared_memory_region.is_some() {
        return Err(shared(name));
    }
    match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) if rest.is_empty() => Ok(Data::Json(data.get())),
        (None, Some(size)) if rest.len() == size => Ok(Data::Binary(rest)),
        (None, Some(size)) => {
            let message = format!(
                "input `{name}`: `binary_data_size` is {size}, but {} bytes follow the JSON",
                rest.len()
            );
            Err(invalid(message))
        }
        (Some(_), None) => Err(invalid(format!("{} bytes after the JSON belong to no input", rest.len()))),
        _ => Err(invalid(format!("input `{name}`: expected either `data` or `binary_data_size`"))),
    }
}

#[cfg(test)]
mod tests;
