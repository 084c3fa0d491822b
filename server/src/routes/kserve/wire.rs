//! Requests and answers of inference, as JSON alone or with tensors in binary behind it.

use bytes::Bytes;
use occlude_preprocess::Rgb;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::tensor::{Element, files, from_json};
use crate::batch::{Crop, Encoded};
use crate::config::Limits;
use crate::error::{ApiError, Kind};
use crate::model::{InputKind, ModelInfo};
use crate::picture::Upload;
use crate::routes::body::too_many;
use crate::routes::coded::{Item, unpack};
use crate::routes::json;

/// The input of whole files.
pub(super) const FILES: &str = "files";
/// The outputs.
pub(super) const EMBEDDING: &str = "embedding";
pub(super) const SALIENCY: &str = "saliency";

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
}

impl Rules {
    pub(super) fn of(limits: &Limits, model: &ModelInfo) -> Self {
        let floats = model.input == InputKind::Float;
        Self { max_images: limits.max_images, crop: model.contract.crop, floats }
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
    id: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Output {
    name: &'static str,
    binary: bool,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Kind::InvalidRequest, message).hint(HINT)
}

/// Reads a request, whose JSON is its first `json` bytes where tensors follow in binary.
pub(super) fn parse(bytes: &Bytes, json: Option<usize>, rules: Rules) -> Result<(Asked, Pictures), ApiError> {
    let split = json.unwrap_or(bytes.len());
    let Some(head) = bytes.get(..split) else {
        let message =
            format!("`Inference-Header-Content-Length` is {split}, the body has {} bytes", bytes.len());
        return Err(ApiError::new(Kind::BadRequest, message));
    };
    let request: InferRequest<'_> = json::parse(head).map_err(|e| e.hint(HINT))?;
    let outputs = outputs(request.outputs.as_deref(), request.parameters.binary_data_output)?;
    let [input] = request.inputs.as_slice() else {
        return Err(invalid(format!("{} inputs: expected one", request.inputs.len())));
    };
    let pictures = pictures(input, bytes.slice(split..), rules)?;
    Ok((Asked { id: request.id, outputs }, pictures))
}

fn outputs(asked: Option<&[OutputRequest]>, binary: bool) -> Result<Vec<Output>, ApiError> {
    let all = [EMBEDDING, SALIENCY];
    let Some(asked) = asked.filter(|a| !a.is_empty()) else {
        return Ok(all.map(|name| Output { name, binary }).to_vec());
    };
    let mut outputs: Vec<Output> = Vec::new();
    for OutputRequest { name, parameters } in asked {
        let Some(name) = all.into_iter().find(|known| known == name) else {
            return Err(invalid(format!("there is no output `{name}`: expected `embedding` or `saliency`")));
        };
        if parameters.classification.is_some() || parameters.shared_memory_region.is_some() {
            let what = "`classification` and shared memory are not offered";
            return Err(invalid(format!("output `{name}`: {what}")));
        }
        if outputs.iter().any(|o| o.name == name) {
            return Err(invalid(format!("output `{name}` is asked for twice")));
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
    if input.name == InputKind::Uint8.input() {
        return crops(input, data, rules).map(Pictures::Crops);
    }
    let floats = InputKind::Float.input();
    if input.name == floats && rules.floats {
        return normalised(input, data, rules).map(Pictures::Crops);
    }
    let expected = if rules.floats { ", `images` or `pixel_values`" } else { " or `images`" };
    Err(invalid(format!("the model has no input `{}`: expected `files`{expected}", input.name)))
}

fn data<'a>(input: &InputTensor<'a>, rest: Bytes) -> Result<Data<'a>, ApiError> {
    let name = &input.name;
    if input.parameters.shared_memory_region.is_some() {
        return Err(invalid(format!("input `{name}`: shared memory is not offered")));
    }
    match (input.data, input.parameters.binary_data_size) {
        (Some(data), None) if rest.is_empty() => Ok(Data::Json(data.get())),
        (None, Some(size)) if rest.len() == size => Ok(Data::Binary(rest)),
        (None, Some(size)) => {
            let message =
                format!("input `{name}`: `binary_data_size` is {size}, {} bytes follow the json", rest.len());
            Err(invalid(message))
        }
        (Some(_), None) => Err(invalid(format!("{} bytes follow the json that no input has", rest.len()))),
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

/// The JSON of an answer.
#[derive(Serialize, ToSchema)]
pub(super) struct InferAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<OutputTensor>,
}

#[derive(Serialize, ToSchema)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
    /// Row-major.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Vec<f32>>,
}

#[derive(Serialize, ToSchema)]
struct BinarySize {
    binary_data_size: usize,
}

/// An answer's body.
pub(super) struct Made {
    pub(super) body: Vec<u8>,
    /// Length of the JSON where tensors follow in binary.
    pub(super) json: Option<usize>,
}

/// Writes the outputs asked for.
pub(super) fn write(
    info: &ModelInfo,
    version: &str,
    asked: &Asked,
    rows: &[Encoded],
) -> Result<Made, ApiError> {
    let mut binary = Vec::new();
    let mut outputs = Vec::new();
    for output in &asked.outputs {
        let (shape, data) = gather(output.name, rows)?;
        let bytes = data.len() * size_of::<f32>();
        let (parameters, data) = if output.binary {
            binary.extend(data.iter().flat_map(|v| v.to_le_bytes()));
            (Some(BinarySize { binary_data_size: bytes }), None)
        } else {
            (None, Some(data))
        };
        outputs.push(OutputTensor { name: output.name, datatype: f32::DATATYPE, shape, parameters, data });
    }
    let answer =
        InferAnswer { model_name: &info.name, model_version: version, id: asked.id.as_deref(), outputs };
    let failed = |e: serde_json::Error| ApiError::new(Kind::Internal, e.to_string());
    let mut body = serde_json::to_vec(&answer).map_err(failed)?;
    let json = asked.outputs.iter().any(|o| o.binary).then_some(body.len());
    body.append(&mut binary);
    Ok(Made { body, json })
}

/// One tensor of all rows: (n, D) or (n, h, w).
fn gather(name: &str, rows: &[Encoded]) -> Result<(Vec<usize>, Vec<f32>), ApiError> {
    let size = |row: &Encoded| match name {
        EMBEDDING => vec![row.embedding.len()],
        _ => vec![row.grid.0, row.grid.1],
    };
    let inner = rows.first().map(size).unwrap_or_default();
    if rows.iter().any(|row| size(row) != inner) {
        return Err(ApiError::new(Kind::Internal, format!("rows of `{name}` have several shapes")));
    }
    let values = |row: &Encoded| if name == EMBEDDING { row.embedding.clone() } else { row.saliency.clone() };
    let shape = [vec![rows.len()], inner].concat();
    Ok((shape, rows.iter().flat_map(values).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: Rules = Rules { max_images: 2, crop: 1, floats: true };

    fn read(json: &str, binary: &[u8]) -> Result<(Asked, Pictures), String> {
        let bytes = [json.as_bytes(), binary].concat().into();
        parse(&bytes, (!binary.is_empty()).then_some(json.len()), RULES).map_err(|e| e.message)
    }

    fn bytes(crop: Crop) -> Vec<u8> {
        match crop {
            Crop::Pixels(pixels) => pixels.data,
            Crop::Normalised(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn pixels(json: &str, binary: &[u8]) -> Result<Vec<Vec<u8>>, String> {
        match read(json, binary)?.1 {
            Pictures::Crops(crops) => Ok(crops.into_iter().map(bytes).collect()),
            Pictures::Files(files) => Ok(files.into_iter().map(|f| f.bytes.to_vec()).collect()),
        }
    }

    fn input(name: &str, datatype: &str, shape: &str, more: &str) -> String {
        format!(r#"{{"inputs":[{{"name":"{name}","datatype":"{datatype}","shape":{shape},{more}}}]}}"#)
    }

    #[test]
    fn the_same_tensor_in_json_and_in_binary() {
        let json = input("images", "UINT8", "[2,1,1,3]", r#""data":[[[[1,2,3]]],[[[4,5,6]]]]"#);
        let binary = input("images", "UINT8", "[2,1,1,3]", r#""parameters":{"binary_data_size":6}"#);
        let expected = Ok(vec![vec![1, 2, 3], vec![4, 5, 6]]);
        assert_eq!(pixels(&json, &[]), expected);
        assert_eq!(pixels(&binary, &[1, 2, 3, 4, 5, 6]), expected);
        let json =
            input("files", "BYTES", "[1,1]", r#""data":["aGk="],"parameters":{"content_type":"base64"}"#);
        assert_eq!(pixels(&json, &[]), Ok(vec![b"hi".to_vec()]));
        let binary = input("files", "BYTES", "[1]", r#""parameters":{"binary_data_size":6}"#);
        assert_eq!(pixels(&binary, b"\x02\0\0\0hi"), Ok(vec![b"hi".to_vec()]));
        let both = r#""parameters":{"binary_data_size":8,"content_type":"base64"}"#;
        assert_eq!(
            pixels(&input("files", "BYTES", "[1]", both), b"\x04\0\0\0aGk="),
            Ok(vec![b"hi".to_vec()])
        );
    }

    #[test]
    fn floats_are_planes_of_numbers() {
        let values = [0.5f32, -2.0, 3.25];
        let binary = values.map(f32::to_le_bytes).concat();
        let json = input("pixel_values", "FP32", "[1,3,1,1]", r#""data":[[[[0.5]],[[-2]],[[3.25]]]]"#);
        assert_eq!(pixels(&json, &[]), Ok(vec![binary.clone()]));
        let size = |n| {
            input("pixel_values", "FP32", "[1,3,1,1]", &format!(r#""parameters":{{"binary_data_size":{n}}}"#))
        };
        assert_eq!(pixels(&size(12), &binary), Ok(vec![binary.clone()]));
        assert!(pixels(&size(11), &binary[1..]).unwrap_err().contains("11 bytes: expected 12"));
        for (bad, shown) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
            let binary = [0.0, bad, 0.0].map(f32::to_le_bytes).concat();
            let error = pixels(&size(12), &binary).unwrap_err();
            assert_eq!(error, format!("input `pixel_values` has {shown} at 1: expected numbers"));
        }
        let shape = input("pixel_values", "FP32", "[1,1,1,3]", r#""data":[1,2,3]"#);
        assert!(pixels(&shape, &[]).unwrap_err().contains("expected [n, 3, 1, 1]"));
        let of_bytes = Rules { floats: false, ..RULES };
        let error = parse(&json.into(), None, of_bytes).err().unwrap().message;
        assert_eq!(error, "the model has no input `pixel_values`: expected `files` or `images`");
    }

    #[test]
    fn what_is_not_taken_is_named() {
        let fails = |name, datatype, shape, more, binary: &[u8]| {
            pixels(&input(name, datatype, shape, more), binary).unwrap_err()
        };
        let data = r#""data":[1,2,3]"#;
        assert!(fails("x", "UINT8", "[1,1,1,3]", data, &[]).contains("no input `x`"));
        assert!(fails("images", "FP32", "[1,1,1,3]", data, &[]).contains("is FP32: expected UINT8"));
        let shape = fails("images", "UINT8", "[1,3,1,1]", data, &[]);
        assert_eq!(shape, "input `images` has shape [1, 3, 1, 1]: expected [n, 1, 1, 3]");
        assert!(fails("images", "UINT8", "[]", data, &[]).contains("expected [n, 1, 1, 3]"));
        assert!(fails("images", "UINT8", "[0,1,1,3]", data, &[]).contains("no picture"));
        assert!(fails("images", "UINT8", "[3,1,1,3]", data, &[]).contains("more than 2 pictures"));
        assert!(fails("images", "UINT8", "[2,1,1,3]", data, &[]).contains("3 elements, the shape 6"));
        let size = r#""parameters":{"binary_data_size":3}"#;
        assert!(fails("images", "UINT8", "[1,1,1,3]", size, &[1, 2]).contains("is 3, 2 bytes follow"));
        assert!(fails("images", "UINT8", "[2,1,1,3]", size, &[1, 2, 3]).contains("3 bytes: expected 6"));
        assert!(fails("images", "UINT8", "[1,1,1,3]", data, &[1]).contains("1 bytes follow"));
        let neither = r#""parameters":{}"#;
        assert!(fails("images", "UINT8", "[1,1,1,3]", neither, &[]).contains("expected either"));
        let shared = r#""parameters":{"shared_memory_region":"r"}"#;
        assert!(fails("images", "UINT8", "[1,1,1,3]", shared, &[]).contains("shared memory"));
        let other = r#""data":["x"],"parameters":{"content_type":"np"}"#;
        assert!(fails("files", "BYTES", "[1]", other, &[]).contains("`np`: expected `base64`"));
        assert!(pixels(r#"{"inputs":[]}"#, &[]).unwrap_err().contains("0 inputs"));
        let long = parse(&Bytes::from_static(b"{}"), Some(3), RULES).err().unwrap();
        assert_eq!((long.kind, long.message.contains("is 3, the body has 2")), (Kind::BadRequest, true));
    }

    #[test]
    fn outputs_are_chosen_and_written() {
        let asked = |outputs: &str| {
            let json = format!(
                r#"{{"id":"7","inputs":[{{"name":"images","datatype":"UINT8","shape":[1,1,1,3],"data":[1,2,3]}}]{outputs}}}"#
            );
            read(&json, &[]).map(|r| r.0.outputs)
        };
        let output = |name, binary| Output { name, binary };
        assert_eq!(asked("").unwrap(), [output(EMBEDDING, false), output(SALIENCY, false)]);
        let all = asked(r#","parameters":{"binary_data_output":true}"#).unwrap();
        assert_eq!(all, [output(EMBEDDING, true), output(SALIENCY, true)]);
        let one =
            r#","outputs":[{"name":"saliency","parameters":{"binary_data":true}},{"name":"embedding"}]"#;
        assert_eq!(asked(one).unwrap(), [output(SALIENCY, true), output(EMBEDDING, false)]);
        assert!(asked(r#","outputs":[{"name":"logits"}]"#).unwrap_err().contains("no output `logits`"));
        let twice = r#","outputs":[{"name":"saliency"},{"name":"saliency"}]"#;
        assert!(asked(twice).unwrap_err().contains("twice"));
        let classes = r#","outputs":[{"name":"embedding","parameters":{"classification":3}}]"#;
        assert!(asked(classes).unwrap_err().contains("not offered"));
        let row = Encoded {
            embedding: vec![1.0, 2.0],
            saliency: vec![3.0; 6],
            grid: (2, 3),
            features: None,
            sum: None,
        };
        assert_eq!(gather(SALIENCY, &[row.clone(), row.clone()]).unwrap().0, [2, 2, 3]);
        assert_eq!(gather(EMBEDDING, std::slice::from_ref(&row)).unwrap(), (vec![1, 2], vec![1.0, 2.0]));
        let odd = Encoded { grid: (3, 2), ..row.clone() };
        assert_eq!(gather(SALIENCY, &[row, odd]).unwrap_err().kind, Kind::Internal);
    }

    proptest! {
        #[test]
        fn no_body_panics(text in "\\PC*", binary in prop::collection::vec(any::<u8>(), 0..40), split in 0usize..60) {
            let body: Bytes = [text.as_bytes(), &binary].concat().into();
            let _ = parse(&body, Some(split), RULES);
        }
    }
}
