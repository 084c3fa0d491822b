//! Containers for a hostile pickle, written by hand: a library would not write most of them.

/// A record of a zip archive, with what its headers claim.
pub(crate) struct Record<'a> {
    pub(crate) name: &'a str,
    pub(crate) data: &'a [u8],
    pub(crate) method: u16,
    pub(crate) flags: u16,
    /// What the directory says instead of the length of the data.
    pub(crate) claims: Option<u64>,
    /// What the directory says instead of the offset.
    pub(crate) offset: Option<u64>,
}

impl<'a> Record<'a> {
    pub(crate) fn new(name: &'a str, data: &'a [u8]) -> Self {
        Self { name, data, method: 0, flags: 0, claims: None, offset: None }
    }
}

fn bytes16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn bytes32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// An archive; sizes and offsets are always in zip64 fields, so that they can claim anything.
pub(crate) fn zip(records: &[Record<'_>]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for record in records {
        let offset = record.offset.unwrap_or(out.len() as u64);
        let len = record.data.len() as u32;
        let name_len = record.name.len() as u16;
        out.extend(b"PK\x03\x04");
        out.extend(bytes16(&[45, record.flags, record.method, 0, 0]));
        out.extend(bytes32(&[0, len, len]));
        out.extend(bytes16(&[name_len, 0]));
        out.extend([record.name.as_bytes(), record.data].concat());
        let claims = record.claims.unwrap_or(len.into());
        directory.extend(b"PK\x01\x02");
        directory.extend(bytes16(&[45, 45, record.flags, record.method, 0, 0]));
        directory.extend(bytes32(&[0, u32::MAX, u32::MAX]));
        directory.extend(bytes16(&[name_len, 28, 0, 0, 0, 0, 0]));
        directory.extend(u32::MAX.to_le_bytes());
        directory.extend([record.name.as_bytes(), &bytes16(&[1, 24])].concat());
        directory.extend([claims, claims, offset].iter().flat_map(|v| v.to_le_bytes()));
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    out.extend(end(records.len() as u16, directory.len() as u32, start));
    out
}

/// The record at the end of an archive.
pub(crate) fn end(count: u16, len: u32, start: u32) -> Vec<u8> {
    [b"PK\x05\x06".to_vec(), bytes16(&[0, 0, count, count]), bytes32(&[len, start]), vec![0; 2]].concat()
}

/// A pickle as the `data.pkl` of an archive with one storage of 64 bytes, named `0`.
pub(crate) fn torch_zip(pickle: &[u8]) -> Vec<u8> {
    zip(&[Record::new("a/data.pkl", pickle), Record::new("a/data/0", &[0; 64])])
}

/// A pickle as the object of a legacy stream without storages.
pub(crate) fn legacy(pickle: &[u8]) -> Vec<u8> {
    let start = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";
    [start.as_slice(), pickle, b"\x80\x02]."].concat()
}

/// A pickle in every container, with names for messages.
pub(crate) fn everywhere(program: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let pickle = [b"\x80\x04".as_slice(), program].concat();
    [("zip", torch_zip(&pickle)), ("legacy", legacy(&pickle)), ("numpy", pickle)]
}

/// `_rebuild_tensor_v2` on the storage `0`, without the final `REDUCE`'s memo; `numel`, `size` and
/// `stride` are instructions.
pub(crate) fn tensor(class: &str, numel: &[u8], size: &[u8], stride: &[u8]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\n",
        class.as_bytes(),
        b"\nX\x01\0\0\x000X\x03\0\0\0cpu",
        numel,
        b"tQK\0",
        size,
        stride,
        b"\x89}tR",
    ]
    .concat()
}

/// A short string in a pickle.
pub(crate) fn text(value: &str) -> Vec<u8> {
    [b"X".as_slice(), &(value.len() as u32).to_le_bytes(), value.as_bytes()].concat()
}
