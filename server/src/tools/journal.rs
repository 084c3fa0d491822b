//! What `embed` has done so far, in a file beside the result: a run that was stopped goes on where it was.
//!
//! A line of text with the identity of the model, then records: length of the path (u32), the picture's length (u64) and time
//! of change (i64), the path, the vector (f32), and the CRC-32 of all that; everything little-endian. A record that
//! was cut off ends the file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{ToolError, Version, file_error};

/// Bytes before a record's path.
const HEAD: usize = 20;

/// Longest path that is believed.
const MAX_PATH: usize = 64 << 10;

/// An open journal.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    dim: usize,
    end: u64,
    /// Where the vector of a path lies, and of which version it is.
    done: HashMap<String, (Version, u64)>,
}

impl Journal {
    /// Opens the journal of an interrupted run of the same model, or begins one.
    pub(super) fn open(path: &Path, identity: &str, dim: usize) -> Result<Self, ToolError> {
        let failed = file_error(path);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(&failed)?;
        let header = format!("occlude-embed 2 {identity} {dim}\n");
        let mut journal = Self { path: path.to_owned(), file, dim, end: 0, done: HashMap::new() };
        let mut reader = BufReader::new(journal.file.try_clone().map_err(&failed)?);
        let mut found = String::new();
        // What is no text is somebody else's file.
        let read = reader.by_ref().take(1024).read_line(&mut found);
        match read {
            Ok(0) => journal.append(header.as_bytes())?,
            Ok(_) if found == header => {
                journal.end = header.len() as u64;
                journal.replay(reader)?;
            }
            _ => {
                let found = found.split(' ').nth(2).unwrap_or("of no run at all").to_owned();
                let expected = identity.to_owned();
                return Err(ToolError::OtherRun { path: path.to_owned(), found, expected });
            }
        }
        Ok(journal)
    }

    fn replay(&mut self, mut reader: impl Read) -> Result<(), ToolError> {
        while let Some((path, version, length)) = record(&mut reader, self.dim) {
            let vector = self.end + (HEAD + path.len()) as u64;
            self.done.insert(path, (version, vector));
            self.end += length;
        }
        // What was cut off goes, so that the next record begins where a reader expects it.
        self.file.set_len(self.end).map_err(file_error(&self.path))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), ToolError> {
        let write =
            |file: &mut File| file.seek(SeekFrom::Start(self.end)).and_then(|_| file.write_all(bytes));
        write(&mut self.file).map_err(file_error(&self.path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Whether this version of a picture is done.
    pub(super) fn has(&self, path: &str, version: Version) -> bool {
        self.done.get(path).is_some_and(|(v, _)| *v == version)
    }

    /// Whether there is the vector of any version of it.
    pub(super) fn knows(&self, path: &str) -> bool {
        self.done.contains_key(path)
    }

    /// Keeps a vector.
    pub(super) fn add(&mut self, path: &str, version: Version, vector: &[f32]) -> Result<(), ToolError> {
        let mut bytes = Vec::with_capacity(HEAD + path.len() + 4 * vector.len() + 4);
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&version.bytes.to_le_bytes());
        bytes.extend_from_slice(&version.modified.to_le_bytes());
        bytes.extend_from_slice(path.as_bytes());
        vector.iter().for_each(|v| bytes.extend_from_slice(&v.to_le_bytes()));
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let at = self.end + (HEAD + path.len()) as u64;
        self.append(&bytes)?;
        self.done.insert(path.to_owned(), (version, at));
        Ok(())
    }

    /// The vector of a picture that is done.
    pub(super) fn vector(&self, path: &str) -> Result<Option<Vec<f32>>, ToolError> {
        let Some((_, at)) = self.done.get(path) else { return Ok(None) };
        let mut bytes = vec![0u8; 4 * self.dim];
        self.file.read_exact_at(&mut bytes, *at).map_err(file_error(&self.path))?;
        let float = |b: &[u8]| b.first_chunk().map_or(0.0, |b| f32::from_le_bytes(*b));
        Ok(Some(bytes.chunks_exact(4).map(float).collect()))
    }

    /// Takes the file away.
    pub(super) fn remove(self) -> Result<(), ToolError> {
        std::fs::remove_file(&self.path).map_err(file_error(&self.path))
    }
}

/// The next whole record: path, version, and length in the file.
fn record(reader: &mut impl Read, dim: usize) -> Option<(String, Version, u64)> {
    let mut head = [0u8; HEAD];
    reader.read_exact(&mut head).ok()?;
    let length = u32::from_le_bytes(*head.first_chunk()?) as usize;
    if length > MAX_PATH {
        return None;
    }
    let version = Version {
        bytes: u64::from_le_bytes(*head.get(4..)?.first_chunk()?),
        modified: i64::from_le_bytes(*head.get(12..)?.first_chunk()?),
    };
    let mut rest = vec![0u8; length + 4 * dim + 4];
    reader.read_exact(&mut rest).ok()?;
    let (body, sum) = rest.split_last_chunk()?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(body);
    let path = String::from_utf8(body.get(..length)?.to_vec()).ok()?;
    (hasher.finalize() == u32::from_le_bytes(*sum)).then_some((path, version, (HEAD + rest.len()) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: Version = Version { bytes: 7, modified: -3 };

    #[test]
    fn goes_on_after_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path, "f00d", 2).unwrap();
        let begin = std::fs::metadata(&path).unwrap().len();
        for (name, value) in [("a.jpg", 1.0), ("ü/b.jpg", 2.0), ("c.jpg", 3.0)] {
            journal.add(name, V, &[value, -value]).unwrap();
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let mut seen = [false; 4];
        for cut in begin as usize..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut journal = Journal::open(&path, "f00d", 2).unwrap();
            let before = journal.done.len();
            seen[before] = true;
            journal.add("d.jpg", V, &[4.0, -4.0]).unwrap();
            drop(journal);
            let journal = Journal::open(&path, "f00d", 2).unwrap();
            assert_eq!(journal.done.len(), before + 1, "{cut}");
            assert_eq!(journal.vector("d.jpg").unwrap(), Some(vec![4.0, -4.0]));
            if before > 1 {
                assert_eq!(journal.vector("ü/b.jpg").unwrap(), Some(vec![2.0, -2.0]));
            }
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn a_damaged_record_ends_it_and_others_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path, "f00d", 1).unwrap();
        journal.add("a", V, &[1.0]).unwrap();
        journal.add("b", V, &[2.0]).unwrap();
        assert!(journal.has("a", V) && !journal.has("a", Version { bytes: 8, ..V }) && !journal.has("c", V));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 6;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let again = Journal::open(&path, "f00d", 1).unwrap();
        assert!(again.has("a", V) && !again.has("b", V));
        assert!(
            matches!(Journal::open(&path, "beef", 1), Err(ToolError::OtherRun { found, .. }) if found == "f00d")
        );
        std::fs::write(&path, [0xffu8; 40]).unwrap();
        assert!(matches!(Journal::open(&path, "beef", 1), Err(ToolError::OtherRun { .. })));
        again.remove().unwrap();
        assert!(!path.exists());
    }
}
