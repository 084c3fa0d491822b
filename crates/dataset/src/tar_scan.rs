//! Where the pictures of a tar shard lie (WebDataset's convention: `key.jpg` and `key.cls`).

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use occlude_preprocess::files::{LeftOut, is_picture};

use crate::index::{Index, NONE, Span};
use crate::labels::Labels;
use crate::stamp::Stamp;

/// Most bytes between one entry and the next: headers, long names, extended headers.
const MAX_HEADERS: u64 = 1 << 20;
/// Longest name of an entry, and longest content of a `.cls`.
const MAX_NAME: usize = 4096;
/// Unit of a tar file.
const BLOCK: usize = 512;
/// What to do about an archive that is not whole.
const AGAIN: &str = "hint: copy or download it again";

/// The pictures of one shard, and the labels that its numbers mean.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// One place (the shard, its path still empty); labels are numbers of `labels`.
    pub(crate) index: Index,
    pub(crate) labels: Labels,
}

/// Counts what is read between two entries: the headers in front of an entry are read into memory
/// whole, and a hostile one would say that it is as large as the file.
struct Metered<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        match self.left.get().checked_sub(n as u64) {
            Some(left) => self.left.set(left),
            None => return Err(io::Error::other("a header of more than 1 MiB")),
        }
        Ok(n)
    }
}

impl<R: Seek> Seek for Metered<'_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Calls `f` with the name, place and content of every regular file in a tar file of `len` bytes.
///
/// # Errors
/// In words, where the structure is broken, or what `f` says.
pub(crate) fn each(
    reader: impl Read + Seek,
    len: u64,
    mut f: impl FnMut(&[u8], Span, &mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    let left = Cell::new(MAX_HEADERS);
    let mut archive = tar::Archive::new(Metered { inner: reader, left: &left });
    let mut end = 0;
    for entry in archive.entries_with_seek().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| format!("after byte {end}: {e}"))?;
        left.set(MAX_HEADERS);
        let offset = entry.raw_file_position();
        let stored = match entry.header().entry_type() {
            // its size is that of the file without holes
            tar::EntryType::GNUSparse => entry.header().entry_size().unwrap_or_default(),
            _ => entry.size(),
        };
        end = offset.saturating_add(stored).checked_next_multiple_of(BLOCK as u64).unwrap_or(u64::MAX);
        let kind = entry.header().entry_type();
        if !kind.is_file() && !kind.is_contiguous() {
            not_read(kind, &entry.path_bytes(), offset)?;
            continue;
        }
        let span = Span { offset, len: entry.size() };
        if span.offset.checked_add(span.len).is_none_or(|end| end > len) {
            let end = offset.saturating_add(span.len);
            return Err(format!(
                "the entry at byte {offset} ends beyond the file, at byte {end} of {len}; {AGAIN}"
            ));
        }
        let name = entry.path_bytes().into_owned();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(format!("the entry at byte {offset} has a name of {} bytes", name.len()));
        }
        f(name, span, &mut entry)?;
    }
    left.set(MAX_HEADERS);
    ends_at(archive.into_inner(), end, len)
}

/// What is no file is passed over, unless it stands for one that would be read: a picture without its label is another one.
fn not_read(kind: tar::EntryType, name: &[u8], offset: u64) -> Result<(), String> {
    let (what, hint) = match kind {
        tar::EntryType::Link => ("a hard link", "pack with `tar --hard-dereference`"),
        tar::EntryType::Symlink => ("a symbolic link", "pack with `tar -h`"),
        tar::EntryType::GNUSparse => ("a sparse file", "pack without `--sparse`"),
        _ => return Ok(()),
    };
    let read = |extension: &[u8]| extension.eq_ignore_ascii_case(b"cls") || is_picture_extension(extension);
    if !key_and_extension(name).is_some_and(|(_, extension)| read(extension)) {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    Err(format!(
        "the entry `{}` at byte {offset} is {what}, expected a file; hint: {hint}",
        name.escape_debug()
    ))
}

/// An archive ends with blocks of zeros; one that was cut off between two entries has none.
fn ends_at(mut reader: impl Read + Seek, end: u64, len: u64) -> Result<(), String> {
    let mut block = [0xff; BLOCK];
    let read = reader.seek(SeekFrom::Start(end)).and_then(|_| reader.read_exact(&mut block));
    match read {
        Ok(()) if block == [0; BLOCK] => Ok(()),
        Ok(()) => Err(format!("neither an entry nor the end at byte {end} of {len}; {AGAIN}")),
        Err(_) => Err(format!(
            "it was cut off: its entries end at byte {end} of {len}, without the zeros that end an archive; {AGAIN}"
        )),
    }
}

/// Something that a shard holds, in the order of the archive.
pub enum Part<'a> {
    /// A picture.
    Picture {
        /// Its name in the archive.
        name: &'a [u8],
        /// Where its bytes begin in the archive.
        offset: u64,
        /// How many they are.
        len: u64,
        /// The bytes; whatever of them is not read is passed over.
        content: &'a mut dyn Read,
    },
    /// The pictures since the last of these are all of their sample, and this is its `.cls`, where there is one.
    Class(Option<&'a str>),
}

/// Tells `f` of the pictures of a shard of `len` bytes, from one end to the other, and of what their `.cls` entries say;
/// gives what it left out. Nothing is held but one header at a time.
///
/// # Errors
/// In words, where the structure is broken, or what `f` says.
pub fn parts(
    reader: impl Read + Seek,
    len: u64,
    mut f: impl FnMut(Part<'_>) -> Result<(), String>,
) -> Result<LeftOut, String> {
    let mut out = LeftOut::default();
    let (mut key, mut class) = (Vec::new(), None);
    each(reader, len, |name, span, content| {
        let Some((own, extension)) = key_and_extension(name) else {
            left_out(&mut out, name, b"");
            return Ok(());
        };
        if own != key {
            f(Part::Class(class.take().as_deref()))?;
            key = own.to_owned();
        }
        if extension.eq_ignore_ascii_case(b"cls") {
            class = label(content).map_err(|e| format!("`{}`: {e}", name.escape_ascii()))?;
        } else if is_picture_extension(extension) {
            f(Part::Picture { name, offset: span.offset, len: span.len, content })?;
        } else {
            left_out(&mut out, name, extension);
        }
        Ok(())
    })?;
    f(Part::Class(class.as_deref()))?;
    Ok(out)
}

/// Finds the pictures of a shard of `len` bytes, and what its `.cls` entries say.
///
/// # Errors
/// In words, where the structure is broken.
pub(crate) fn scan(reader: impl Read + Seek, len: u64, stamp: Stamp) -> Result<Scan, String> {
    let mut out = Scan::default();
    out.index.add_place(PathBuf::new(), stamp).map_err(|_| "too large".to_owned())?;
    let mut first = 0;
    let left_out = parts(reader, len, |part| {
        match part {
            Part::Picture { name, offset, len, .. } => {
                out.index.push(0, name, NONE).map_err(|_| "too many names".to_owned())?;
                out.index.spans.push(Span { offset, len });
            }
            Part::Class(class) => {
                let label = class.map_or(NONE, |class| out.labels.add(class));
                if let Some(labels) = out.index.labels.get_mut(first..) {
                    labels.fill(label);
                }
                first = out.index.len();
            }
        }
        Ok(())
    })?;
    out.index.left_out = left_out;
    Ok(out)
}

/// Counts an entry that is not used, by its whole ending, as `.seg.png`.
fn left_out(left_out: &mut LeftOut, name: &[u8], extension: &[u8]) {
    let file = name.rsplit(|&b| b == b'/').next().unwrap_or_default();
    if file.starts_with(b".") {
        left_out.hidden += 1;
    } else {
        left_out.add_ending(extension);
    }
}

/// What comes before the first dot of the file's name, and what comes after; hidden files are none.
fn key_and_extension(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let file = name.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    let dot = file + name.get(file..)?.iter().position(|&b| b == b'.')?;
    (dot > file).then_some((name.get(..dot)?, name.get(dot + 1..)?))
}

/// `jpg`, not `seg.jpg`: that is another field of the sample.
fn is_picture_extension(extension: &[u8]) -> bool {
    let Ok(extension) = std::str::from_utf8(extension) else { return false };
    !extension.contains('.') && is_picture(Path::new("x").with_extension(extension).as_os_str())
}

/// Reads a `.cls`; an empty one says nothing.
fn label(entry: impl Read) -> io::Result<Option<String>> {
    let mut text = Vec::new();
    entry.take(MAX_NAME as u64 + 1).read_to_end(&mut text)?;
    if text.len() > MAX_NAME {
        return Err(io::Error::other("a class of more than 4096 bytes"));
    }
    let text = std::str::from_utf8(&text).map_err(|_| io::Error::other("the class is not UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}').trim();
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// Scans any bytes, for the fuzz target.
///
/// # Panics
/// Where a picture would lie outside the bytes.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let len = bytes.len() as u64;
    let Ok(mut scan) = scan(io::Cursor::new(bytes), len, Stamp::default()) else { return };
    let Ok((classes, map)) = scan.labels.resolve(Path::new("x.tar"), None) else { return };
    scan.index.classes = classes;
    for label in &mut scan.index.labels {
        *label = map.get(*label as usize).copied().unwrap_or(NONE);
    }
    assert!(scan.index.is_sound());
    assert!(scan.index.spans.iter().all(|span| span.offset + span.len <= len));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            builder.append_data(&mut header, name, *data).expect("appended");
        }
        builder.into_inner().expect("finished")
    }

    fn scanned(bytes: &[u8]) -> Result<Scan, String> {
        scan(io::Cursor::new(bytes), bytes.len() as u64, Stamp::default())
    }

    #[test]
    fn pictures_with_their_places_and_the_classes_around_them() {
        let long = format!("{}/x.png", "d".repeat(300));
        let bytes = archive(&[
            ("a.cls", b"7"),
            ("a.jpg", b"first"),
            ("a.json", b"{}"),
            ("b.seg.png", b"no picture of its own"),
            ("b.JPG", b"second"),
            ("b.cls", b" dog\n"),
            (&long, b"third"),
            ("readme", b""),
            (".hidden.jpg", b""),
        ]);
        let scan = scanned(&bytes).expect("sound");
        let data = |span: &Span| &bytes[span.offset as usize..(span.offset + span.len) as usize];
        let read: Vec<_> = scan.index.spans.iter().map(data).collect();
        assert_eq!(read, [b"first".as_slice(), b"second", b"third"]);
        assert_eq!(scan.index.name(2), long.as_str());
        assert_eq!(scan.index.labels, [0, 1, NONE]);
        let left = scan.index.left_out.to_string();
        assert_eq!(left, "left out: 4 files: 1 .json, 1 .seg.png, 1 hidden, 1 without an extension");
    }

    /// Archivers store further names of one file as links: without its label a picture would be another one.
    #[test]
    fn what_stands_for_a_file_that_would_be_read_is_named() {
        let with = |kind: tar::EntryType, name: &str| {
            let before = archive(&[("a.jpg", b"first"), ("a.cls", b"7")]);
            // without the end of the archive
            let mut builder = tar::Builder::new(before[..4 * BLOCK].to_vec());
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            if matches!(kind, tar::EntryType::Link | tar::EntryType::Symlink) {
                builder.append_link(&mut header, name, "a.cls").expect("appended");
            } else {
                builder.append_data(&mut header, name, io::empty()).expect("appended");
            }
            scanned(&builder.into_inner().expect("finished"))
        };
        for (kind, name, hint) in [
            (tar::EntryType::Link, "b.cls", "--hard-dereference"),
            (tar::EntryType::Link, "d/b.JPG", "--hard-dereference"),
            (tar::EntryType::Symlink, "b.jpg", "tar -h"),
        ] {
            let error = with(kind, name).expect_err(name);
            assert!(error.contains(&format!("`{name}`")) && error.contains(hint), "{error}");
        }
        for (kind, name) in [
            (tar::EntryType::Symlink, "latest.txt"),
            (tar::EntryType::Link, ".b.jpg"),
            (tar::EntryType::Directory, "b.jpg"),
        ] {
            assert_eq!(with(kind, name).expect(name).index.len(), 1);
        }
        assert_eq!(with(tar::EntryType::Continuous, "b.jpg").expect("a file").index.len(), 2);
    }

    #[test]
    fn an_archive_that_was_cut_off_anywhere_is_none() {
        let bytes = archive(&[("a.jpg", &[1; 600]), ("b.jpg", &[2; 512]), ("c/", b""), ("d.txt", b"x")]);
        assert_eq!(scanned(&bytes).expect("whole").index.len(), 2);
        // the second of the two blocks of zeros is not missed
        let last = bytes.len() - 512;
        assert!(scanned(&bytes[..last]).is_ok());
        for cut in 0..last {
            let error = scanned(&bytes[..cut]).expect_err("cut");
            assert!(error.contains("byte"), "{cut}: {error}");
        }
        let boundary = scanned(&bytes[..512 + 1024]).expect_err("cut between two entries");
        assert!(boundary.contains("cut off") && boundary.contains("byte 1536 of 1536"), "{boundary}");
    }

    #[test]
    fn truncated_compressed_and_oversized() {
        let bytes = archive(&[("a.jpg", &[1; 2000])]);
        assert!(scanned(&bytes[..1500]).expect_err("cut").contains("beyond the file"));
        assert!(scanned(&[0x1f; 1024]).is_err());
        let class = [b'x'; MAX_NAME + 1];
        assert!(scanned(&archive(&[("a.cls", &class)])).expect_err("long").contains("`a.cls`"));
        // a long name of 2 MiB, whole in the file
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(2 << 20);
        header.set_cksum();
        let bytes = [header.as_bytes().as_slice(), &vec![b'n'; 2 << 20]].concat();
        assert!(scanned(&bytes).expect_err("large").contains("1 MiB"));
    }

    #[test]
    fn keys_end_at_the_first_dot_of_the_name() {
        let split = |name: &str| {
            let name = name.as_bytes();
            key_and_extension(name).map(|(k, e)| (k.to_vec(), e.to_vec()))
        };
        assert_eq!(split("a.b/c.d.jpg"), Some((b"a.b/c".to_vec(), b"d.jpg".to_vec())));
        assert_eq!([split("a.b/c"), split("x/.jpg"), split("")], [None, None, None]);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            fuzz(&bytes);
        }

        /// Bytes of a sound archive changed, with the checksum of each header made right again.
        #[test]
        fn changed_archives(changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..8), cut in 0usize..8192) {
            let mut bytes = archive(&[("a.jpg", b"1"), ("a.cls", b"3"), (&"y".repeat(200), b"2"), ("b.png", b"")]);
            for (at, value) in changes {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            for block in bytes.chunks_exact_mut(512) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                // names and sizes stand in headers only; contents are short
                if block[257..262] == *b"ustar" {
                    block.copy_from_slice(header.as_bytes());
                }
            }
            bytes.truncate(cut.max(512));
            fuzz(&bytes);
        }
    }
}
