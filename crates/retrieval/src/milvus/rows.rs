//! Points as columns, and columns as points.

use serde_json::{Map, Value};

use super::Milvus;
use super::facts::{self, MAX};
use super::failure::Attempt;
use super::message::{
    ArrayArray, Field, FieldData, FloatArray, JsonArray, LongArray, ScalarField, Scalars, StringArray,
    VectorField, data_type,
};
use crate::check::Checked;
use crate::engine::{Record, With};
use crate::error::{Error, Result};

/// A point with what filters see of it.
pub(super) struct Row<'a> {
    pub(super) point: Checked<'a>,
    facts: Vec<i64>,
}

impl<'a> Row<'a> {
    pub(super) fn new(point: Checked<'a>) -> Result<Self> {
        let payload: Map<String, Value> = serde_json::from_str(&point.payload).unwrap_or_default();
        let facts = facts::tokens(&payload);
        if facts.len() > MAX {
            return Err(Error::value(
                format!("facts in the payload of point `{}`", point.id),
                format!(
                    "{MAX} at most in Milvus (one for a key and for each of its values, 19 for each number)"
                ),
                facts.len().to_string(),
            ));
        }
        Ok(Self { point, facts })
    }

    /// About as many bytes as it takes in a message.
    pub(super) fn bytes(&self) -> usize {
        self.point.id.len() + self.point.payload.len() + 4 * self.point.vector.len() + 10 * self.facts.len()
    }
}

fn scalars(field_name: &str, data_type: i32, data: Scalars) -> FieldData {
    let field = Some(Field::Scalars(ScalarField { data: Some(data) }));
    FieldData { data_type, field_name: field_name.to_owned(), field }
}

pub(super) fn columns(rows: &[Row<'_>], dim: usize) -> Vec<FieldData> {
    let ids = rows.iter().map(|row| row.point.id.to_owned()).collect();
    let payloads = rows.iter().map(|row| row.point.payload.clone().into_bytes()).collect();
    let facts =
        |row: &Row<'_>| ScalarField { data: Some(Scalars::Long(LongArray { data: row.facts.clone() })) };
    let facts = ArrayArray { data: rows.iter().map(facts).collect(), element_type: data_type::INT64 };
    let numbers = rows.iter().flat_map(|row| row.point.vector.iter().copied()).collect();
    let vectors = VectorField {
        dim: i64::try_from(dim).unwrap_or(i64::MAX),
        float_vector: Some(FloatArray { data: numbers }),
    };
    vec![
        scalars("id", data_type::VARCHAR, Scalars::String(StringArray { data: ids })),
        scalars("payload", data_type::JSON, Scalars::Json(JsonArray { data: payloads })),
        scalars("facts", data_type::ARRAY, Scalars::Array(facts)),
        FieldData {
            data_type: data_type::FLOAT_VECTOR,
            field_name: "vector".to_owned(),
            field: Some(Field::Vectors(vectors)),
        },
    ]
}

/// The fields that are asked for.
pub(super) fn fields(with: With) -> Vec<String> {
    let wanted = [("id", true), ("vector", with.vector), ("payload", with.payload)];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name.to_owned()).collect()
}

/// Columns of an answer.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) ids: Vec<String>,
    vectors: Vec<f32>,
    payloads: Vec<Vec<u8>>,
    pub(super) counts: Vec<i64>,
}

impl Columns {
    pub(super) fn of(fields: Vec<FieldData>) -> Self {
        let mut columns = Self::default();
        for field in fields {
            match field.field {
                Some(Field::Vectors(VectorField { float_vector: Some(numbers), .. })) => {
                    columns.vectors = numbers.data;
                }
                Some(Field::Scalars(ScalarField { data: Some(data) })) => match data {
                    Scalars::String(ids) => columns.ids = ids.data,
                    Scalars::Json(payloads) => columns.payloads = payloads.data,
                    Scalars::Long(counts) => columns.counts = counts.data,
                    Scalars::Array(_) => {}
                },
                _ => {}
            }
        }
        columns
    }
}

impl Milvus {
    /// The points of an answer, which has what was asked for.
    pub(super) fn records(&self, columns: Columns, dim: usize, with: With) -> Attempt<Vec<Record>> {
        let Columns { ids, vectors, payloads, .. } = columns;
        let damaged = |what: &str| Error::Server {
            server: self.client.address.to_string(),
            reason: format!("{what}: the answer is not what was asked for"),
        };
        if (with.vector && vectors.len() != ids.len() * dim) || (with.payload && payloads.len() != ids.len())
        {
            return Err(damaged("rows").into());
        }
        let record = |(at, id): (usize, String)| {
            let payload = with.payload.then(|| serde_json::from_slice(&payloads[at])).transpose();
            let payload = payload.map_err(|_| damaged(&format!("the payload of point `{id}`")))?;
            let vector = with.vector.then(|| vectors[at * dim..][..dim].to_vec());
            Ok(Record { id, vector, payload })
        };
        ids.into_iter().enumerate().map(record).collect()
    }
}
