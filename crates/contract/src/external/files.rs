//! The files of a model: the ONNX file and the data that it keeps beside itself.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};

use super::{DEPTH, Message, child};

/// Longest key or file name of external data that is believed, in bytes.
const MAX_TEXT: u64 = 4096;

/// The model's file first, then those that hold external data, in the order in which they are named. What is no ONNX
/// file has no others: loading says what is wrong with it.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let named = File::open(path).and_then(|file| {
        let end = file.metadata()?.len();
        let mut scan = Scan { reader: BufReader::new(file), at: 0, found: &mut found };
        scan.message(end, Message::Model, DEPTH)
    });
    let mut all = vec![path.to_owned()];
    if named.is_ok() {
        let plain = |p: &Path| p.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        for name in found.iter().map(Path::new).filter(|p| plain(p)) {
            let beside = path.with_file_name(name);
            if !all.contains(&beside) {
                all.push(beside);
            }
        }
    }
    all
}

struct Scan<'a, R> {
    reader: R,
    at: u64,
    found: &'a mut Vec<String>,
}

impl<R: Read + Seek> Scan<'_, R> {
    /// Walks the fields of a message up to `end`; weights are passed over unread.
    fn message(&mut self, end: u64, kind: Message, depth: usize) -> io::Result<()> {
        let (mut key, mut value) = (String::new(), String::new());
        while self.at < end {
            let tag = self.varint()?;
            let length = match tag & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                2 => self.varint()?,
                5 => 4,
                _ => return Err(broken()),
            };
            let stop = self.at.checked_add(length).filter(|stop| *stop <= end).ok_or_else(broken)?;
            match (kind, tag >> 3, child(kind, tag >> 3)) {
                (Message::Entry, 1, _) => key = self.text(length)?,
                (Message::Entry, 2, _) => value = self.text(length)?,
                (_, _, Some(child)) if depth > 0 && tag & 7 == 2 => {
                    self.message(stop, child, depth - 1)?;
                }
                _ => self.skip(length)?,
            }
        }
        if kind == Message::Entry && key == "location" {
            self.found.push(value);
        }
        Ok(())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0u8];
            self.reader.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken())
    }

    fn text(&mut self, length: u64) -> io::Result<String> {
        if length > MAX_TEXT {
            return Err(broken());
        }
        let mut bytes = vec![0u8; usize::try_from(length).map_err(|_| broken())?];
        self.reader.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| broken())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let by = i64::try_from(length).map_err(|_| broken())?;
        self.reader.seek_relative(by)?;
        self.at += length;
        Ok(())
    }
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds bytes.
    fn field(number: u8, inside: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inside.len();
        while length >= 0x80 {
            out.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend_from_slice(inside);
        out
    }

    fn external(name: &str) -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, name.as_bytes())].concat();
        let offset = [field(1, b"offset"), field(2, b"0")].concat();
        [field(8, b"weight"), field(13, &entry), field(13, &offset), vec![14 << 3, 1]].concat()
    }

    #[test]
    fn external_data_is_found_in_initialisers_and_in_nodes() {
        let dir = tempfile::tempdir().expect("written");
        let path = dir.path().join("m.onnx");
        let constant = field(1, &field(5, &field(5, &external("sub/b.data"))));
        let graph = [
            field(5, &[field(9, &[0u8; 300]), field(8, b"inside")].concat()),
            field(5, &external("a.data")),
            field(5, &external("a.data")),
            field(5, &external("../c.data")),
            constant,
        ]
        .concat();
        // a function, whose number takes two bytes, and several sparse tensors of an attribute
        let sparse = field(1, &external("d.data"));
        let sparse = [vec![0xba, 1, sparse.len() as u8], sparse].concat();
        let function = field(7, &field(5, &sparse));
        let function = [vec![0xca, 1, function.len() as u8], function].concat();
        std::fs::write(&path, [vec![8, 9], field(7, &graph), function].concat()).expect("written");
        let beside = |name: &str| dir.path().join(name);
        assert_eq!(files(&path), [path.clone(), beside("a.data"), beside("sub/b.data"), beside("d.data")]);
    }

    #[test]
    fn what_is_no_onnx_file_is_one_file() {
        let dir = tempfile::tempdir().expect("written");
        let path = dir.path().join("m.onnx");
        let hollow = field(7, &field(5, &field(13, &[0xff; 40])));
        for bytes in [b"no model at all".to_vec(), vec![0xff; 100], hollow, vec![7 << 3 | 2, 200, 1, 0]] {
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(files(&path), std::slice::from_ref(&path));
        }
        assert_eq!(files(Path::new("gone")), [PathBuf::from("gone")]);
    }
}
