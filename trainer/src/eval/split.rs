//! The two labelled halves of an evaluation.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use occlude_dataset::{Dataset, ListHead};
use occlude_preprocess::{files, names};
use serde::{Deserialize, Serialize};

/// Some pictures of a data set, all of which have a class.
#[derive(Clone)]
pub struct Part {
    /// The data set.
    pub data: Arc<Dataset>,
    /// Positions in it, ascending.
    pub which: Vec<usize>,
}

impl Part {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.which.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.which.is_empty()
    }

    /// The class of every picture.
    pub fn labels(&self) -> Vec<i64> {
        self.which.iter().map(|&i| self.data.class(i).map_or(-1, i64::from)).collect()
    }

    /// The name of a picture of the data set below its folder.
    fn below(&self, i: usize) -> String {
        self.data.name_below(i)
    }
}

/// Training and validation pictures of the same classes.
#[derive(Clone)]
pub struct Splits {
    /// What a classifier, or the neighbours, are made of.
    pub train: Part,
    /// What is classified.
    pub val: Part,
}

/// What tells whether two evaluations saw the same pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Pictures to learn from.
    pub train: usize,
    /// Pictures to classify.
    pub val: usize,
    /// Classes.
    pub classes: usize,
    /// A hash over the names of the classes and of the pictures below their folders.
    pub names: String,
    /// A hash over the sizes of the pictures, and the bytes of some.
    #[serde(default)]
    pub contents: String,
}

impl Splits {
    /// Opens two data sets with classes.
    ///
    /// # Errors
    /// Where one cannot be opened, has no classes or pictures outside of them, or their classes differ.
    pub fn open(train: &Path, val: &Path) -> Result<Self> {
        let open = |path: &Path| -> Result<Part> {
            let data = crate::data::open(path)?;
            ensure!(
                !data.classes().is_empty(),
                "`{}` has no class folders; hint: an evaluation needs one sub-folder per class",
                path.display()
            );
            let loose = (0..data.len()).filter(|&i| data.class(i).is_none()).count();
            ensure!(
                loose == 0,
                "{loose} pictures of `{}` are in no class folder; hint: one sub-folder per class",
                path.display()
            );
            Ok(Part { which: (0..data.len()).collect(), data: Arc::new(data) })
        };
        let (t, v) = (open(train)?, open(val)?);
        if let Some(message) = difference(t.data.classes(), v.data.classes()) {
            bail!(
                "`{}` and `{}` have different classes ({} and {}): {message}; hint: the same sub-folders in both",
                train.display(),
                val.display(),
                t.data.classes().len(),
                v.data.classes().len()
            );
        }
        Ok(Self { train: t, val: v })
    }

    /// Keeps the training pictures that `list` names, one a line: below the training folder or the list's own, or by the
    /// bare name of the file where only one has it, as the published lists of ImageNet do. What follows a tab, empty
    /// lines and remarks (`#`) are skipped, but for the `# root:` of `dataset subset --list`: one more folder that names
    /// may be relative to.
    ///
    /// # Errors
    /// Where the list cannot be read or is empty, or a name is unknown or several pictures'.
    pub fn keep_listed(&mut self, list: &Path) -> Result<()> {
        let text = files::read_text(list).with_context(|| format!("cannot read `{}`", list.display()))?;
        let head = ListHead::of(&text);
        let data = &self.train.data;
        let root = data.root();
        let mut by_path = BTreeMap::new();
        let mut by_name = BTreeMap::<_, Vec<usize>>::new();
        for &i in &self.train.which {
            let path = data.path(i).unwrap_or_else(|| self.train.below(i).into());
            by_name.entry(path.file_name().unwrap_or_default().to_owned()).or_default().push(i);
            by_path.insert(path, i);
        }
        let path =
            |line: &[u8]| line.split(|&b| b == b'\t').next().unwrap_or_default().trim_ascii().to_owned();
        let lines = (1..).zip(text.split(|&b| b == b'\n').map(path));
        let mut kept = BTreeSet::new();
        let named = OsStr::from_bytes(&head.root);
        for (number, written) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with(b"#")) {
            let bytes = head.name(&written);
            let line = Path::new(OsStr::from_bytes(&bytes));
            let shown = names::of_path(line);
            let bare = by_name.get(line.as_os_str()).map_or(&[][..], Vec::as_slice);
            let beside = list.parent().unwrap_or(Path::new(""));
            let places = [root.join(line), beside.join(line), Path::new(named).join(line), line.into()];
            let known = places.iter().find_map(|p| by_path.get(p));
            match (known, bare) {
                (Some(&i), _) | (None, &[i]) => kept.insert(i),
                (None, []) => bail!(
                    "`{}`, line {number}: no picture `{shown}` in `{}`; hint: use names relative to that folder, one per line",
                    list.display(),
                    root.display()
                ),
                (None, several) => bail!(
                    "`{}`, line {number}: {} pictures are called `{shown}`; hint: write the class folder before it",
                    list.display(),
                    several.len()
                ),
            };
        }
        ensure!(!kept.is_empty(), "`{}` names no picture", list.display());
        self.train.which = kept.into_iter().collect();
        Ok(())
    }

    /// Classes, with or without pictures.
    pub fn classes(&self) -> i64 {
        self.train.data.classes().len() as i64
    }

    /// What is the same for the same pictures, wherever their folders are.
    ///
    /// # Errors
    /// Where a bucket is out of reach.
    pub fn identity(&self) -> Result<Identity> {
        let mut hash = Fnv::default();
        self.train.data.classes().iter().for_each(|class| hash.add(class.as_bytes()));
        for part in [&self.train, &self.val] {
            part.which.iter().for_each(|&i| hash.add(part.below(i).as_bytes()));
            hash.add(b"");
        }
        let contents = [&self.train, &self.val]
            .into_iter()
            .map(|part| Ok(part.data.identity_of(&part.which)?.contents))
            .collect::<Result<Vec<String>>>()?;
        Ok(Identity {
            train: self.train.len(),
            val: self.val.len(),
            classes: self.train.data.classes().len(),
            names: format!("{:016x}", hash.0),
            contents: contents.join("-"),
        })
    }
}

/// The first class that only one of two sorted lists has.
fn difference(train: &[String], val: &[String]) -> Option<String> {
    let (t, v): (BTreeSet<_>, BTreeSet<_>) = (train.iter().collect(), val.iter().collect());
    let first = t.symmetric_difference(&v).next()?;
    Some(format!("only the {} one has `{first}`", if t.contains(first) { "first" } else { "second" }))
}

/// FNV-1a, 64 bits: names that changed are found, nobody attacks.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        // a name ends with a byte that none contains
        for &byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty files: nothing here is decoded.
    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, b"").expect("a file");
        }
        dir
    }

    fn error(train: &tempfile::TempDir, val: &tempfile::TempDir) -> String {
        Splits::open(train.path(), val.path()).err().expect("refused").to_string()
    }

    #[test]
    fn what_cannot_be_evaluated_is_named() {
        let good = tree(&["a/1.png", "b/1.png"]);
        assert!(error(&tree(&["1.png"]), &good).contains("no class folders"));
        assert!(error(&good, &tree(&["a/1.png", "b/1.png", "loose.png"])).contains("1 pictures of"));
        let message = error(&good, &tree(&["a/1.png", "c/1.png"]));
        assert!(
            message.contains("different classes (2 and 2)") && message.contains("first one has `b`"),
            "{message}"
        );
        let message = error(&good, &tree(&["a/1.png", "b/1.png", "c/1.png"]));
        assert!(message.contains("second one has `c`"), "{message}");
    }

    #[test]
    fn the_identity_is_of_names_not_of_places() {
        let names = ["a/1.png", "b/1.png"];
        let of = |t: &tempfile::TempDir| {
            Splits::open(t.path(), t.path()).expect("splits").identity().expect("looked at")
        };
        assert_eq!(of(&tree(&names)), of(&tree(&names)));
        assert_ne!(of(&tree(&names)).names, of(&tree(&["a/1.png", "b/2.png"])).names);
        let other = tree(&names);
        std::fs::write(other.path().join("b/1.png"), b"another picture").expect("written");
        assert_ne!(of(&tree(&names)), of(&other), "the same names of other pictures");
    }

    #[test]
    fn lists_choose_by_path_or_by_a_name_that_is_unique() {
        let dir = tree(&["a/1.png", "a/2.png", "b/1.png", "b/3.png"]);
        let list = |text: &str| {
            let path = dir.path().join("list.txt");
            std::fs::write(&path, text).expect("written");
            let mut splits = Splits::open(dir.path(), dir.path()).expect("splits");
            splits
                .keep_listed(&path)
                .map(|()| splits.train.which.iter().map(|&i| splits.train.below(i)).collect::<Vec<_>>())
        };
        assert_eq!(
            list("b/1.png\n\n3.png\r\na/2.png\nb/1.png\n").expect("known"),
            ["a/2.png", "b/1.png", "b/3.png"]
        );
        let written = format!("# root: {}\n# another remark\nb/3.jpg\n", dir.path().display());
        assert_eq!(list(&written.replace(".jpg", ".png")).expect("known"), ["b/3.png"]);
        assert_eq!(list("\u{feff}b/1.png\r\n").expect("known"), ["b/1.png"]);
        let escaped = format!("{}\nb/%31.png\n", occlude_dataset::LIST_ESCAPED);
        assert_eq!(list(&escaped).expect("known"), ["b/1.png"]);
        let message = |text: &str| list(text).expect_err("refused").to_string();
        assert!(message("a/1.png\nnone.png\n").contains("line 2: no picture `none.png`"));
        assert!(message("1.png").contains("2 pictures are called"));
        assert!(message(" \n").contains("names no picture"));
    }
}
