//! The reader: stored records only.
//!
//! Compressed records are refused, which leaves nothing for a zip bomb to do. Nothing is ever
//! extracted; paths that would leave the folder and records that overlap are refused all the same,
//! since they show that somebody made the file to attack its reader.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;

use super::{CENTRAL, END, END64, IN_EXTRA, LOCAL, LOCAL_LEN, LOCATOR64};
use crate::error::ZipError;

/// More records than any checkpoint has: one per storage.
const MAX_RECORDS: u64 = 1 << 18;

/// Longer names than any system allows; they would be copied for every storage.
const MAX_NAME: usize = 1 << 10;
const CENTRAL_LEN: usize = 46;
const END_LEN: usize = 22;
const LOCATOR64_LEN: usize = 20;

/// An archive whose directory has been read.
pub(crate) struct Archive<'a> {
    file: &'a [u8],
    records: HashMap<&'a str, Record>,
}

pub(super) struct Record {
    /// Of the local header.
    pub(super) offset: u64,
    pub(super) len: u64,
    /// Bytes in the file; those of a compressed record are fewer.
    stored_len: u64,
    method: u16,
    encrypted: bool,
    crc: u32,
}

impl<'a> Archive<'a> {
    pub(crate) fn looks_like(file: &[u8]) -> bool {
        file.starts_with(LOCAL) || file.starts_with(END)
    }

    pub(crate) fn read(file: &'a [u8]) -> Result<Self, ZipError> {
        let Directory { start, mut rest, count } = directory(file)?;
        if count > MAX_RECORDS {
            return Err(ZipError::TooManyRecords { got: count, limit: MAX_RECORDS });
        }
        let mut records = HashMap::new();
        for _ in 0..count {
            let (name, record, next) = central(rest).ok_or(ZipError::Damaged("its directory"))?;
            rest = next;
            match records.entry(name) {
                Entry::Occupied(_) => return Err(ZipError::Duplicate(shown(name))),
                Entry::Vacant(slot) => drop(slot.insert(record)),
            }
            if name.len() > MAX_NAME {
                return Err(ZipError::Damaged("its directory: a name of more than 1024 bytes"));
            }
            if leaves_folder(name) {
                return Err(ZipError::Path(shown(name)));
            }
        }
        reject_overlaps(&records, start)?;
        Ok(Self { file, records })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.records.keys().copied()
    }

    /// Where the bytes of a record lie in the file; `None` for an absent one.
    pub(crate) fn range(&self, name: &str) -> Option<Result<Range<usize>, ZipError>> {
        let record = self.records.get(name)?;
        Some(self.locate(name, record))
    }

    fn locate(&self, name: &str, record: &Record) -> Result<Range<usize>, ZipError> {
        if record.encrypted {
            return Err(ZipError::Encrypted(shown(name)));
        }
        if record.method != 0 {
            return Err(ZipError::Compressed { name: shown(name), method: record.method });
        }
        let find = || {
            let start = usize::try_from(record.offset).ok()?;
            let header = self.file.get(start..start.checked_add(LOCAL_LEN)?)?;
            if !header.starts_with(LOCAL) {
                return None;
            }
            // The directory and the header before the data must agree on what it is.
            let own = start + LOCAL_LEN;
            if self.file.get(own..own.checked_add(u16_at(header, 26)?.into())?)? != name.as_bytes() {
                return None;
            }
            let extra = usize::from(u16_at(header, 26)?) + usize::from(u16_at(header, 28)?);
            let begin = start.checked_add(LOCAL_LEN + extra)?;
            let end = begin.checked_add(usize::try_from(record.len).ok()?)?;
            (end <= self.file.len()).then_some(begin..end)
        };
        find().ok_or_else(|| ZipError::Outside(shown(name)))
    }

    /// The names of records whose bytes do not have the checksum that the directory says, among
    /// those that can be read.
    pub(crate) fn damaged(&self) -> Vec<String> {
        let intact = |name: &str, record: &Record| {
            self.locate(name, record).is_ok_and(|r| self.file.get(r).map(crc32fast::hash) == Some(record.crc))
        };
        let mut names: Vec<String> =
            self.records.iter().filter(|(n, r)| !intact(n, r)).map(|(n, _)| shown(n)).collect();
        names.sort_unstable();
        names
    }
}

/// Whether a path is absolute or climbs out of the folder that it would be unpacked in.
fn leaves_folder(name: &str) -> bool {
    name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..")
}

/// Two names for the same bytes: archives that unpack to far more than they are do so. The directory
/// follows the last record.
fn reject_overlaps(records: &HashMap<&str, Record>, directory: u64) -> Result<(), ZipError> {
    let mut spans: Vec<(u64, u64, &str)> = records
        .iter()
        .map(|(name, record)| {
            let header = (LOCAL_LEN + name.len()) as u64;
            (record.offset, record.offset.saturating_add(header).saturating_add(record.stored_len), *name)
        })
        .collect();
    spans.sort_unstable();
    let overlap = spans.iter().zip(spans.iter().skip(1)).find(|((_, end, _), (next, ..))| end > next);
    match (overlap, spans.last()) {
        (Some((_, (_, _, name))), _) => Err(ZipError::Overlap(shown(name))),
        (None, Some((_, end, name))) if *end > directory => Err(ZipError::Outside(shown(name))),
        _ => Ok(()),
    }
}

/// A name for messages; long ones are cut.
fn shown(name: &str) -> String {
    name.chars().take(200).collect()
}

/// The bytes from the first directory entry on, where they begin, and how many entries there are.
struct Directory<'a> {
    start: u64,
    rest: &'a [u8],
    count: u64,
}

fn directory(file: &[u8]) -> Result<Directory<'_>, ZipError> {
    let end = find_end(file).ok_or(ZipError::NoDirectory)?;
    let damaged = ZipError::Damaged("the end of its directory");
    let read = || {
        let record = file.get(end..)?;
        let (count, offset) = (u64::from(u16_at(record, 10)?), u64::from(u32_at(record, 16)?));
        let (count, offset) =
            if count == 0xffff || offset == IN_EXTRA { end64(file, end)? } else { (count, offset) };
        Some(Directory { start: offset, rest: file.get(usize::try_from(offset).ok()?..end)?, count })
    };
    read().ok_or(damaged)
}

/// The end record: the last place where its signature and the length of its comment fit.
fn find_end(file: &[u8]) -> Option<usize> {
    let first = file.len().saturating_sub(END_LEN + usize::from(u16::MAX));
    let last = file.len().checked_sub(END_LEN)?;
    (first..=last).rev().find(|&at| {
        let Some(record) = file.get(at..) else { return false };
        let comment = u16_at(record, 20).map(usize::from);
        record.starts_with(END) && comment.is_some_and(|len| len == record.len() - END_LEN)
    })
}

/// Count and offset from the zip64 end record, found through the locator before the end record.
fn end64(file: &[u8], end: usize) -> Option<(u64, u64)> {
    let locator = file.get(end.checked_sub(LOCATOR64_LEN)?..end)?;
    if !locator.starts_with(LOCATOR64) {
        return None;
    }
    let record = file.get(usize::try_from(u64_at(locator, 8)?).ok()?..)?;
    if !record.starts_with(END64) {
        return None;
    }
    Some((u64_at(record, 32)?, u64_at(record, 48)?))
}

/// One entry of the directory, and what follows it.
pub(super) fn central(bytes: &[u8]) -> Option<(&str, Record, &[u8])> {
    let header = bytes.get(..CENTRAL_LEN)?;
    if !header.starts_with(CENTRAL) {
        return None;
    }
    let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| u16_at(header, at).map_or(0, usize::from));
    let (name, rest) = bytes.get(CENTRAL_LEN..)?.split_at_checked(name_len)?;
    let (extra, rest) = rest.split_at_checked(extra_len)?;
    let rest = rest.get(comment_len..)?;
    let mut wide = extra64(extra);
    let mut widen = |value: u32| match u64::from(value) {
        IN_EXTRA => u64::from_le_bytes(*wide.split_off(..8)?.first_chunk()?).into(),
        value => Some(value),
    };
    // The extra field holds only those that do not fit, in this order.
    let len = widen(u32_at(header, 24)?)?;
    let stored_len = widen(u32_at(header, 20)?)?;
    let offset = widen(u32_at(header, 42)?)?;
    let method = u16_at(header, 10)?;
    if method == 0 && stored_len != len {
        return None;
    }
    let encrypted = u16_at(header, 8)? & 1 != 0;
    let record = Record { offset, len, stored_len, method, encrypted, crc: u32_at(header, 16)? };
    Some((std::str::from_utf8(name).ok()?, record, rest))
}

/// The body of the zip64 extra field; empty when there is none.
fn extra64(mut extra: &[u8]) -> &[u8] {
    while let (Some(id), Some(len)) = (u16_at(extra, 0), u16_at(extra, 2)) {
        let Some((body, rest)) = extra.get(4..).and_then(|e| e.split_at_checked(len.into())) else { break };
        if id == 1 {
            return body;
        }
        extra = rest;
    }
    &[]
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
