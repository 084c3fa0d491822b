//! Which class each validation picture is of.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::{self, is_picture};
use occlude_preprocess::names;
use rayon::prelude::*;

use super::output::is_plain;
use crate::Error;
use crate::labels::number;

/// Longest annotation that is read.
const MAX_XML: u64 = 1 << 20;

/// Where the classes of validation pictures are written.
#[derive(Clone, Debug)]
pub enum Truth {
    /// A line for each picture, in the order of their numbers: a class's name (`n01751748`) or its
    /// number; or `PICTURE CLASS` in any order.
    List {
        /// The file, as the devkit's `ILSVRC2012_validation_ground_truth.txt`.
        file: PathBuf,
        /// What numbers mean: lines `NUMBER NAME ...`, or names only in the order of their numbers.
        synsets: Option<PathBuf>,
    },
    /// A folder with an XML file for each picture, in the layout of PASCAL VOC.
    Annotations(PathBuf),
}

/// Classes by picture.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By file name without extension, as [`names`] makes text of it.
    by_name: HashMap<String, String>,
    /// By the picture's number, from 1.
    by_number: Vec<String>,
}

impl Answers {
    /// Class of a picture by its file name as text, as `ILSVRC2012_val_00000001.JPEG`.
    pub(super) fn class(&self, name: &str) -> Option<&str> {
        let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
        if let Some(class) = self.by_name.get(stem) {
            return Some(class);
        }
        let digits = stem.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number = usize::try_from(number(stem.get(digits..)?)?).ok()?;
        self.by_number.get(number.checked_sub(1)?).map(String::as_str)
    }
}

impl Truth {
    /// Reads it.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Line`], [`Error::Annotation`], [`Error::Unsuitable`].
    pub(super) fn read(&self) -> Result<Answers, Error> {
        match self {
            Self::List { file, synsets } => read_list(file, synsets.as_deref()),
            Self::Annotations(folder) => read_annotations(folder),
        }
    }
}

/// The lines of a text file that say something, each with its number.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, Error> {
    let text = files::read_utf8(path).map_err(|e| Error::read(path, e))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    Ok(lines.map(|(i, line)| (i, line.trim().to_owned())).collect())
}

fn read_list(file: &Path, synsets: Option<&Path>) -> Result<Answers, Error> {
    let lines = lines(file)?;
    let split = |line: &str| match line.split_once(char::is_whitespace) {
        Some((name, class)) if is_picture(name.as_ref()) => (Some(name.to_owned()), class.trim().to_owned()),
        _ => (None, line.to_owned()),
    };
    let rows: Vec<(usize, Option<String>, String)> =
        lines.iter().map(|(i, line)| (*i, split(line))).map(|(i, (name, class))| (i, name, class)).collect();
    let names = if rows.iter().any(|(_, _, class)| number(class).is_some()) {
        let synsets = synsets.ok_or_else(|| Error::Unsuitable {
            what: format!("`{}` holds class numbers", file.display()),
            hint: "`--synsets FILE` gives their names, as lines `NUMBER NAME`",
        })?;
        let zero = rows.iter().any(|(_, _, class)| number(class) == Some(0));
        Some(Names::read(synsets, zero)?)
    } else {
        None
    };
    let mut answers = Answers::default();
    for (i, picture, class) in rows {
        let wrong = |reason| Error::Line { path: file.to_owned(), line: i, reason };
        let class = match (&names, number(&class)) {
            (Some(names), Some(n)) => {
                let known = names.0.get(&n).cloned();
                known.ok_or_else(|| wrong(format!("class {n} has no name in the file of synsets")))?
            }
            _ => class,
        };
        if !is_plain(class.as_bytes()) {
            return Err(wrong(format!("`{class}` cannot be a folder's name")));
        }
        match picture {
            Some(picture) => {
                let stem = picture.rsplit_once('.').map_or(picture.as_str(), |(stem, _)| stem);
                answers.by_name.insert(names::escape(stem.as_bytes()).into_owned(), class);
            }
            None => answers.by_number.push(class),
        }
    }
    Ok(answers)
}

/// Names of class numbers.
struct Names(HashMap<u64, String>);

impl Names {
    /// `zero`: the numbers to be named begin at 0.
    fn read(path: &Path, zero: bool) -> Result<Self, Error> {
        let lines = lines(path)?;
        let mut numbered = HashMap::new();
        let mut ordered = Vec::new();
        for (i, line) in &lines {
            let mut words = line.split_whitespace();
            let wrong = || Error::Line {
                path: path.to_owned(),
                line: *i,
                reason: "expected `NUMBER NAME` or `NAME`, the same in all lines".to_owned(),
            };
            let first = words.next().ok_or_else(wrong)?;
            match number(first) {
                Some(n) if ordered.is_empty() => {
                    numbered.insert(n, words.next().ok_or_else(wrong)?.to_owned());
                }
                None if numbered.is_empty() => ordered.push(first.to_owned()),
                _ => return Err(wrong()),
            }
        }
        if !numbered.is_empty() {
            return Ok(Self(numbered));
        }
        // The devkit numbers classes from 1 in an order of its own; lists of names are nearly always
        // sorted, and number from 0. Taking one for the other would give wrong classes without a word.
        if !zero && ordered.is_sorted() && ordered.len() > 1 {
            return Err(Error::Unsuitable {
                what: format!(
                    "`{}` lists names in alphabetical order, but the class numbers begin at 1, as the devkit's do",
                    path.display()
                ),
                hint: "the devkit has an order of its own (meta.mat): write lines `NUMBER NAME`",
            });
        }
        Ok(Self((u64::from(!zero)..).zip(ordered).collect()))
    }
}

fn read_annotations(folder: &Path) -> Result<Answers, Error> {
    let mut files = Vec::new();
    xml_files(folder, 0, &mut files)?;
    if files.is_empty() {
        let hint = "annotations are XML files, one for each picture";
        return Err(Error::Empty { path: folder.to_owned(), hint });
    }
    let read = |path: &PathBuf| {
        let stem = names::escape(path.file_stem().unwrap_or_default().as_encoded_bytes()).into_owned();
        Ok((stem, read_annotation(path)?))
    };
    let by_name = files.par_iter().map(read).collect::<Result<_, Error>>()?;
    Ok(Answers { by_name, by_number: Vec::new() })
}

/// The archive of annotations has them in `val/`.
fn xml_files(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(|e| Error::read(folder, e))? {
        let path = entry.map_err(|e| Error::read(folder, e))?.path();
        if path.is_dir() && depth < 2 {
            xml_files(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|ext| ext.eq_ignore_ascii_case("xml")) {
            files.push(path);
        }
    }
    Ok(())
}

fn read_annotation(path: &Path) -> Result<String, Error> {
    let failed = |e| Error::read(path, e);
    let wrong = |reason| Error::Annotation { path: path.to_owned(), reason };
    let len = fs::metadata(path).map_err(failed)?.len();
    if len > MAX_XML {
        return Err(wrong(format!("it has {len} bytes")));
    }
    class_of(&files::read_utf8(path).map_err(failed)?).map_err(wrong)
}

/// The class of an annotation: that of its objects, which are all of one.
fn class_of(xml: &str) -> Result<String, String> {
    let document = roxmltree::Document::parse(xml).map_err(|e| e.to_string())?;
    let objects = document.descendants().filter(|node| node.has_tag_name("object"));
    let mut names =
        objects.flat_map(|o| o.children()).filter(|node| node.has_tag_name("name")).filter_map(|n| n.text());
    let first = names.next().ok_or("expected `<object><name>`")?.trim();
    if let Some(other) = names.find(|name| name.trim() != first) {
        return Err(format!("objects of two classes, `{first}` and `{}`", other.trim()));
    }
    if !is_plain(first.as_bytes()) {
        return Err(format!("`{first}` cannot be a folder's name"));
    }
    Ok(first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(truth: &str, synsets: Option<&str>) -> Result<Answers, Error> {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("truth.txt");
        fs::write(&file, truth).expect("written");
        let names = dir.path().join("synsets.txt");
        let synsets = synsets.map(|text| fs::write(&names, text).map(|()| names.clone()).expect("written"));
        Truth::List { file, synsets }.read()
    }

    fn class(answers: &Answers, number: u32) -> &str {
        answers.class(&format!("ILSVRC2012_val_{number:08}.JPEG")).unwrap_or("none")
    }

    #[test]
    fn numbers_by_the_devkits_numbering() {
        let answers = list("2\n1\n2\n", Some("1 n09 kit fox\n2 n01 setter\n")).expect("read");
        let classes = [1, 2, 3, 4, 0].map(|n| class(&answers, n));
        assert_eq!(classes, ["n01", "n09", "n01", "none", "none"]);
        let answers = list("2\n1\n", Some("n09 kit fox\nn01 setter\n")).expect("an order of its own");
        assert_eq!(class(&answers, 1), "n01");
    }

    #[test]
    fn an_alphabetical_list_does_not_name_the_devkits_numbers() {
        let error = list("2\n1\n", Some("n01\nn09\n")).expect_err("refused");
        assert!(error.to_string().contains("alphabetical"), "{error}");
        let answers = list("1\n0\n", Some("n01\nn09\n")).expect("numbers from 0");
        assert_eq!((class(&answers, 1), class(&answers, 2)), ("n09", "n01"));
    }

    #[test]
    fn names_and_pictures_with_names() {
        let answers = list("n01\nn09\n", None).expect("read");
        assert_eq!(class(&answers, 2), "n09");
        let answers = list("ILSVRC2012_val_00000007.JPEG n01\nx.jpg n02\n", None).expect("read");
        assert_eq!(
            (class(&answers, 7), class(&answers, 1), answers.class("x.jpg")),
            ("n01", "none", Some("n02"))
        );
    }

    #[test]
    fn lists_that_do_not_fit() {
        let fails = |truth, synsets| list(truth, synsets).expect_err("refused").to_string();
        assert!(fails("1\n", None).contains("--synsets"));
        assert!(fails("1\n7\n", Some("1 n01\n")).contains("line 2: class 7"));
        assert!(fails("1\n", Some("1 n01\nn02\n")).contains("line 2"));
        assert!(fails("1\n", Some("1\n")).contains("`NUMBER NAME`"));
        assert!(fails("../x\n", None).contains("folder's name"));
    }

    #[test]
    fn annotations() {
        let xml = |names: &[&str]| {
            let objects: String =
                names.iter().map(|n| format!("<object><name>{n}</name><bndbox/></object>")).collect();
            format!(
                "<annotation><filename>x</filename><source><name>no</name></source>{objects}</annotation>"
            )
        };
        assert_eq!(class_of(&xml(&["n01", "n01"])), Ok("n01".to_owned()));
        assert!(class_of(&xml(&["n01", "n02"])).expect_err("two").contains("two classes"));
        assert!(class_of(&xml(&[])).expect_err("none").contains("<object>"));
        assert!(class_of(&xml(&["../n01"])).is_err() && class_of("no xml").is_err());
        // entities that expand to gigabytes are refused with the declaration that makes them
        assert!(class_of("<!DOCTYPE a [<!ENTITY b \"c\">]><annotation>&b;</annotation>").is_err());
    }
}
