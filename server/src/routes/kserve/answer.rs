//! Answers of inference, as JSON alone or with tensors in binary behind it.

use occlude_contract::output::EMBEDDING;
use serde::Serialize;
use utoipa::ToSchema;

use super::inputs::Asked;
use super::tensor::Element;
use crate::error::{ApiError, Kind};
use crate::inference::encode::Encoded;
use crate::inference::model::ModelInfo;

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

/// One tensor of all rows: (n, D) or (n, h, w), row-major.
pub(super) fn gather(name: &str, rows: &[Encoded]) -> Result<(Vec<usize>, Vec<f32>), ApiError> {
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
    use occlude_contract::output::SALIENCY;

    #[test]
    fn outputs_have_one_shape() {
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
}
