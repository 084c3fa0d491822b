//! Vectors with their pictures' names as NumPy, Parquet or JSON lines.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use occlude_contract::table;
use occlude_output::Draft;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde::Serialize;

use super::{ToolError, file_error};
use crate::inference::model::ModelInfo;

/// Rows of a Parquet row group.
const GROUP: usize = 4096;

const SCHEMA: &str = "message embeddings {
    required binary path (UTF8);
    optional binary class (UTF8);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// Formats of `embed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A float32 matrix, one row for each picture.
    Npy,
    /// Columns `path`, `class`, `embedding`.
    Parquet,
    /// One object per line: `path`, `class`, `embedding`.
    Jsonl,
}

/// One picture of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) class: Option<String>,
    pub(super) embedding: Vec<f32>,
}

/// Where the names of the rows of `out.npy` go: `out.paths.txt`.
pub(super) fn names_of(out: &Path) -> PathBuf {
    out.with_extension("paths.txt")
}

/// Writes `count` rows to `out`, which is whole or not there.
pub(super) fn write(
    out: &Path,
    format: Format,
    info: &ModelInfo,
    count: usize,
    rows: &mut dyn Iterator<Item = Result<Row, ToolError>>,
) -> Result<(), ToolError> {
    let draft = match format {
        Format::Npy => npy(out, info.dim, count, rows)?,
        Format::Parquet => parquet(out, info, rows)?,
        Format::Jsonl => jsonl(out, rows)?,
    };
    draft.finish().map_err(file_error(out))
}

/// The matrix; the names are there when this returns.
fn npy(
    out: &Path,
    dim: usize,
    count: usize,
    rows: &mut dyn Iterator<Item = Result<Row, ToolError>>,
) -> Result<Draft, ToolError> {
    let (names, failed) = (names_of(out), file_error(out));
    let names_failed = file_error(&names);
    let mut file = Draft::beside(out).map_err(&failed)?;
    let mut list = Draft::beside(&names).map_err(&names_failed)?;
    file.write_all(&npy_header(count, dim)).map_err(&failed)?;
    for row in rows {
        let Row { path, embedding, .. } = row?;
        let bytes: Vec<u8> = embedding.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.write_all(&bytes).map_err(&failed)?;
        writeln!(list, "{path}").map_err(&names_failed)?;
    }
    file.flush().map_err(&failed)?;
    list.finish().map_err(&names_failed)?;
    Ok(file)
}

/// The head of a float32 matrix in the NPY format, version 1.0: padded such that the numbers begin at a multiple of 64.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(padded as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.resize(10 + padded - 1, b' ');
    out.push(b'\n');
    out
}

fn jsonl(out: &Path, rows: &mut dyn Iterator<Item = Result<Row, ToolError>>) -> Result<Draft, ToolError> {
    let failed = file_error(out);
    let mut file = Draft::beside(out).map_err(&failed)?;
    for row in rows {
        serde_json::to_writer(&mut file, &row?).map_err(|e| failed(e.into()))?;
        file.write_all(b"\n").map_err(&failed)?;
    }
    Ok(file)
}

fn parquet(
    out: &Path,
    info: &ModelInfo,
    rows: &mut dyn Iterator<Item = Result<Row, ToolError>>,
) -> Result<Draft, ToolError> {
    let failed = |reason| ToolError::Parquet { path: out.to_owned(), reason };
    let pair = |key: &str, value: &str| KeyValue::new(key.to_owned(), value.to_owned());
    let about = vec![
        pair(table::MODEL, &info.name),
        pair(table::FINGERPRINT, &info.fingerprint),
        pair(table::IDENTITY, &info.identity),
    ];
    let properties = WriterProperties::builder()
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(false)
        .set_key_value_metadata(Some(about))
        .build();
    let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
    let file = Draft::beside(out).map_err(file_error(out))?;
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).map_err(failed)?;
    let mut group = Vec::new();
    for row in rows {
        group.push(row?);
        if group.len() == GROUP {
            write_group(&mut writer, &group).map_err(failed)?;
            group.clear();
        }
    }
    if !group.is_empty() {
        write_group(&mut writer, &group).map_err(failed)?;
    }
    writer.into_inner().map_err(failed)
}

fn write_group(writer: &mut SerializedFileWriter<Draft>, rows: &[Row]) -> Result<(), ParquetError> {
    let mut group = writer.next_row_group()?;
    let text = |s: &String| ByteArray::from(s.as_bytes().to_vec());
    let paths: Vec<_> = rows.iter().map(|r| text(&r.path)).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&paths, None, None)?;
        column.close()?;
    }
    let classes: Vec<_> = rows.iter().filter_map(|r| r.class.as_ref()).map(text).collect();
    // 1 where there is a class, 0 where there is none.
    let there: Vec<i16> = rows.iter().map(|r| i16::from(r.class.is_some())).collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&classes, Some(&there), None)?;
        column.close()?;
    }
    let numbers: Vec<f32> = rows.iter().flat_map(|r| r.embedding.iter().copied()).collect();
    // Every number is there (1); a list begins where the repetition is 0.
    let definition = vec![1i16; numbers.len()];
    let starts = rows.iter().flat_map(|r| (0..r.embedding.len()).map(|i| i16::from(i > 0)));
    let repetition: Vec<i16> = starts.collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<FloatType>().write_batch(&numbers, Some(&definition), Some(&repetition))?;
        column.close()?;
    }
    group.close().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_at_a_multiple_of_64() {
        for (rows, columns) in [(0, 1), (9, 8), (1_000_000, 2048)] {
            let head = npy_header(rows, columns);
            assert_eq!(head.len() % 64, 0);
            let told = u16::from_le_bytes([head[8], head[9]]) as usize;
            assert_eq!(10 + told, head.len());
            assert!(String::from_utf8_lossy(&head[10..]).contains(&format!("({rows}, {columns})")));
            assert_eq!(head.last(), Some(&b'\n'));
        }
    }
}
