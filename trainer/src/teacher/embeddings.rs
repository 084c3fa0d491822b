//! A teacher of which there is what it said: Parquet files of `occlude-serve embed`, or any with such columns.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use occlude_contract::table::{EMBEDDING, FINGERPRINT, PATH};
use occlude_dataset::Dataset;
use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArrayType, DataType, FloatType};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use tch::Tensor;

use super::digest;
use crate::config::{Teacher, TeacherKind};

/// What embedding files end in.
const ENDING: &str = "parquet";
/// Names that an error shows.
const SHOWN: usize = 3;

/// Whether the file at `path`, or one of the folder, is of that kind, by its name.
pub(super) fn is_that(path: &Path) -> bool {
    let ends = |path: &Path| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case(ENDING));
    ends(path) || (path.is_dir() && files(path).is_ok_and(|found| !found.is_empty()))
}

/// The file at `path`, or those of the folder, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot list `{}`", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == ENDING) {
            found.push(file);
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no files that end in `.{ENDING}` in `{}`", path.display());
    Ok(found)
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    SerializedFileReader::new(file).with_context(|| {
        format!(
            "`{}` is not a Parquet file; hint: `occlude-serve embed DIR --out EMBEDDINGS.parquet`",
            path.display()
        )
    })
}

/// What the file at `path`, or those of the folder, are.
pub(super) fn describe(path: &Path) -> Result<Teacher> {
    let files = files(path)?;
    let mut fingerprint: Option<String> = None;
    for file in &files {
        let reader = open(file)?;
        let about = reader.metadata().file_metadata();
        columns(file, about.schema_descr())?;
        let pairs = about.key_value_metadata().into_iter().flatten();
        let own = pairs.filter(|pair| pair.key == FINGERPRINT).find_map(|pair| pair.value.clone());
        let own = own.unwrap_or_default();
        let first = fingerprint.get_or_insert_with(|| own.clone());
        ensure!(
            *first == own,
            "`{}` has embeddings of another model than the files before it: fingerprint `{own}`, expected `{first}`",
            file.display()
        );
    }
    let identity = digest(&files, "")?;
    let fingerprint = fingerprint.filter(|own| !own.is_empty()).unwrap_or_else(|| identity.clone());
    let (path, kind) = (path.to_owned(), TeacherKind::Embeddings);
    Ok(Teacher { path, kind, contract: None, fingerprint, identity, dim: None })
}

/// The places of the columns with names and with numbers.
fn columns(path: &Path, schema: &SchemaDescriptor) -> Result<[usize; 2]> {
    let names: Vec<String> = schema.columns().iter().map(|column| column.path().string()).collect();
    let place = |wanted: &str, physical: parquet::basic::Type| {
        let found = names.iter().position(|name| name.split('.').next() == Some(wanted));
        found.filter(|&i| schema.column(i).physical_type() == physical).with_context(|| {
            format!(
                "`{}` has no column `{wanted}` of {physical}, but {}; hint: `occlude-serve embed` writes `{PATH}` and `{EMBEDDING}`",
                path.display(),
                names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )
        })
    };
    Ok([place(PATH, parquet::basic::Type::BYTE_ARRAY)?, place(EMBEDDING, parquet::basic::Type::FLOAT)?])
}

/// The embeddings of all pictures of `data`, in its order, `(N, D)`; pictures are known by their names below its folder.
///
/// # Errors
/// Where some are missing, or are none.
pub(super) fn read(teacher: &Teacher, data: &Dataset) -> Result<Tensor> {
    let files = files(&teacher.path)?;
    ensure!(
        digest(&files, "")? == teacher.identity,
        "`{}` has changed while it was read",
        teacher.path.display()
    );
    let places: HashMap<String, usize> = (0..data.len()).map(|i| (data.name_below(i), i)).collect();
    let mut gathered =
        Gathered { rows: Vec::new(), dim: 0, seen: vec![false; data.len()], other: Vec::new(), broken: 0 };
    for file in &files {
        gathered.add(file, &places).with_context(|| format!("`{}`", file.display()))?;
    }
    gathered.finish(&teacher.path, data)
}

struct Gathered {
    /// `(N, D)`, once D is known.
    rows: Vec<f32>,
    dim: usize,
    seen: Vec<bool>,
    /// Some names that are no picture's.
    other: Vec<String>,
    /// Rows that have a reason in place of an embedding.
    broken: usize,
}

impl Gathered {
    fn add(&mut self, path: &Path, places: &HashMap<String, usize>) -> Result<()> {
        let reader = open(path)?;
        let schema = reader.metadata().file_metadata().schema_descr();
        let [names, numbers] = columns(path, schema)?;
        let column = schema.column(numbers);
        let (most, optional) = (column.max_def_level(), schema.get_column_root(numbers).is_optional());
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group)?;
            let count = usize::try_from(group.metadata().num_rows())?;
            let (paths, ..) = values::<ByteArrayType>(group.get_column_reader(names)?, count)?;
            let (floats, definition, repetition) =
                values::<FloatType>(group.get_column_reader(numbers)?, count)?;
            // a list begins where the repetition is 0
            let starts: Vec<usize> = (0..repetition.len()).filter(|&i| repetition[i] == 0).collect();
            let there = |level: &i16| *level == most;
            ensure!(
                paths.len() == count
                    && starts.len() == count
                    && definition.len() == repetition.len()
                    && floats.len() == definition.iter().filter(|level| there(level)).count(),
                "{} names, {} embeddings and {} numbers in {count} rows: some are missing",
                paths.len(),
                starts.len(),
                floats.len()
            );
            let ends = starts.iter().skip(1).copied().chain([definition.len()]);
            let mut done = 0;
            for ((name, &start), end) in paths.iter().zip(&starts).zip(ends) {
                let length = definition[start..end].iter().filter(|level| there(level)).count();
                let row = &floats[done..done + length];
                done += length;
                // a list that is absent, as of a picture that could not be read: level 0 where lists are optional
                if optional && definition[start] == 0 {
                    self.broken += 1;
                } else {
                    self.row(name.as_utf8()?, row, places)?;
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, name: &str, row: &[f32], places: &HashMap<String, usize>) -> Result<()> {
        if self.dim == 0 {
            self.dim = row.len();
            self.rows = vec![0.0; self.seen.len() * self.dim];
        }
        ensure!(
            row.len() == self.dim && !row.is_empty(),
            "the embedding of `{name}` has {} numbers, expected {}",
            row.len(),
            self.dim
        );
        ensure!(
            row.iter().all(|value| value.is_finite()),
            "the embedding of `{name}` has values that are not finite (infinite or NaN)"
        );
        match places.get(name) {
            Some(&place) => {
                ensure!(
                    !std::mem::replace(&mut self.seen[place], true),
                    "there are two embeddings of `{name}`"
                );
                self.rows[place * self.dim..(place + 1) * self.dim].copy_from_slice(row);
            }
            None if self.other.len() < SHOWN => self.other.push(name.to_owned()),
            None => {}
        }
        Ok(())
    }

    fn finish(self, path: &Path, data: &Dataset) -> Result<Tensor> {
        let missing: Vec<usize> = (0..data.len()).filter(|&i| !self.seen[i]).collect();
        let shown =
            |names: Vec<String>| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let named = || shown(missing.iter().take(SHOWN).map(|&i| data.name_below(i)).collect());
        let others = if self.other.is_empty() {
            String::new()
        } else {
            format!(" (it has, for instance, {}, which `{}` lacks)", shown(self.other), data.root().display())
        };
        let broken = match self.broken {
            0 => String::new(),
            n => format!("; {n} of its rows are pictures that could not be read"),
        };
        ensure!(
            missing.is_empty(),
            "`{}` lacks {} of {} pictures, like {}{others}{broken}; hint: names are paths below the folder that was embedded, so embed `{}` itself, and remove what cannot be read",
            path.display(),
            missing.len(),
            data.len(),
            named(),
            data.root().display()
        );
        Ok(Tensor::from_slice(&self.rows).view([-1, self.dim.max(1) as i64]))
    }
}

/// Of each place of a column, how much of it is there, or where a list begins.
type Levels = Vec<i16>;

/// The values of a column in a group of `rows` rows, and of all its places the levels of definition and repetition; there are
/// fewer values than places where some are absent.
fn values<T: DataType>(column: ColumnReader, rows: usize) -> Result<(Vec<T::T>, Levels, Levels)> {
    let mut column = get_typed_column_reader::<T>(column);
    let (mut values, mut definition, mut repetition, mut done) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while done < rows {
        let levels = (Some(&mut definition), Some(&mut repetition));
        match column.read_records(rows - done, levels.0, levels.1, &mut values)?.0 {
            0 => break,
            read => done += read,
        }
    }
    Ok((values, definition, repetition))
}

#[cfg(test)]
mod tests;
