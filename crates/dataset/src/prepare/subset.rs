//! Subsets: classes from a list, a number or a share of each class.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use occlude_preprocess::{files, names};
use sha2::{Digest, Sha256};

use super::output::{Durable, Link, Staging, is_plain, write_whole};
use crate::dataset::Dataset;
use crate::list::{self, ROOT};
use crate::{Error, Progress};

/// Which pictures to take.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Names of the classes to take; `None` takes all.
    pub classes: Option<Vec<String>>,
    /// How many of each.
    pub amount: Amount,
    /// Take the first ones in order in place of random ones.
    pub first: bool,
    /// Seed of the choice.
    pub seed: u64,
}

/// How many pictures of each class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// All.
    All,
    /// This number, or all where there are fewer.
    PerClass(usize),
    /// This share, rounded, and at least one; 0 to 100.
    Percent(f64),
}

impl Amount {
    fn of(self, n: usize) -> usize {
        match self {
            Self::All => n,
            Self::PerClass(most) => most.min(n),
            Self::Percent(share) => ((share / 100.0 * n as f64).round() as usize).clamp(1.min(n), n),
        }
    }
}

/// Reads the names of classes from a file: the first word of each line, `#` before remarks.
///
/// # Errors
/// [`Error::Read`], and [`Error::Empty`] where there is no name.
pub fn read_classes(path: &Path) -> Result<Vec<String>, Error> {
    let text = files::read_utf8(path).map_err(|e| Error::read(path, e))?;
    let words =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|l| l.split_whitespace().next());
    let names: Vec<String> = words.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::Empty { path: path.to_owned(), hint: "one class name per line" });
    }
    Ok(names)
}

/// Chooses pictures; their numbers, in order.
///
/// The choice depends on the seed and on the paths below the root, on nothing else. A smaller share is
/// part of a larger one with the same seed. Pictures without a class are left out where there are
/// classes, and are one class where there are none.
///
/// # Errors
/// [`Error::Unsuitable`] for a class that is not there.
pub fn select(data: &Dataset, selection: &Selection) -> Result<Vec<usize>, Error> {
    let mut groups = vec![Vec::new(); data.classes().len().max(1)];
    for i in 0..data.len() {
        let class = if data.classes().is_empty() { Some(0) } else { data.class(i) };
        if let Some(group) = class.and_then(|class| groups.get_mut(class as usize)) {
            group.push(i);
        }
    }
    if let Some(names) = &selection.classes {
        let wanted = wanted(data, names)?;
        groups =
            groups.into_iter().zip(wanted).filter_map(|(group, wanted)| wanted.then_some(group)).collect();
    }
    let mut chosen = Vec::new();
    for mut group in groups {
        let count = selection.amount.of(group.len());
        if count < group.len() && !selection.first {
            group.sort_by_cached_key(|&i| rank(data, i, selection.seed));
        }
        chosen.extend(group.into_iter().take(count));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// For each class, whether it is among `names`.
fn wanted(data: &Dataset, names: &[String]) -> Result<Vec<bool>, Error> {
    let mut wanted = vec![false; data.classes().len()];
    for name in names {
        let text = names::escape(name.as_bytes());
        let place = data.classes().iter().position(|class| class == name || *class == text);
        let slot = place.and_then(|at| wanted.get_mut(at)).ok_or_else(|| Error::Unsuitable {
            what: format!("`{}` has no class `{name}`", data.root().display()),
            hint: "the list names classes as their folders are named",
        })?;
        *slot = true;
    }
    Ok(wanted)
}

/// A random number for each picture that stays the same wherever the data set lies.
pub(super) fn rank(data: &Dataset, i: usize, seed: u64) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(data.folder(i).as_os_str().as_bytes());
    hash.update(b"/");
    hash.update(data.file_name(i).as_bytes());
    let digest = hash.finalize();
    digest.first_chunk().copied().unwrap_or_default()
}

/// Makes a folder with a link to each chosen picture, in folders as in the source, and below those of their classes where a
/// list has others than its folders say; nothing is copied.
///
/// # Errors
/// [`Error::Exists`], [`Error::Write`]; [`Error::Unsuitable`] for shards, whose pictures are no files.
pub fn link_subset(
    data: &Dataset,
    chosen: &[usize],
    out: &Path,
    link: Link,
    progress: &dyn Progress,
) -> Result<(), Error> {
    refuse_shards(data, "link to")?;
    let staging = Staging::beside(out)?;
    progress.begin(chosen.len() as u64, "pictures");
    let mut made = PathBuf::new();
    let implied = chosen.iter().all(|&i| implied_class(data, i));
    for &i in chosen {
        let Some(from) = data.path(i) else { continue };
        let folder = staging.path().join(target_folder(data, i, implied)?);
        if folder != made {
            fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
            made.clone_from(&folder);
        }
        link.make(&from, &folder.join(data.file_name(i)))?;
        progress.advance(1);
    }
    staging.finish()
}

/// The folder of a picture below the root, below that of its class where folders do not say it (`implied`) or, where a list
/// leads elsewhere, that of its class alone.
fn target_folder(data: &Dataset, i: usize, implied: bool) -> Result<PathBuf, Error> {
    let folder = data.folder(i);
    let inside = folder.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if inside && implied {
        return Ok(folder.to_owned());
    }
    let below = if inside { folder } else { Path::new("") };
    let class = data.class(i).and_then(|class| data.classes().get(class as usize));
    match class {
        None => Ok(below.to_owned()),
        Some(class) if is_plain(&names::unescape(class)) => {
            Ok(Path::new(&OsString::from_vec(names::unescape(class))).join(below))
        }
        Some(class) => Err(Error::Unsuitable {
            what: format!("the class `{class}` cannot be a folder's name"),
            hint: "`--list` writes a list instead of links",
        }),
    }
}

fn refuse_shards(data: &Dataset, what: &str) -> Result<(), Error> {
    if data.is_sharded() {
        return Err(Error::Unsuitable {
            what: format!("`{}` has shards: there are no files to {what}", data.root().display()),
            hint: "choose from the folder that the shards were made from",
        });
    }
    Ok(())
}

/// Writes a list of the chosen pictures. It says where its paths begin: the source's root, relative
/// where that lies below the list's own folder. Where a line cannot hold a name as it is, all of them are written as
/// [`names`] makes text of them, and the list says so.
///
/// # Errors
/// [`Error::Write`]; [`Error::Unsuitable`] for shards.
pub fn write_list(data: &Dataset, chosen: &[usize], path: &Path) -> Result<(), Error> {
    refuse_shards(data, "list")?;
    let real = |path: &Path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::canonicalize(path).map_err(|e| Error::read(path, e))
    };
    let root = real(data.root())?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let root = match real(folder) {
        Ok(folder) => root.strip_prefix(folder).map_or(root.clone(), Path::to_owned),
        Err(_) => root,
    };
    let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
    // A tree's classes are its first folders, for lists too; writing them out would make numbers of
    // folders whose names are numbers.
    let implied = (0..data.len()).all(|i| implied_class(data, i));
    let line = |&i: &usize| {
        let class = data.class(i).filter(|_| !implied).and_then(|class| data.classes().get(class as usize));
        (data.folder(i).join(data.file_name(i)), class)
    };
    let lines: Vec<(PathBuf, Option<&String>)> = chosen.iter().map(line).collect();
    let plain = |bytes: &[u8]| list::escape(bytes).as_bytes() == bytes;
    let is_plain = |(path, class): &(PathBuf, Option<&String>)| {
        plain(path.as_os_str().as_bytes()) && class.is_none_or(|class| plain(class.as_bytes()))
    };
    let all_plain = plain(root.as_os_str().as_bytes()) && lines.iter().all(is_plain);
    let mut text = String::new();
    if !all_plain {
        text.push_str(list::ESCAPED);
        text.push('\n');
    }
    text.push_str(&format!("{ROOT} {}\n", list::escape(root.as_os_str().as_bytes())));
    for (path, class) in lines {
        text.push_str(&list::escape(path.as_os_str().as_bytes()));
        if let Some(class) = class {
            text.push('\t');
            text.push_str(&list::escape(&names::unescape(class)));
        }
        text.push('\n');
    }
    write_whole(path, Durable::Now, |out| out.write_all(text.as_bytes()))
}

/// Whether a picture's class is what a list without classes says.
fn implied_class(data: &Dataset, i: usize) -> bool {
    let class = data.class(i).and_then(|class| data.classes().get(class as usize));
    let first = data.folder(i).components().next();
    match (class, first) {
        (Some(class), Some(Component::Normal(first))) => names::escape(first.as_bytes()) == class.as_str(),
        (None, _) => data.classes().is_empty(),
        _ => false,
    }
}
