//! Streams of bytes that a pickle holds.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{FormatError, StateError};
use crate::view::Storage;

/// The bytes of a stream, as the pickle holds them.
pub(crate) enum Stream<'s> {
    /// As they are; where in the file, if they are there.
    Raw(&'s [u8], Option<Range<usize>>),
    /// One code point each, where in the file.
    Text(&'s str, Range<usize>),
    /// One code point each, of a text that the file does not hold so.
    Decoded(Arc<[u8]>),
}

impl Stream<'_> {
    /// Its first bytes.
    pub(crate) fn head(&self, len: usize) -> Result<Vec<u8>, FormatError> {
        let no_bytes = || FormatError::from(StateError::Legacy("a storage in it is not bytes"));
        match self {
            Self::Raw(bytes, _) => Ok(bytes.get(..len.min(bytes.len())).unwrap_or_default().to_vec()),
            Self::Decoded(bytes) => Ok(bytes.get(..len.min(bytes.len())).unwrap_or_default().to_vec()),
            Self::Text(text, _) => {
                let byte = |c: char| u8::try_from(u32::from(c)).ok();
                text.chars().take(len).map(byte).collect::<Option<_>>().ok_or_else(no_bytes)
            }
        }
    }

    /// A part of it as a storage; `None` where it ends before.
    pub(crate) fn part(&self, range: Range<usize>) -> Result<Option<Storage>, FormatError> {
        let at = |place: &Range<usize>, range: &Range<usize>| {
            Some(place.start.checked_add(range.start)?..place.start.checked_add(range.end)?)
        };
        Ok(match self {
            Self::Raw(bytes, place) => {
                let part = bytes.get(range.clone());
                match place {
                    Some(place) => part.and_then(|_| at(place, &range)).map(Storage::Raw),
                    None => part.map(|part| Storage::Owned(Arc::from(part))),
                }
            }
            Self::Decoded(bytes) => bytes.get(range).map(|part| Storage::Owned(Arc::from(part))),
            Self::Text(text, place) => {
                let offset = |n: usize| match text.char_indices().nth(n) {
                    Some((offset, _)) => Some(offset),
                    None => (text.chars().count() == n).then_some(text.len()),
                };
                let part = offset(range.start).zip(offset(range.end)).map(|(start, end)| start..end);
                part.and_then(|part| at(place, &part))
                    .map(|place| Storage::Latin1 { range: place, len: range.len() })
            }
        })
    }
}
