//! Parquet files of embeddings, written row group by row group: what is held in memory is one of them.

use std::io::Write;
use std::sync::Arc;

use occlude_contract::table;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use serde::Serialize;

use crate::inference::model::ModelInfo;

/// Most rows of a row group.
const GROUP: usize = 4096;

const SCHEMA: &str = "message embeddings {
    required binary path (UTF8);
    optional binary class (UTF8);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// The same where rows may have a reason in place of an embedding.
const WITH_REASONS: &str = "message embeddings {
    required binary path (UTF8);
    optional binary class (UTF8);
    optional group embedding (LIST) { repeated group list { required float element; } }
    optional binary reason (UTF8);
}";

/// One picture of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) path: String,
    pub(super) class: Option<String>,
    pub(super) embedding: Vec<f32>,
    /// Why there is no embedding.
    #[serde(skip)]
    pub(super) reason: Option<String>,
}

/// Which columns a table has, and how much of it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every row has an embedding.
    Whole,
    /// Rows have an embedding or a reason.
    WithReasons,
}

/// A table in the making.
pub(super) struct Table<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    kind: Kind,
    waiting: Vec<Row>,
    group: usize,
}

impl<W: Write + Send> Table<W> {
    /// Begins a table of what the model `info` says; `more` are further pairs of its metadata.
    pub(super) fn new(
        out: W,
        info: &ModelInfo,
        kind: Kind,
        more: &[(&str, &str)],
    ) -> Result<Self, ParquetError> {
        let about = [
            (table::MODEL, info.name.as_str()),
            (table::FINGERPRINT, &info.fingerprint),
            (table::IDENTITY, &info.identity),
        ];
        let pair = |(key, value): &(&str, &str)| KeyValue::new((*key).to_owned(), (*value).to_owned());
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_key_value_metadata(Some(about.iter().chain(more).map(pair).collect()))
            .build();
        let (schema, group) = match kind {
            Kind::Whole => (SCHEMA, GROUP),
            // a group of the longest embeddings has 4 MiB of numbers
            Kind::WithReasons => (WITH_REASONS, ((1 << 20) / info.dim.max(1)).clamp(64, GROUP)),
        };
        let schema = Arc::new(parse_message_type(schema)?);
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties))?;
        Ok(Self { writer, kind, waiting: Vec::new(), group })
    }

    /// Adds a row.
    pub(super) fn push(&mut self, row: Row) -> Result<(), ParquetError> {
        self.waiting.push(row);
        if self.waiting.len() == self.group { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        write_group(&mut group, self.kind, &self.waiting)?;
        group.close()?;
        self.waiting.clear();
        Ok(())
    }

    /// Ends the table; gives what it was written to.
    pub(super) fn finish(mut self) -> Result<W, ParquetError> {
        self.flush()?;
        self.writer.into_inner()
    }
}

fn write_group<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    kind: Kind,
    rows: &[Row],
) -> Result<(), ParquetError> {
    texts(group, rows, false, |r| Some(&r.path))?;
    texts(group, rows, true, |r| r.class.as_ref())?;
    let mut numbers = Vec::with_capacity(rows.iter().map(|r| r.embedding.len()).sum());
    let (mut definition, mut repetition) = (Vec::new(), Vec::new());
    // a number that is there; one more where the list itself may be absent
    let there = if kind == Kind::Whole { 1 } else { 2 };
    for row in rows {
        match (&row.reason, kind) {
            (Some(_), Kind::WithReasons) => {
                definition.push(0i16);
                repetition.push(0i16);
            }
            _ => {
                numbers.extend_from_slice(&row.embedding);
                definition.extend(row.embedding.iter().map(|_| there));
                // a list begins where the repetition is 0
                repetition.extend((0..row.embedding.len()).map(|i| i16::from(i > 0)));
            }
        }
    }
    if let Some(mut column) = group.next_column()? {
        column.typed::<FloatType>().write_batch(&numbers, Some(&definition), Some(&repetition))?;
        column.close()?;
    }
    if kind == Kind::WithReasons {
        texts(group, rows, true, |r| r.reason.as_ref())?;
    }
    Ok(())
}

/// A column of texts; of an optional one, rows may have none.
fn texts<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    optional: bool,
    of: impl Fn(&Row) -> Option<&String>,
) -> Result<(), ParquetError> {
    let values: Vec<_> =
        rows.iter().filter_map(&of).map(|text| ByteArray::from(text.as_bytes().to_vec())).collect();
    // 1 where there is a text, 0 where there is none
    let there: Option<Vec<i16>> = optional.then(|| rows.iter().map(|r| i16::from(of(r).is_some())).collect());
    if let Some(mut column) = group.next_column()? {
        column.typed::<ByteArrayType>().write_batch(&values, there.as_deref(), None)?;
        column.close()?;
    }
    Ok(())
}
