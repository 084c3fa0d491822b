//! Vectors with their pictures' names as NumPy, Parquet or JSON lines.

use std::io::Write;
use std::path::{Path, PathBuf};

use occlude_output::Draft;

use super::table::{Kind, Row, Table};
use super::{ToolError, file_error};
use crate::inference::model::ModelInfo;

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
    let file = Draft::beside(out).map_err(file_error(out))?;
    let mut table = Table::new(file, info, Kind::Whole, &[]).map_err(failed)?;
    for row in rows {
        table.push(row?).map_err(failed)?;
    }
    table.finish().map_err(failed)
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
