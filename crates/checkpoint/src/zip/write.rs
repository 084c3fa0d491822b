//! The writer: one record after the other, the directory at the end.

use std::io::{self, Write};

use super::{CENTRAL, END, END64, IN_EXTRA, LOCAL, LOCAL_LEN, LOCATOR64};

/// PyTorch maps storages into memory in place, so they begin at multiples of this.
const ALIGNMENT: u64 = 64;
/// The extra field that PyTorch pads with.
const PADDING_ID: u16 = u16::from_le_bytes(*b"FB");
const ZIP64_ID: u16 = 1;
/// zip 2.0: stored records; 4.5: with 64-bit sizes.
const VERSION: u16 = 20;
const VERSION64: u16 = 45;
/// 1980-01-01, the first day that zip knows: the same tensors give the same file.
const DATE: u16 = (1 << 5) | 1;

/// A record to write. The checksum is taken when it is made, so that the header can come first.
#[derive(Clone, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) name: String,
    pub(crate) data: &'a [u8],
    pub(crate) crc: u32,
}

impl<'a> Record<'a> {
    pub(crate) fn new(name: String, data: &'a [u8]) -> Self {
        let crc = crc32fast::hash(data);
        Self { name, data, crc }
    }
}

/// What the directory says of a written record.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    crc: u32,
    len: u64,
    offset: u64,
}

/// Writes an archive; nothing is kept but the directory.
pub(crate) struct ZipWriter<W> {
    out: W,
    at: u64,
    entries: Vec<Entry>,
}

impl<W: Write> ZipWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, at: 0, entries: Vec::new() }
    }

    /// Writes a record, its data aligned.
    pub(crate) fn write(&mut self, record: &Record<'_>) -> io::Result<()> {
        let Record { name, data, crc } = record;
        let entry = Entry { name: name.clone(), crc: *crc, len: data.len() as u64, offset: self.at };
        let header = local_header(&entry)?;
        self.put(&header)?;
        self.put(data)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the directory and gives the output back, not flushed.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        let (start, count) = (self.at, self.entries.len() as u64);
        for entry in std::mem::take(&mut self.entries) {
            self.put(&central_header(&entry)?)?;
        }
        let end = end_records(count, start, self.at - start);
        self.put(&end)?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// What a 32-bit field says: the value, or that it is in the zip64 extra field.
fn narrow(value: u64) -> [u8; 4] {
    u32::try_from(value.min(IN_EXTRA)).unwrap_or(u32::MAX).to_le_bytes()
}

/// The body of a zip64 extra field; empty when every value fits.
fn extra64(values: &[u64]) -> Vec<u8> {
    if values.is_empty() {
        return vec![];
    }
    let mut extra = [ZIP64_ID.to_le_bytes(), ((values.len() * 8) as u16).to_le_bytes()].concat();
    extra.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    extra
}

fn version(extra: &[u8]) -> [u8; 2] {
    if extra.is_empty() { VERSION } else { VERSION64 }.to_le_bytes()
}

fn name_len(name: &str) -> io::Result<[u8; 2]> {
    u16::try_from(name.len()).map(u16::to_le_bytes).map_err(io::Error::other)
}

/// Method, time, date, checksum, sizes: what both headers have in the middle.
fn middle(entry: &Entry) -> Vec<u8> {
    let Entry { crc, len, .. } = entry;
    let (date, crc, len) = (DATE.to_le_bytes(), crc.to_le_bytes(), narrow(*len));
    [[0; 4].as_slice(), &date, &crc, &len, &len].concat()
}

/// The header before the data, padded so that the data is aligned.
fn local_header(entry: &Entry) -> io::Result<Vec<u8>> {
    // Here both sizes, or neither.
    let wide = [entry.len; 2].map(|len| (len >= IN_EXTRA).then_some(len));
    let mut extra = extra64(&wide.into_iter().flatten().collect::<Vec<_>>());
    let version = version(&extra);
    // The padding is an extra field too: four bytes of header, then as many as it takes.
    let unpadded = entry.offset + (LOCAL_LEN + entry.name.len() + extra.len() + 4) as u64;
    let padding = unpadded.next_multiple_of(ALIGNMENT) - unpadded;
    extra.extend([PADDING_ID.to_le_bytes(), (padding as u16).to_le_bytes()].concat());
    extra.resize(extra.len() + padding as usize, 0);
    let lens = [name_len(&entry.name)?, (extra.len() as u16).to_le_bytes()].concat();
    Ok([LOCAL, version.as_slice(), &[0; 2], &middle(entry), &lens, entry.name.as_bytes(), &extra].concat())
}

/// The entry of the directory.
fn central_header(entry: &Entry) -> io::Result<Vec<u8>> {
    let wide = [entry.len, entry.len, entry.offset];
    let extra = extra64(&wide.into_iter().filter(|&v| v >= IN_EXTRA).collect::<Vec<_>>());
    let version = version(&extra);
    let lens = [name_len(&entry.name)?, (extra.len() as u16).to_le_bytes()].concat();
    // Comment, disk and attributes are all nothing.
    let tail = [[0; 10].as_slice(), &narrow(entry.offset), entry.name.as_bytes(), &extra].concat();
    Ok([CENTRAL, version.as_slice(), &version, &[0; 2], &middle(entry), &lens, &tail].concat())
}

/// What ends the archive, with the 64-bit records where the plain one has no room.
fn end_records(count: u64, start: u64, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let short_count = u16::try_from(count).unwrap_or(u16::MAX);
    if short_count == u16::MAX || start >= IN_EXTRA || len >= IN_EXTRA {
        let version = VERSION64.to_le_bytes();
        // Bytes of the record behind this field; this disk and the one of the directory are zero.
        bytes.extend([END64.as_slice(), &44u64.to_le_bytes(), &version, &version, &[0; 8]].concat());
        bytes.extend([count, count, len, start].iter().flat_map(|v| v.to_le_bytes()));
        bytes.extend(
            [LOCATOR64.as_slice(), &[0; 4], &(start + len).to_le_bytes(), &1u32.to_le_bytes()].concat(),
        );
    }
    let count = short_count.to_le_bytes();
    bytes.extend([END.as_slice(), &[0; 4], &count, &count, &narrow(len), &narrow(start), &[0; 2]].concat());
    bytes
}

#[cfg(test)]
mod tests {
    use super::super::Archive;
    use super::super::read::central;
    use super::*;

    fn entry(len: u64, offset: u64) -> Entry {
        Entry { name: "archive/data/7".into(), crc: 0x1234_5678, len, offset }
    }

    #[test]
    fn data_is_aligned_wherever_the_header_begins() {
        for offset in 0..200 {
            for len in [3, 5 << 30] {
                let header = local_header(&entry(len, offset)).expect("a header");
                assert_eq!((offset + header.len() as u64) % ALIGNMENT, 0, "{offset}");
            }
        }
    }

    #[test]
    fn the_reader_takes_sizes_and_offsets_beyond_32_bits() {
        let limit = IN_EXTRA;
        for (len, offset) in
            [(9, 9), (limit - 1, 0), (limit, 1), (5 << 30, 5), (5, 5 << 30), (1 << 40, 1 << 41)]
        {
            let bytes = central_header(&entry(len, offset)).expect("a header");
            let (name, record, rest) = central(&bytes).expect("sound");
            assert_eq!((name, record.offset, record.len), ("archive/data/7", offset, len));
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn the_end_has_64_bit_records_where_it_must() {
        for (count, start, len, wide) in
            [(3, 100, 200, false), (0xffff, 1, 2, true), (1, 5 << 30, 2, true), (1, 2, 5 << 30, true)]
        {
            assert_eq!(end_records(count, start, len).len() > 22, wide, "{count} {start} {len}");
        }
    }

    #[test]
    fn more_records_than_16_bits_count() {
        let mut zip = ZipWriter::new(Vec::new());
        for i in 0..70_000 {
            zip.write(&Record::new(format!("a/{i}"), &[1, 2, 3])).expect("writes");
        }
        let bytes = zip.finish().expect("writes");
        let archive = Archive::read(&bytes).expect("sound");
        assert_eq!(archive.names().count(), 70_000);
        let last = archive.range("a/69999").expect("present").expect("in the file");
        assert_eq!(bytes.get(last), Some([1, 2, 3].as_slice()));
        assert!(archive.damaged().is_empty());
    }

    #[test]
    fn a_name_beyond_16_bits_is_refused() {
        let long = Entry { name: "x".repeat(1 << 16), crc: 0, len: 0, offset: 0 };
        assert!(local_header(&long).is_err() && central_header(&long).is_err());
    }
}
