//! Lists: a text file with the path of one picture a line.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use occlude_preprocess::files::{self, is_picture};
use occlude_preprocess::names;

use crate::Error;
use crate::index::{Full, Index, NONE};
use crate::labels::{Labels, number};
use crate::stamp::Stamp;

const HINT: &str = "one path a line, with `#` before remarks";

/// What begins the remark that names the folder of the paths.
pub const ROOT: &str = "# root:";

/// The remark in front of the first path which says that root, paths and classes are written with escapes.
pub const ESCAPED: &str = "# names: percent-escaped";

/// A name as a list with escapes has it: nothing in it means anything but itself.
pub(crate) fn escape(name: &[u8]) -> Cow<'_, str> {
    let last = name.len().saturating_sub(1);
    names::escape_also(name, |at, c| match c {
        b'#' => at == 0,
        b' ' => at == 0 || at == last,
        _ => false,
    })
}

/// Reads a list, and tells the folder that its paths begin at: `root`, else what the list says, else its
/// own.
///
/// # Errors
/// [`Error::Read`], [`Error::Empty`], [`Error::Line`], or what labels can have wrong.
pub(crate) fn open(path: &Path, root: Option<&Path>) -> Result<(PathBuf, Index), Error> {
    let text = files::read_text(path).map_err(|e| Error::read(path, e))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let head = Head::of(&text);
    let root = root.map_or_else(|| folder.join(OsStr::from_bytes(&head.root)), Path::to_owned);
    Ok((root, parse(path, &text)?))
}

/// What the remarks before the first path say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The folder that paths begin at, as bytes; empty where it is not told.
    pub root: Vec<u8>,
    /// Whether names are written with escapes.
    pub escaped: bool,
}

impl Head {
    /// Reads them.
    pub fn of(text: &[u8]) -> Self {
        let remarks = || text.split(|&b| b == b'\n').take_while(|line| line.starts_with(b"#"));
        let escaped = remarks().any(|line| line.trim_ascii_end() == ESCAPED.as_bytes());
        let root = remarks().find_map(|line| line.strip_prefix(ROOT.as_bytes())).unwrap_or_default();
        let mut head = Self { root: Vec::new(), escaped };
        head.root = head.name(root.trim_ascii()).into_owned();
        head
    }

    /// The bytes of a name as the list writes it.
    pub fn name<'a>(&self, written: &'a [u8]) -> Cow<'a, [u8]> {
        if self.escaped { Cow::Owned(names::unescape_bytes(written)) } else { Cow::Borrowed(written) }
    }
}

/// A line taken apart.
struct Line<'a> {
    path: Cow<'a, Path>,
    class: Option<Cow<'a, str>>,
}

fn parse(path: &Path, text: &[u8]) -> Result<Index, Error> {
    let full = |Full| Error::TooMany { path: path.to_owned() };
    let head = Head::of(text);
    let mut index = Index::default();
    let mut labels = Labels::default();
    let mut folders: HashMap<PathBuf, u32> = HashMap::new();
    for (i, line) in text.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.trim_ascii().is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong =
            |reason: &str| Error::Line { path: path.to_owned(), line: i + 1, reason: reason.to_owned() };
        let line = take_apart(line, &head).map_err(wrong)?;
        let name = line.path.file_name().ok_or_else(|| wrong("expected the path of a picture"))?;
        let folder = line.path.parent().unwrap_or(Path::new(""));
        let place = match folders.get(folder) {
            Some(&place) => place,
            None => {
                let place = index.add_place(folder.to_owned(), Stamp::default()).map_err(full)?;
                folders.insert(folder.to_owned(), place);
                place
            }
        };
        let label = line.class.map_or(NONE, |class| labels.add(&class));
        index.push(place, name.as_bytes(), label).map_err(full)?;
    }
    if index.len() == 0 {
        return Err(Error::Empty { path: path.to_owned(), hint: HINT });
    }
    classify(path, &mut index, labels)?;
    index.shrink();
    Ok(index)
}

/// `path`, `path<tab>class` or `path number`.
fn take_apart<'a>(line: &'a [u8], head: &Head) -> Result<Line<'a>, &'static str> {
    let (path, class) = match line.iter().rposition(|&b| b == b'\t') {
        Some(tab) => {
            let (path, class) = line.split_at(tab);
            (path, class.get(1..).unwrap_or_default().trim_ascii())
        }
        None => number_behind(line).unwrap_or((line, b"")),
    };
    let class = std::str::from_utf8(class).map_err(|_| "the class is not UTF-8")?;
    // a class is text already; escapes that only a line needs go
    let class = match head.escaped {
        true => Cow::Owned(names::escape(&names::unescape(class)).into_owned()),
        false => Cow::Borrowed(class),
    };
    // leading and trailing blanks may be part of a name, but hardly ever are
    let path = head.name(path.trim_ascii());
    if path.contains(&0) {
        return Err("a path with a zero byte");
    }
    let path = match path {
        Cow::Borrowed(path) => Cow::Borrowed(Path::new(OsStr::from_bytes(path))),
        Cow::Owned(path) => Cow::Owned(PathBuf::from(OsString::from_vec(path))),
    };
    Ok(Line { path, class: Some(class).filter(|c| !c.is_empty()) })
}

/// Path and number of a line as `n01440764/x.JPEG 0`: only where a picture's name comes before.
fn number_behind(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_end();
    let blank = line.iter().rposition(|&b| b == b' ')?;
    let (path, class) = line.split_at(blank);
    let class = class.get(1..)?;
    number(std::str::from_utf8(class).ok()?)?;
    is_picture(OsStr::from_bytes(path.trim_ascii_end())).then_some((path, class))
}

/// Classes of the labels; without any, those of the first folders, as in the tree that the list
/// picks from.
fn classify(path: &Path, index: &mut Index, mut labels: Labels) -> Result<(), Error> {
    if index.labels.iter().all(|&label| label == NONE) {
        let first: Option<Vec<Cow<'_, str>>> =
            index.places.iter().map(|place| first_folder(&place.path)).collect();
        let Some(first) = first else { return Ok(()) };
        let of_place: Vec<u32> = first.into_iter().map(|class| labels.add(&class)).collect();
        for (label, &place) in index.labels.iter_mut().zip(&index.place) {
            *label = of_place.get(place as usize).copied().unwrap_or(NONE);
        }
        apply(index, labels.sorted());
    } else {
        apply(index, labels.resolve(path, None)?);
    }
    Ok(())
}

/// Puts classes in the place of labels.
fn apply(index: &mut Index, (classes, map): (Vec<String>, Vec<u32>)) {
    for label in &mut index.labels {
        *label = map.get(*label as usize).copied().unwrap_or(NONE);
    }
    index.classes = classes;
}

/// The first folder of a relative path that does not climb.
fn first_folder(folder: &Path) -> Option<Cow<'_, str>> {
    let mut parts = folder.components().filter(|part| *part != Component::CurDir);
    match parts.next()? {
        Component::Normal(name) => Some(names::escape(name.as_bytes())),
        _ => None,
    }
}

/// Parses any bytes, for the fuzz target.
///
/// # Panics
/// Where an index is not sound.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    if let Ok(index) = parse(Path::new("list.txt"), bytes) {
        assert!(index.is_sound());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Classes, and lines as `class:folder|name`.
    fn parsed(text: &str) -> (String, Vec<String>) {
        let index = parse(Path::new("list.txt"), text.as_bytes()).expect("a list");
        assert!(index.is_sound());
        let line = |i| {
            let class = index.class(i).map_or("-".to_owned(), |c| c.to_string());
            format!("{class}:{}|{}", index.place_path(i).display(), index.name(i).display())
        };
        (index.classes.join(","), (0..index.len()).map(line).collect())
    }

    #[test]
    fn bare_paths_take_their_classes_from_folders() {
        let (classes, lines) = parsed("# remark\nb/1.jpg\r\n\na/x/2.jpg\n./b/3.jpg");
        assert_eq!((classes.as_str(), lines.join(" ")), ("a,b", "1:b|1.jpg 0:a/x|2.jpg 1:./b|3.jpg".into()));
        let (classes, lines) = parsed("1.jpg\na/2.jpg\n");
        assert_eq!((classes.as_str(), lines.join(" ")), ("", "-:|1.jpg -:a|2.jpg".into()));
        assert_eq!(parsed("/data/1.jpg\n../2.jpg").0, "", "absolute and climbing paths tell no class");
    }

    #[test]
    fn labels_behind_tabs_and_numbers_behind_pictures() {
        let (classes, lines) = parsed("a b.jpg\tcat\nc.jpg\tbig dog\nd.jpg\n");
        assert_eq!(
            (classes.as_str(), lines.join(" ")),
            ("big dog,cat", "1:|a b.jpg 0:|c.jpg -:|d.jpg".into())
        );
        let (classes, lines) = parsed("x/a.JPEG 2\nx/b 7\n");
        assert_eq!((classes.as_str(), lines.join(" ")), ("0,1,2", "2:x|a.JPEG -:x|b 7".into()));
    }

    #[test]
    fn lines_that_are_none() {
        let fails = |text: &[u8]| parse(Path::new("list.txt"), text).expect_err("refused").to_string();
        assert!(fails(b"a.jpg\n..\n").contains("line 2"));
        assert!(fails(b"a\0.jpg\n").contains("zero byte"));
        assert!(fails(b"a.jpg\t\xff\n").contains("UTF-8"));
        assert!(fails(b"# nothing\n\n").contains("no pictures"));
        assert!(fails(b"a.jpg 99999999999\n").contains("too large"));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz(&bytes);
        }

        #[test]
        fn any_lines(text in "([ab/.\t\n\r #0-9]{0,12}(\\.jpg)?[ \t]?[0-9]{0,3}\n){0,12}") {
            fuzz(text.as_bytes());
        }
    }
}
