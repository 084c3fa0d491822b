//! Listing the pictures of a folder, and reading files.

mod left_out;
mod walk;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

pub use left_out::LeftOut;
pub use walk::{Names, SubFolder, Top, Visit, is_shard};

/// What is taken for a picture, in lower case.
const EXTENSIONS: [&str; 12] =
    ["apng", "bmp", "dib", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// Longest text file that is read: a list of tens of millions of paths.
const MAX_TEXT: u64 = 4 << 30;

/// Pictures of a folder, and the classes its sub-folders stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of the first-level folders, sorted, as in torchvision's `ImageFolder`; empty for a
    /// flat folder. A folder without pictures keeps its place, so that the numbers of the others
    /// do not depend on it.
    pub classes: Vec<String>,
    /// The pictures, sorted by class, folder and name.
    pub samples: Vec<Sample>,
    /// What lies there besides.
    pub left_out: LeftOut,
}

/// One picture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Below the folder that was listed.
    pub path: PathBuf,
    /// Index into [`Listing::classes`]; `None` for pictures that lie in no class folder.
    pub class: Option<u32>,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum ListError {
    /// Nothing has this name.
    #[error("no such folder: `{}`", .path.display())]
    Missing { path: PathBuf },
    /// The name is a file's.
    #[error("`{}` is not a folder; hint: name the folder that holds the pictures", .path.display())]
    NotAFolder { path: PathBuf },
    /// No picture anywhere below.
    #[error(
        "no pictures in `{}`{}; hint: files named *.jpg, *.png, *.webp, *.bmp, *.gif or *.tif are read, in the folder itself or in one sub-folder per class",
        .path.display(), but(.left_out)
    )]
    Empty {
        path: PathBuf,
        /// What is there instead.
        left_out: Box<LeftOut>,
    },
    /// A folder on the way cannot be read.
    #[error("cannot list `{}`: {reason}", .path.display())]
    Read { path: PathBuf, reason: io::Error },
}

/// `, left out: ...`, where something was.
fn but(left_out: &LeftOut) -> String {
    if left_out.is_empty() { String::new() } else { format!(", {left_out}") }
}

/// Lists a tree with one sub-folder per class (at any depth below it), or a flat folder.
///
/// Pictures are regular files with a picture's ending in any case. Hidden files and folders, and those of systems
/// (`__MACOSX`, `@eaDir`), are skipped. Links are followed, but never back to a folder on the way, and to each folder
/// once in a class. [`Listing::left_out`] tells what was not listed.
///
/// # Errors
/// [`ListError`] where there is no such folder, it cannot be read, or it holds no picture.
pub fn list(dir: &Path) -> Result<Listing, ListError> {
    let mut top = Top::look(dir)?;
    let mut left_out = std::mem::take(&mut top.left_out);
    top.shards.iter().for_each(|name| left_out.add_file(name));
    let mut collect = Collect { dir, folder: PathBuf::new(), class: None, samples: Vec::new() };
    for name in top.pictures.iter() {
        collect.picture(name)?;
    }
    let loose = collect.samples.len();
    let (mut classes, mut empty) = (Vec::new(), Vec::new());
    for folder in &top.folders {
        collect.class = u32::try_from(classes.len()).ok();
        classes.push(folder.class());
        let before = collect.samples.len();
        left_out.add(top.walk(folder, &mut collect)?);
        if collect.samples.len() == before {
            empty.push(folder.class());
        }
    }
    let samples = collect.samples;
    match samples.len() {
        0 => return Err(ListError::Empty { path: dir.to_owned(), left_out: Box::new(left_out) }),
        // Sub-folders without any picture are not classes: the folder is flat.
        n if n == loose => classes.clear(),
        _ => left_out.classes = empty,
    }
    Ok(Listing { classes, samples, left_out })
}

/// Collects paths.
struct Collect<'a> {
    dir: &'a Path,
    folder: PathBuf,
    class: Option<u32>,
    samples: Vec<Sample>,
}

impl Visit for Collect<'_> {
    type Error = ListError;

    fn enter(&mut self, folder: &Path) -> Result<(), ListError> {
        self.folder = folder.to_owned();
        Ok(())
    }

    fn picture(&mut self, name: &OsStr) -> Result<(), ListError> {
        let path = self.dir.join(&self.folder).join(name);
        self.samples.push(Sample { path, class: self.class });
        Ok(())
    }
}

/// Whether a file's name is a picture's, by its extension.
///
/// ```
/// use occlude_preprocess::files::is_picture;
///
/// assert!(is_picture("a.JPEG".as_ref()) && !is_picture("jpeg".as_ref()));
/// ```
pub fn is_picture(name: &OsStr) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|ext| EXTENSIONS.iter().any(|known| ext.eq_ignore_ascii_case(known)))
}

/// Opens a file for reading where it is a regular one: opening a pipe would wait for somebody to write to it.
///
/// # Errors
/// What the operating system says, and one of its own for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
    }
    if !meta.is_file() {
        let what = "it is a pipe, a socket or a device; hint: write its output to a file first";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    File::open(path)
}

/// Reads a text file that people write: a byte order mark is no part of it, and UTF-16 with one becomes UTF-8. Bytes
/// that are not UTF-8 stay, because file names may have them.
///
/// # Errors
/// What the operating system says; one of its own for UTF-16 that is broken.
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > MAX_TEXT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{size} bytes are too many for a text file"),
        ));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    io::Read::read_to_end(&mut io::Read::take(file, MAX_TEXT), &mut bytes)?;
    without_mark(bytes)
}

/// [`read_text`] of text that must be UTF-8.
///
/// # Errors
/// As there, and one of its own for other bytes.
pub fn read_utf8(path: &Path) -> io::Result<String> {
    checked(read_text(path)?)
}

/// The bytes of a text that people wrote, of wherever they come from, without their byte order mark: as [`read_utf8`],
/// which takes regular files alone.
///
/// # Errors
/// For bytes that are neither UTF-8 nor UTF-16 with a mark.
pub fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    checked(without_mark(bytes)?)
}

/// Bytes that must be UTF-8.
fn checked(bytes: Vec<u8>) -> io::Result<String> {
    let broken = |e: std::string::FromUtf8Error| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes().get(..at).unwrap_or_default().iter().filter(|&&b| b == b'\n').count() + 1;
        let what = format!("line {line} is not UTF-8; hint: save it as UTF-8");
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    String::from_utf8(bytes).map_err(broken)
}

/// Text without its byte order mark, as UTF-8.
fn without_mark(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let big = match bytes.get(..2) {
        Some([0xff, 0xfe]) => false,
        Some([0xfe, 0xff]) => true,
        _ if bytes.starts_with(b"\xef\xbb\xbf") => return Ok(bytes.get(3..).unwrap_or_default().to_vec()),
        _ => return Ok(bytes),
    };
    let pairs = bytes.get(2..).unwrap_or_default().as_chunks::<2>();
    let units =
        pairs.0.iter().map(|&pair| if big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) });
    let text: Result<String, _> = char::decode_utf16(units).collect();
    match text {
        Ok(text) if pairs.1.is_empty() => Ok(text.into_bytes()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "broken UTF-16; hint: save it as UTF-8")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_byte_order_are_no_text() {
        let text = "é.jpg\r\n";
        let units = |f: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(f).collect::<Vec<u8>>();
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            [b"\xff\xfe".as_slice(), &units(u16::to_le_bytes)].concat(),
            [b"\xfe\xff".as_slice(), &units(u16::to_be_bytes)].concat(),
        ] {
            assert_eq!(without_mark(bytes).expect("text"), text.as_bytes());
        }
        assert_eq!(without_mark(b"caf\xe9".to_vec()).expect("bytes"), b"caf\xe9");
        for broken in [b"\xff\xfea".as_slice(), b"\xff\xfe\x00\xd8"] {
            assert!(without_mark(broken.to_vec()).expect_err("broken").to_string().contains("UTF-16"));
        }
    }

    #[test]
    fn text_that_must_be_utf8_tells_the_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x");
        fs::write(&path, b"a\nb\xff\n").expect("written");
        assert!(read_utf8(&path).expect_err("no UTF-8").to_string().contains("line 2"));
        assert_eq!(utf8(b"\xef\xbb\xbfa".to_vec()).expect("text"), "a");
        assert!(utf8(b"\xff".to_vec()).expect_err("no UTF-8").to_string().contains("line 1"));
        assert!(open(dir.path()).expect_err("a folder").to_string().contains("folder"));
    }
}
