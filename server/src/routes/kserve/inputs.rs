//! What a request of inference sends and wants, whether it came as JSON or by gRPC.

use bytes::Bytes;
use occlude_contract::InputKind;
use occlude_contract::output::{EMBEDDING, SALIENCY};
use occlude_preprocess::Rgb;

use super::tensor::{Element, files, from_json};
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::inference::encode::Crop;
use crate::inference::model::ModelInfo;
use crate::pictures::encoding::Upload;
use crate::routes::bounds::too_many;
use crate::routes::coded::{Item, unpack};

/// The input of whole files.
pub(super) const FILES: &str = "files";

pub(super) const HINT: &str =
    "the model's metadata (GET /v2/models/NAME) names its inputs and outputs; docs/server.md has examples";

/// The tensor that a request sends.
#[derive(Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'a str,
    pub(super) shape: &'a [u64],
    /// `base64` of files as text; there is no other.
    pub(super) content_type: Option<&'a str>,
}

/// The data of a tensor.
pub(super) enum Data<'a> {
    /// Elements in lists of any depth.
    Json(&'a str),
    /// Elements one behind the other, little-endian.
    Binary(Bytes),
    /// Elements in a list of their type; the other lists are empty.
    #[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "only gRPC has such lists"))]
    Typed(Elements),
}

/// Elements by their type.
#[cfg_attr(not(feature = "grpc"), allow(dead_code, reason = "only gRPC has such lists"))]
pub(super) struct Elements {
    pub(super) bytes: Vec<Bytes>,
    pub(super) unsigned: Vec<u32>,
    pub(super) floats: Vec<f32>,
}

/// An output that a request names.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a str,
    /// Whether it is written in binary, where it says so.
    pub(super) binary: Option<bool>,
    /// Whether it is to come as classes, or in shared memory.
    pub(super) otherwise: bool,
}

/// What a request must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Pictures at most.
    pub(super) max_images: usize,
    /// Side of a raw picture.
    pub(super) crop: u32,
    /// Whether floats are taken.
    pub(super) floats: bool,
    /// Whether there is a saliency map.
    pub(super) maps: bool,
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

pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::InvalidRequest, message).hint(HINT)
}

/// The one input of a request.
pub(super) fn only<T>(inputs: &[T]) -> Result<&T, ApiError> {
    match inputs {
        [input] => Ok(input),
        others => Err(invalid(format!("{} inputs: expected one", others.len()))),
    }
}

/// The outputs that a request wants, all where it names none; `binary` is said of those that do not say.
pub(super) fn outputs(asked: &[Wanted<'_>], binary: bool, maps: bool) -> Result<Vec<Output>, ApiError> {
    let all = if maps { &[EMBEDDING, SALIENCY][..] } else { &[EMBEDDING] };
    if asked.is_empty() {
        return Ok(all.iter().map(|&name| Output { name, binary }).collect());
    }
    let mut outputs: Vec<Output> = Vec::new();
    for wanted in asked {
        let name = wanted.name;
        let Some(&name) = all.iter().find(|known| **known == name) else {
            let known = if maps { "`embedding` or `saliency`" } else { "`embedding`" };
            return Err(invalid(format!("there is no output `{name}`: expected {known}")));
        };
        if wanted.otherwise {
            let what = "`classification` and shared memory are not supported";
            return Err(invalid(format!("output `{name}`: {what}")));
        }
        if outputs.iter().any(|o| o.name == name) {
            return Err(invalid(format!("output `{name}` is requested twice")));
        }
        outputs.push(Output { name, binary: wanted.binary.unwrap_or(binary) });
    }
    Ok(outputs)
}

/// For an input that lies in memory which client and server would have to share.
pub(super) fn shared(name: &str) -> ApiError {
    invalid(format!("input `{name}`: shared memory is not supported"))
}

/// The pictures of an input, held against what the model takes.
pub(super) fn pictures(input: Input<'_>, data: Data<'_>, rules: Rules) -> Result<Pictures, ApiError> {
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

/// Number of pictures, from the first dimension.
fn count(input: Input<'_>, rules: Rules) -> Result<usize, ApiError> {
    let count = input.shape.first().copied().unwrap_or(0);
    match usize::try_from(count) {
        Ok(0) => Err(invalid(format!("input `{}` has no picture", input.name))),
        Ok(count) if count <= rules.max_images => Ok(count),
        _ => Err(too_many(rules.max_images)),
    }
}

/// Holds datatype and the dimensions behind the first against what the input takes.
fn check<T: Element>(input: Input<'_>, rest: &[&[u64]]) -> Result<(), ApiError> {
    let name = input.name;
    if input.datatype != T::DATATYPE {
        return Err(invalid(format!("input `{name}` is {}: expected {}", input.datatype, T::DATATYPE)));
    }
    if input.shape.get(1..).is_some_and(|got| rest.contains(&got)) {
        return Ok(());
    }
    let one = rest.first().copied().unwrap_or_default().iter().map(|d| format!(", {d}")).collect::<String>();
    Err(invalid(format!("input `{name}` has shape {:?}: expected [n{one}]", input.shape)))
}

fn whole_files(input: Input<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Upload>, ApiError> {
    // Clients that know of batches write a dimension of one element behind that of the batch.
    check::<String>(input, &[&[], &[1]])?;
    let count = count(input, rules)?;
    let base64 = match input.content_type {
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
    let found = match data {
        Data::Json(json) => {
            return from_json::<String>(FILES, json, count)?.into_iter().enumerate().map(coded).collect();
        }
        Data::Binary(data) => files(FILES, data, count)?,
        Data::Typed(list) => listed(FILES, "bytes_contents", list.bytes, count)?,
    };
    if base64 {
        return found.into_iter().map(text).enumerate().map(coded).collect();
    }
    let upload = |(i, bytes)| Upload { place: i, name: Some(name(i)), bytes, url: None };
    Ok(found.into_iter().enumerate().map(upload).collect())
}

fn crops(input: Input<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Crop>, ApiError> {
    let side = u64::from(rules.crop);
    check::<u8>(input, &[&[side, side, 3]])?;
    let size = rules.values();
    let count = count(input, rules)? * size;
    let bytes = match data {
        Data::Json(json) => from_json::<u8>(input.name, json, count)?.into(),
        Data::Binary(data) => sized(input, data, count)?,
        Data::Typed(list) => {
            let byte = |value: u32| u8::try_from(value).map_err(|_| beyond(input.name, value));
            let list = listed(input.name, "uint_contents", list.unsigned, count)?;
            list.into_iter().map(byte).collect::<Result<Vec<u8>, _>>()?.into()
        }
    };
    let rgb = |data: &[u8]| Rgb { width: rules.crop, height: rules.crop, data: data.to_vec() };
    Ok(bytes.chunks_exact(size).map(rgb).map(Crop::from).collect())
}

fn normalised(input: Input<'_>, data: Data<'_>, rules: Rules) -> Result<Vec<Crop>, ApiError> {
    let side = u64::from(rules.crop);
    check::<f32>(input, &[&[3, side, side]])?;
    let size = rules.values();
    let count = count(input, rules)? * size;
    let values = match data {
        Data::Json(json) => from_json::<f32>(input.name, json, count)?,
        Data::Binary(data) => {
            let data = sized(input, data, count * size_of::<f32>())?;
            data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
        }
        Data::Typed(list) => listed(input.name, "fp32_contents", list.floats, count)?,
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(invalid(format!("input `{}` has {} at {at}: expected numbers", input.name, values[at])));
    }
    Ok(values.chunks_exact(size).map(|v| Crop::Normalised(v.to_vec())).collect())
}

/// A binary tensor of so many bytes.
fn sized(input: Input<'_>, data: Bytes, expected: usize) -> Result<Bytes, ApiError> {
    if data.len() == expected {
        return Ok(data);
    }
    Err(invalid(format!("input `{}` has {} bytes: expected {expected}", input.name, data.len())))
}

/// A list of so many elements, which the protocol calls `field`.
fn listed<T>(name: &str, field: &str, list: Vec<T>, expected: usize) -> Result<Vec<T>, ApiError> {
    if list.len() == expected {
        return Ok(list);
    }
    let got = list.len();
    Err(invalid(format!("input `{name}`: `{field}` has {got} elements, but the shape has {expected}")))
}

fn beyond(name: &str, value: u32) -> ApiError {
    invalid(format!("input `{name}`: a value that is not UINT8: {value}"))
}
