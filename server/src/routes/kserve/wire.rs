//! Requests of inference, as JSON alone or with tensors in binary behind it.

use bytes::Bytes;
use occlude_contract::InputKind;
use occlude_contract::output::{EMBEDDING, SALIENCY};
use occlude_preprocess::Rgb;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::tensor::{Element, files, from_json};
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::inference::encode::Crop;
use crate::inference::model::ModelInfo;
use crate::pictures::encoding::Upload;
use crate::routes::bounds::too_many;
use crate::routes::coded::{Item, unpack};
use crate::routes::json;

/// The input of whole files.
pub(super) const FILES: &str = "files";

const HINT: &str = "GET /v2/models/NAME shows the inputs and outputs; docs/server.md has examples";

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

/// What a request must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Pictures at most.
    max_images: usize,
    /// Side of a raw picture.
    crop: u32,
    /// Whether floats are taken.
    floats: bool,
    /// Whether there is a saliency map.
    maps: bool,
}

impl Rules {
    pub(super) fn of(limits: &Limits, model: &ModelInfo) -> Self {
        let floats = model.input == InputKind::Float;
        Self { max_images: limits.max_images, crop: model.contract.crop, floats, maps: model.maps }
    }

    /// Values of a raw picture.
    fn values(self) -> usize {
        3 * self.crop as usize * self.crop as usize
    }
}

/// What a request sends.
pub(super) enum Pictures {
    /// Files as they are.
    Files(Vec<Upload>),
    /// Pictures that already have the contract's size.
    Crops(Vec<Crop>),
}

/// What a request wants.
pub(super) struct Asked {
    pub(super) id: Option<String>,
    pub(super) outputs: Vec<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) name: &'static str,
    pub(super) binary: bool,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::InvalidRequest, message).hint(HINT)
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
    let outputs = outputs(request.outputs.as_deref(), request.parameters.binary_data_output, rules.maps)?;
    let [input] = request.inputs.as_slice() else {
        return Err(invalid(format!("{} inputs: expected one", request.inputs.len())));
    };
    let pictures = pictures(input, bytes.slice(split..), rules)?;
    Ok((Asked { id: request.id, outputs }, pictures))
}

fn outputs(asked: Option<&[OutputRequest]>, binary: bool, maps: bool) -> Result<Vec<Output>, ApiError> {
    let all = if maps { &[EMBEDDING, SALIENCY][..] } else { &[EMBEDDING] };
    let Some(asked) = asked.filter(|a| !a.is_empty()) else {
        return Ok(all.iter().map(|&name| Output { name, binary }).collect());
    };
    let mut outputs: Vec<Output> = Vec::new();
    for OutputRequest { name, parameters } in asked {
        let Some(&name) = all.iter().find(|known| *known == name) else {
            let known = if maps { "`embedding` or `saliency`" } else { "`embedding`" };
            return Err(invalid(format!("there is no output `{name}`: expected {known}")));
        };
        if parameters.classification.is_some() || parameters.shared_memory_region.is_some() {
            let what = "`classification` and shared memory are not supported";
            return Err(invalid(format!("output `{name}`: {what}")));
        }
        if outputs.iter().any(|o| o.name == name) {
            return Err(invalid(format!("output `{name}` is requested twice")));
        }
        outputs.push(Output { name, binary: parameters.binary_data.unwrap_or(binary) });
    }
    Ok(outputs)
}

/// The data of a tensor.
enum Data<'a> {
    Json(&'a str),
    Binary(Bytes),
}

fn pictures(input: &InputTensor<'_>, rest: Bytes, rules: Rules) -> Result<Pictures, ApiError> {
    let data = data(input, rest)?;
    if input.name == FILES {
        return whole_files(input, data, rules).map(Pictures::Files);
    }
    if input.name == InputKind::Uint8.name() {
        return crops(input, data, rules).map(Pictures::Crops);
    }
    let floats = InputKind::Float.name();
    if input.name == floats && rules.floats {
        return normalised(input, data, rules).map(Pictures::Crops);
    }
    let expected = if rules.floats { ", `images` or `pixel_values`" } else { " or `images`" };
    Err(invalid(format!("the model has no input `{}`: expected `files`{expected}", input.name)))
}

fn data<'a>(input: &InputTensor<'a>, rest: Bytes) -> Result<Data<'a>, ApiError> {
    let name = &input.name;
    if input.parameters.shared_memory_region.is_some() {
        return Err(invalid(format!("input `{name}`: shared memory is not supported")));
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

/// Number of pictures, from the first dimension.
fn count(input: &InputTensor<'_>, rules: Rules) -> Result<usize, ApiError> {
    let count = input.shape.first().copied().unwrap_or(0);
    match usize::try_from(count) {
        Ok(0) => Err(invalid(format!("input `{}` has no picture", input.name))),
        Ok(count) if count <= rules.max_images => Ok(count),
        _ => Err(too_many(rules.max_images)),
    }
}

/// Holds datatype and the dimensions behind the first against what the input takes.
fn check<T: Element>(input: &InputTensor<'_>, rest: &[&[u64]]) -> Result<(), ApiError> {
    let name = &input.name;
    if input.datatype != T::DATATYPE {
        return Err(invalid(format!("input `{name}` is {}: expected {}", input.datatype, T::DATATYPE)));
    }
    if input.shape.get(1..).is_some_and(|got| rest.contains(&got)) {
        return Ok(());
    }
    let one = rest.first().copied().unwrap_or_default().iter().map(|d| format!(", {d}")).collect::<String>();
    Err(invalid(format!("input `{name}` has shape {:?}: expected [n{one}]", input.shape)))
}

fn whole_files(input: &InputTensor<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Upload>, ApiError> {
    // Clients that know of batches write a dimension of one element behind that of the batch.
    check::<String>(input, &[&[], &[1]])?;
    let count = count(input, rules)?;
    let base64 = match input.parameters.content_type.as_deref() {
        None => false,
        Some("base64") => true,
        Some(other) => {
            let message = format!("input `{FILES}`: `content_type` is `{other}`: expected `base64` or none");
            return Err(invalid(message));
        }
    };
    let name = |i: usize| format!("{FILES}[{i}]");
    let coded = |(i, data): (usize, String)| unpack(i, Item::Named { name: name(i), data });
    let text = |b: Bytes| String::from_utf8_lossy(&b).into_owned();
    match data {
        Data::Json(json) => {
            from_json::<String>(FILES, json, count)?.into_iter().enumerate().map(coded).collect()
        }
        Data::Binary(data) if base64 => {
            files(FILES, data, count)?.into_iter().map(text).enumerate().map(coded).collect()
        }
        Data::Binary(data) => {
            let upload = |(i, bytes)| Upload { place: i, name: Some(name(i)), bytes, url: None };
            Ok(files(FILES, data, count)?.into_iter().enumerate().map(upload).collect())
        }
    }
}

fn crops(input: &InputTensor<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Crop>, ApiError> {
    let side = u64::from(rules.crop);
    check::<u8>(input, &[&[side, side, 3]])?;
    let size = rules.values();
    let count = count(input, rules)? * size;
    let bytes = match data {
        Data::Json(json) => from_json::<u8>(&input.name, json, count)?.into(),
        Data::Binary(data) => sized(input, data, count)?,
    };
    let rgb = |data: &[u8]| Rgb { width: rules.crop, height: rules.crop, data: data.to_vec() };
    Ok(bytes.chunks_exact(size).map(rgb).map(Crop::from).collect())
}

fn normalised(input: &InputTensor<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Crop>, ApiError> {
    let side = u64::from(rules.crop);
    check::<f32>(input, &[&[3, side, side]])?;
    let size = rules.values();
    let count = count(input, rules)? * size;
    let values = match data {
        Data::Json(json) => from_json::<f32>(&input.name, json, count)?,
        Data::Binary(data) => {
            let data = sized(input, data, count * size_of::<f32>())?;
            data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        }
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(invalid(format!("input `{}` has {} at {at}: expected numbers", input.name, values[at])));
    }
    Ok(values.chunks_exact(size).map(|v| Crop::Normalised(v.to_vec())).collect())
}

/// A binary tensor of so many bytes.
fn sized(input: &InputTensor<'_>, data: Bytes, expected: usize) -> Result<Bytes, ApiError> {
    if data.len() == expected {
        return Ok(data);
    }
    Err(invalid(format!("input `{}` has {} bytes: expected {expected}", input.name, data.len())))
}

#[cfg(test)]
mod tests;
