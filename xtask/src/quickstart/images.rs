//! Which images to train on and which to ask about.

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::files;

/// One image in so many is held back for validation.
const HELD_BACK: usize = 5;
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];
/// Names that other projects give the held-back half.
const VALIDATION: [&str; 4] = ["val", "validation", "valid", "test"];

/// Two ImageFolder trees.
pub(super) struct Images {
    pub(super) train: PathBuf,
    pub(super) val: PathBuf,
    /// Where they come from, for the result page.
    pub(super) origin: String,
}

impl Images {
    /// Takes `train/` and `val/` below `data` as they are; splits any other tree into links below `into`, so
    /// that nothing is copied and the same files always fall on the same side.
    pub(super) fn of(data: &Path, into: &Path) -> Result<Self> {
        let data = data.canonicalize().with_context(|| format!("no such folder: `{}`", data.display()))?;
        let val = VALIDATION.iter().map(|name| data.join(name)).find(|path| path.is_dir());
        if let (true, Some(val)) = (data.join("train").is_dir(), val) {
            let origin = format!("`{}`, split as it is", data.display());
            return Ok(Self { train: data.join("train"), val, origin });
        }
        let classes = classes(&data)?;
        if classes.len() < 2 {
            bail!(
                "`{}` has {} class folder(s) with images; the kNN score needs two or more\nhint: one folder per \
                 class, or `train/` and `val/` with one folder per class in each",
                data.display(),
                classes.len()
            );
        }
        if into.exists() {
            fs::remove_dir_all(into)?;
        }
        for (class, files) in &classes {
            link(class, files, &data, into)?;
        }
        let origin = format!("`{}`, every {HELD_BACK}th image held back", data.display());
        Ok(Self { train: into.join("train"), val: into.join("val"), origin })
    }

    /// Number of training images.
    pub(super) fn training(&self) -> Result<usize> {
        let files = files::below(&self.train, &EXTENSIONS)?;
        if files.is_empty() {
            bail!("no images in `{}`\nhint: *.jpg, *.jpeg, *.png and *.webp are read", self.train.display());
        }
        Ok(files.len())
    }

    /// Up to `count` validation images, one class after the other.
    pub(super) fn samples(&self, count: usize) -> Result<Vec<PathBuf>> {
        let classes = classes(&self.val)?;
        let rounds = (0..).map_while(|i| {
            let round: Vec<_> = classes.iter().filter_map(|(_, files)| files.get(i)).cloned().collect();
            (!round.is_empty()).then_some(round)
        });
        Ok(rounds.flatten().take(count).collect())
    }
}

/// Class folders in the order of their names, with the images below each in a fixed, well-mixed order.
fn classes(tree: &Path) -> Result<Vec<(String, Vec<PathBuf>)>> {
    let mut classes = Vec::new();
    for entry in fs::read_dir(tree).with_context(|| format!("could not list `{}`", tree.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || !path.is_dir() {
            continue;
        }
        let mut files = files::below(&path, &EXTENSIONS)?;
        if !files.is_empty() {
            files.sort_by_cached_key(|file| order(file.strip_prefix(tree).unwrap_or(file)));
            classes.push((name, files));
        }
    }
    classes.sort();
    Ok(classes)
}

/// A hash of the name below the tree: mixed, yet the same on every machine.
fn order(file: &Path) -> [u8; 32] {
    Sha256::digest(file.as_os_str().as_encoded_bytes()).into()
}

fn link(class: &str, files: &[PathBuf], tree: &Path, into: &Path) -> Result<()> {
    let held_back = held_back(files.len());
    for (i, file) in files.iter().enumerate() {
        let folder = into.join(if i < held_back { "val" } else { "train" }).join(class);
        fs::create_dir_all(&folder)?;
        let below = file.strip_prefix(tree.join(class)).unwrap_or(file);
        // Images of sub-folders keep their folder in their name: two may share the last part.
        let name = below.to_string_lossy().replace('/', "__");
        symlink(file, folder.join(name))?;
    }
    Ok(())
}

/// How many of a class are held back: one at least, unless it is the only one.
fn held_back(files: usize) -> usize {
    if files < 2 { 0 } else { (files / HELD_BACK).max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(name: &str, files: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("occlude-images-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        root
    }

    fn names(folder: &Path) -> Vec<String> {
        let files = files::below(folder, &EXTENSIONS).unwrap();
        let mut names: Vec<_> =
            files.iter().map(|f| f.strip_prefix(folder).unwrap().display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_tree_is_split_into_links_the_same_way_every_time() {
        let files: Vec<String> =
            (0..20).map(|i| format!("{}/{i}.png", ["a", "b/deep"][usize::from(i >= 10)])).collect();
        let data = tree("split", &files.iter().map(String::as_str).collect::<Vec<_>>());
        let into = tree("split-into", &[]);
        let first = Images::of(&data, &into).unwrap();
        let (train, val) = (names(&first.train), names(&first.val));
        assert_eq!((train.len(), val.len()), (16, 4));
        assert!(val.iter().any(|name| name.starts_with("b/deep__")), "{val:?}");
        assert!(first.val.join(&val[0]).symlink_metadata().unwrap().is_symlink());
        assert!(train.iter().all(|name| !val.contains(name)));
        let again = Images::of(&data, &into).unwrap();
        assert_eq!(names(&again.val), val);
        assert_eq!(first.samples(3).unwrap().len(), 3);
    }

    #[test]
    fn a_split_that_is_there_is_taken_as_it_is() {
        let data =
            tree("given", &["train/a/1.png", "train/b/1.png", "validation/a/2.jpg", "validation/b/2.jpg"]);
        let images = Images::of(&data, &data.join("never")).unwrap();
        assert!(images.train.ends_with("train") && images.val.ends_with("validation"));
        assert!(!data.join("never").exists());
    }

    #[test]
    fn a_folder_without_classes_is_refused() {
        let data = tree("flat", &["1.png", "2.png"]);
        let message = format!("{:#}", Images::of(&data, &data.join("x")).err().unwrap());
        assert!(message.contains("0 class folder(s)") && message.contains("hint:"), "{message}");
        assert!(Images::of(&data.join("nowhere"), &data).is_err());
    }

    #[test]
    fn small_classes_keep_something_to_train_on() {
        assert_eq!([0, 1, 2, 5, 10].map(held_back), [0, 0, 1, 1, 2]);
    }
}
