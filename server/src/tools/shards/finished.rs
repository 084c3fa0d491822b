//! What is in the result already: names, and the metadata at the end of a file.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use occlude_contract::table;
use occlude_objects::Store;
use parquet::file::metadata::ParquetMetaDataReader;

use super::input::{Shard, What, stretch};
use crate::inference::model::ModelInfo;
use crate::tools::{ToolError, file_error};

/// Digits of the model's identity in names.
const DIGITS: usize = 12;
/// What names end in.
const ENDING: &str = ".parquet";
/// Bytes at the end of a Parquet file: the length of its metadata, and `PAR1`.
const TAIL: u64 = 8;
/// Largest metadata that are read.
const MAX_METADATA: u64 = 256 << 20;

/// The place of the result.
pub(super) struct Finished {
    names: HashSet<String>,
    /// The model's, shortened.
    identity: String,
}

impl Finished {
    /// Lists what is there, and refuses a place that holds embeddings of another model, or of a list of pictures that was
    /// cut otherwise: together they would be doubled.
    pub(super) fn look(out: &dyn Store, model: &ModelInfo, shards: &[Shard]) -> Result<Self, ToolError> {
        let place = out.name(Path::new(""));
        let names = out.names().map_err(file_error(Path::new(&place)))?;
        let identity: String = model.identity.chars().take(DIGITS).collect();
        let cuts = shards.iter().filter(|shard| matches!(shard.what, What::Pictures(_))).count();
        for name in &names {
            let Some((shard, other)) = parted(name) else { continue };
            if other != identity {
                let (file, found) = (out.name(Path::new(name)), other.to_owned());
                return Err(ToolError::OtherModel { file, found, expected: identity });
            }
            let of_list = shard.rsplit_once("-of-").filter(|_| shard.starts_with("pictures-"));
            let count = of_list.and_then(|(_, count)| count.parse::<usize>().ok());
            if let Some(found) =
                count.filter(|&count| count != cuts && shard == stretch(number(shard), count))
            {
                let file = out.name(Path::new(name));
                return Err(ToolError::OtherCut { file, found, expected: cuts });
            }
        }
        Ok(Self { names: names.into_iter().collect(), identity })
    }

    /// The file of a shard.
    pub(super) fn name(&self, shard: &Shard) -> String {
        format!("{}-{}{ENDING}", shard.name, self.identity)
    }

    /// Whether a shard's file was there when this was listed.
    pub(super) fn has(&self, shard: &Shard) -> bool {
        self.names.contains(&self.name(shard))
    }
}

/// Shard and shortened identity of a name that is one of ours.
fn parted(name: &str) -> Option<(&str, &str)> {
    let (shard, identity) = name.strip_suffix(ENDING)?.rsplit_once('-')?;
    let digits = identity.len() == DIGITS && identity.bytes().all(|b| b.is_ascii_hexdigit());
    (digits && !shard.starts_with('.')).then_some((shard, identity))
}

/// The number in `pictures-00003-of-00010`.
fn number(stretch: &str) -> usize {
    stretch.split('-').nth(1).and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// What a file of the result says it was made of.
pub(super) fn origin(out: &dyn Store, name: &str) -> io::Result<Option<String>> {
    let path = PathBuf::from(name);
    let stat = out.stat(&path)?.ok_or(io::ErrorKind::NotFound)?;
    let no_table = || io::Error::new(io::ErrorKind::InvalidData, "not a whole Parquet file; hint: delete it");
    let end = stat.bytes.checked_sub(TAIL).ok_or_else(no_table)?;
    let tail = out.read(&path, &stat, end..stat.bytes)?;
    let length = tail.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
    let length = length.filter(|&n| n <= MAX_METADATA && tail.ends_with(b"PAR1")).ok_or_else(no_table)?;
    let begin = end.checked_sub(length).ok_or_else(no_table)?;
    let metadata = out.read(&path, &stat, begin..end)?;
    let metadata = ParquetMetaDataReader::decode_metadata(&metadata).map_err(|_| no_table())?;
    let pairs = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    Ok(pairs.filter(|pair| pair.key == table::INPUT).find_map(|pair| pair.value.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_told_from_others() {
        let ours = "00001.tar-0123456789ab.parquet";
        assert_eq!(parted(ours), Some(("00001.tar", "0123456789ab")));
        for other in
            ["part-0.parquet", "x-0123456789ab.tmp", ".x-0123456789ab.parquet", "x-0123456789AZ.parquet"]
        {
            assert_eq!(parted(other), None, "{other}");
        }
        assert_eq!(number(&stretch(7, 31)), 7);
    }
}
