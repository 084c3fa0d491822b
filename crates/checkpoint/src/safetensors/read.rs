//! The reader: header to index.

use std::collections::BTreeMap;

use super::header::{Header, Info, shown};
use super::{LENGTH_BYTES, MAX_HEADER};
use crate::dtype::Dtype;
use crate::error::SafetensorsError;
use crate::index::{Index, Skipped};
use crate::tensor::Entry;
use crate::view::{Layout, Storage};

/// Whether the file begins like a safetensors file: a length below 2^40 and an opening brace.
pub(crate) fn looks_like(file: &[u8]) -> bool {
    file.get(LENGTH_BYTES) == Some(&b'{') && header_len(file).is_some_and(|n| n < 1 << 40)
}

fn header_len(file: &[u8]) -> Option<u64> {
    file.first_chunk::<LENGTH_BYTES>().map(|b| u64::from_le_bytes(*b))
}

/// Indexes the tensors; names in the order of their bytes.
pub(crate) fn read(file: &[u8]) -> Result<Index, SafetensorsError> {
    let truncated = |expected| SafetensorsError::Truncated { expected, got: file.len() as u64 };
    let claimed = header_len(file).ok_or_else(|| truncated(LENGTH_BYTES as u64))?;
    if claimed > MAX_HEADER {
        return Err(SafetensorsError::HeaderTooLarge { got: claimed, limit: MAX_HEADER });
    }
    let expected = claimed + LENGTH_BYTES as u64;
    // The cap above makes this exact on every platform.
    let data_start = expected as usize;
    let json = file.get(LENGTH_BYTES..data_start).ok_or_else(|| truncated(expected))?;
    let header: Header = serde_json::from_slice(json).map_err(SafetensorsError::Header)?;
    index(header, data_start, file.len())
}

/// Holds the tensors against each other and against the length of the file.
fn index(header: Header, data_start: usize, file_len: usize) -> Result<Index, SafetensorsError> {
    let Header { metadata, mut tensors } = header;
    reject_duplicates(&tensors)?;
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    for (name, info) in &tensors {
        let (begin, next) = info.data_offsets;
        if begin != end {
            return Err(SafetensorsError::Gap { name: shown(name).into(), expected: end, got: begin });
        }
        if next < begin {
            return Err(size_error(name, info));
        }
        end = next;
    }
    let got = (file_len - data_start) as u64;
    if end != got {
        return Err(SafetensorsError::DataLength { expected: end, got });
    }
    entries(tensors, data_start, metadata)
}

/// Builds the entries; every range is known to lie in the file.
fn entries(
    tensors: Vec<(String, Info)>,
    data_start: usize,
    metadata: BTreeMap<String, String>,
) -> Result<Index, SafetensorsError> {
    let mut index = Index { metadata, ..Index::default() };
    for (name, info) in tensors {
        let Some(dtype) = Dtype::from_name(&info.dtype) else {
            let reason = format!("its type `{}` is not supported", shown(&info.dtype));
            index.skipped.push(Skipped { name, reason });
            continue;
        };
        let (begin, end) = info.data_offsets;
        let range = data_start + begin as usize..data_start + end as usize;
        if dtype.bytes_of(&info.shape.0) != Some(range.len()) {
            return Err(size_error(&name, &info));
        }
        index.entries.push(Entry {
            name,
            dtype,
            shape: info.shape.0,
            storage: Storage::Raw(range),
            layout: Layout::Contiguous { offset: 0 },
            swapped: false,
        });
    }
    Ok(index)
}

fn size_error(name: &str, info: &Info) -> SafetensorsError {
    SafetensorsError::Size {
        name: shown(name).into(),
        dtype: shown(&info.dtype).into(),
        shape: info.shape.0.clone(),
        begin: info.data_offsets.0,
        end: info.data_offsets.1,
    }
}

/// JSON allows a key twice, and readers disagree about which one counts.
fn reject_duplicates(tensors: &[(String, Info)]) -> Result<(), SafetensorsError> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair.first() == pair.last()).and_then(<[_]>::first) {
        Some(name) => {
            let message = format!("tensor `{}` appears twice", shown(name));
            Err(SafetensorsError::Header(serde::de::Error::custom(message)))
        }
        None => Ok(()),
    }
}
