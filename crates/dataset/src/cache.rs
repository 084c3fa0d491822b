//! The index on disk: listing a million files takes seconds, reading this takes milliseconds.
//!
//! Little endian: magic, CRC-32 of the rest, kind, the data set's path, classes, places with their
//! stamps, the columns of the index, then what was left out. It is good while every stamp is what it was; one that is
//! broken, or of another version, is as good as none.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use occlude_output::Draft;
use occlude_preprocess::files::LeftOut;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::index::{Index, Kind, Place, Span};
use crate::stamp::Stamp;

/// The last byte counts versions of the layout.
const MAGIC: &[u8; 16] = b"occlude index\0\0\x02";

/// Where indices are kept unless [`Options`](crate::Options) say otherwise: `OCCLUDE_CACHE`, else
/// `occlude` in `XDG_CACHE_HOME`, else `.cache/occlude` in `HOME`; `None` where none of them is set.
pub fn default_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OCCLUDE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("occlude")))
        .or_else(|| set("HOME").map(|dir| dir.join(".cache/occlude")))
}

/// The cached index of one data set, there or not.
#[derive(Debug)]
pub(crate) struct CacheFile {
    file: PathBuf,
    /// The data set's real path, which is part of the file.
    path: PathBuf,
}

impl CacheFile {
    /// In the folder `cache`, for the data set at `path`; `None` where `path` cannot be resolved.
    pub(crate) fn new(cache: &Path, path: &Path) -> Option<Self> {
        Some(Self::of_address(cache, &fs::canonicalize(path).ok()?))
    }

    /// The same for what has one name: an address.
    pub(crate) fn of_address(cache: &Path, path: &Path) -> Self {
        let digest = Sha256::digest(path.as_os_str().as_bytes());
        let name: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { file: cache.join("index").join(name), path: path.to_owned() }
    }

    /// The index, where there is one and nothing has changed since; `root` is what its places lie in.
    pub(crate) fn load(&self, root: &Path) -> Option<(Kind, Index)> {
        self.load_if(|place| Stamp::of(&root.join(&place.path)) == place.stamp)
    }

    /// The index, where there is one of which `unchanged` says so of every place.
    pub(crate) fn load_if(&self, unchanged: impl Fn(&Place) -> bool + Send + Sync) -> Option<(Kind, Index)> {
        let (kind, path, index) = decode(&fs::read(&self.file).ok()?)?;
        (path == self.path && index.places.par_iter().all(unchanged)).then_some((kind, index))
    }

    /// Keeps an index, unless something in it changed so lately (before `now`) that a change since
    /// would not show.
    ///
    /// # Errors
    /// Where the cache cannot be written.
    pub(crate) fn store(&self, kind: Kind, index: &Index, now: SystemTime) -> io::Result<()> {
        if !index.places.iter().all(|place| place.stamp.is_settled(now)) {
            return Ok(());
        }
        fs::create_dir_all(self.file.parent().unwrap_or(Path::new(".")))?;
        let mut draft = Draft::beside(&self.file)?;
        draft.write_all(&encode(kind, &self.path, index))?;
        // what a power cut spoils, the checksum finds
        draft.finish_unflushed()
    }
}

fn encode(kind: Kind, path: &Path, index: &Index) -> Vec<u8> {
    let mut out = Vec::with_capacity(index.names.len() + 28 * index.len() + (1 << 16));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.push(kind as u8);
    blob(&mut out, path.as_os_str().as_bytes());
    count(&mut out, index.classes.len());
    index.classes.iter().for_each(|class| blob(&mut out, class.as_bytes()));
    count(&mut out, index.places.len());
    for Place { path, stamp } in &index.places {
        blob(&mut out, path.as_os_str().as_bytes());
        out.extend_from_slice(&stamp.inode.to_le_bytes());
        out.extend_from_slice(&stamp.size.to_le_bytes());
        out.extend_from_slice(&stamp.modified.to_le_bytes());
        out.extend_from_slice(&stamp.changed.to_le_bytes());
    }
    blob(&mut out, &index.names);
    count(&mut out, index.len());
    for column in [&index.ends, &index.place, &index.labels] {
        column.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    }
    count(&mut out, index.spans.len());
    for span in &index.spans {
        out.extend_from_slice(&span.offset.to_le_bytes());
        out.extend_from_slice(&span.len.to_le_bytes());
    }
    let left = &index.left_out;
    for kinds in [&left.endings, &left.folders] {
        count(&mut out, kinds.len());
        for (kind, n) in kinds {
            blob(&mut out, kind.as_bytes());
            count(&mut out, *n);
        }
    }
    [left.hidden, left.special, left.links, left.classes.len()].iter().for_each(|n| count(&mut out, *n));
    left.classes.iter().for_each(|class| blob(&mut out, class.as_bytes()));
    let body = MAGIC.len() + 4;
    let sum = crc32fast::hash(out.get(body..).unwrap_or_default());
    if let Some(field) = out.get_mut(MAGIC.len()..body) {
        field.copy_from_slice(&sum.to_le_bytes());
    }
    out
}

fn count(out: &mut Vec<u8>, n: usize) {
    out.extend_from_slice(&(n as u64).to_le_bytes());
}

fn blob(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Kind, path and index of a file, or `None` where anything about it is wrong.
fn decode(bytes: &[u8]) -> Option<(Kind, PathBuf, Index)> {
    let mut reader = Reader(bytes);
    if reader.take(MAGIC.len())? != MAGIC {
        return None;
    }
    let sum = reader.u32()?;
    if crc32fast::hash(reader.0) != sum {
        return None;
    }
    body(reader)
}

/// What the checksum covers. A count is never believed before the bytes it speaks of are there, so
/// that memory taken is a small multiple of the file.
fn body(mut reader: Reader<'_>) -> Option<(Kind, PathBuf, Index)> {
    let kind = Kind::from_byte(*reader.take(1)?.first()?)?;
    let path = reader.path()?;
    let mut index = Index::default();
    for _ in 0..reader.u64()? {
        index.classes.push(std::str::from_utf8(reader.blob()?).ok()?.to_owned());
    }
    for _ in 0..reader.u64()? {
        let path = reader.path()?;
        let stamp = Stamp {
            inode: reader.u64()?,
            size: reader.u64()?,
            modified: reader.u64()?.cast_signed(),
            changed: reader.u64()?.cast_signed(),
        };
        index.places.push(Place { path, stamp });
    }
    index.names = reader.blob()?.to_vec();
    let n = usize::try_from(reader.u64()?).ok()?;
    for column in [&mut index.ends, &mut index.place, &mut index.labels] {
        *column = reader.column(n)?;
    }
    let n = usize::try_from(reader.u64()?).ok()?;
    let mut spans = Reader(reader.take(n.checked_mul(16)?)?);
    index.spans.reserve_exact(n);
    while let (Some(offset), Some(len)) = (spans.u64(), spans.u64()) {
        index.spans.push(Span { offset, len });
    }
    index.left_out = reader.left_out()?;
    // files' names lead nowhere else
    let plain = |name: &[u8]| !name.contains(&b'/') && !name.contains(&0);
    let names_fit = kind == Kind::Shards || plain(&index.names);
    let spans_fit = (kind == Kind::Shards) != index.spans.is_empty();
    (reader.0.is_empty() && names_fit && spans_fit && index.is_sound()).then_some((kind, path, index))
}

/// Takes bytes off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn blob(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.u64()?).ok()?;
        self.take(n)
    }

    fn path(&mut self) -> Option<PathBuf> {
        Some(PathBuf::from(OsStr::from_bytes(self.blob()?)))
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.blob()?).ok()?.to_owned())
    }

    /// A number that is added to others.
    fn number(&mut self) -> Option<usize> {
        self.u64().filter(|&n| n <= u64::from(u32::MAX)).map(|n| n as usize)
    }

    fn left_out(&mut self) -> Option<LeftOut> {
        let mut left = LeftOut::default();
        for kinds in [&mut left.endings, &mut left.folders] {
            for _ in 0..self.u64()? {
                let kind = self.text()?;
                kinds.insert(kind, self.number()?);
            }
        }
        for n in [&mut left.hidden, &mut left.special, &mut left.links] {
            *n = self.number()?;
        }
        for _ in 0..self.u64()? {
            left.classes.push(self.text()?);
        }
        Some(left)
    }

    fn column(&mut self, n: usize) -> Option<Vec<u32>> {
        let bytes = self.take(n.checked_mul(4)?)?;
        Some(bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap_or_default())).collect())
    }
}

/// Decodes any bytes as what follows the checksum, for the fuzz target.
///
/// # Panics
/// Where an index is not sound, or does not come back as it was written.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    assert!(decode(bytes).is_none_or(|(_, _, index)| index.is_sound()));
    if let Some((kind, path, index)) = body(Reader(bytes)) {
        assert!(index.is_sound());
        let again = decode(&encode(kind, &path, &index)).expect("what was written is read");
        assert_eq!((kind, path, index), again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(names: &[String], shards: bool) -> Index {
        let mut left_out = LeftOut { hidden: 3, classes: vec!["ü".into()], ..LeftOut::default() };
        left_out.add_file("x.heic".as_ref());
        let mut index = Index { classes: vec!["a".into(), "ä b".into()], left_out, ..Index::default() };
        for path in ["", "a", "a/b"] {
            let stamp = Stamp { inode: 1, size: 2, modified: -3, changed: 4 };
            index.add_place(path.into(), stamp).expect("room");
        }
        for (i, name) in (0u32..).zip(names) {
            index
                .push(i % 3, name.as_bytes(), if i % 3 == 2 { crate::index::NONE } else { i % 3 })
                .expect("room");
            if shards {
                index.spans.push(Span { offset: u64::from(i) * 512, len: 7 });
            }
        }
        index
    }

    proptest! {
        #[test]
        fn round_trip(names in proptest::collection::vec("[a-zé]{1,9}\\.jpg", 1..20), shards: bool) {
            let index = index(&names, shards);
            let kind = if shards { Kind::Shards } else { Kind::Files };
            let bytes = encode(kind, Path::new("/data"), &index);
            prop_assert_eq!(decode(&bytes), Some((kind, PathBuf::from("/data"), index)));
            fuzz(&bytes[20..]);
        }

        #[test]
        fn a_changed_or_shorter_file_is_none(at in 0usize..400, by in 1u8.., cut in 0usize..400) {
            let bytes = encode(Kind::Files, Path::new("/data"), &index(&["x.jpg".into(), "y.jpg".into()], false));
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            let mut changed = bytes.clone();
            changed[at] ^= by;
            prop_assert_eq!(decode(&changed), None);
            prop_assert_eq!(decode(&bytes[..cut]), None);
            // past the checksum, too
            fuzz(&changed[20..]);
            fuzz(&bytes[20..20.max(cut)]);
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz(&bytes);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in ["../x.jpg", "a\0b.jpg"] {
            let bytes = encode(Kind::Files, Path::new("/data"), &index(&[name.into()], false));
            assert_eq!(decode(&bytes), None, "{name:?}");
        }
    }
}
