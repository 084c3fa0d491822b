//! Listing the pictures of a folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is taken for a picture, in lower case.
const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// Pictures of a folder, and the classes its sub-folders stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names of the first-level folders, sorted, as in torchvision's `ImageFolder`; empty for a
    /// flat folder. A folder without pictures keeps its place, so that the numbers of the others
    /// do not depend on it.
    pub classes: Vec<String>,
    /// The pictures, sorted by class, folder and name.
    pub samples: Vec<Sample>,
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
pub enum ListError {
    /// Nothing has this name.
    #[error("no such folder: `{}`", .path.display())]
    Missing {
        /// As asked.
        path: PathBuf,
    },
    /// The name is a file's.
    #[error("`{}` is not a folder; hint: name the folder that holds the pictures", .path.display())]
    NotAFolder {
        /// As asked.
        path: PathBuf,
    },
    /// No picture anywhere below.
    #[error(
        "no pictures in `{}`; hint: files named *.jpg, *.jpeg, *.png or *.webp are read, in the folder itself or in one sub-folder per class",
        .path.display()
    )]
    Empty {
        /// As asked.
        path: PathBuf,
    },
    /// A folder on the way cannot be read.
    #[error("cannot list `{}`: {reason}", .path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
}

/// Lists a tree with one sub-folder per class (at any depth below it), or a flat folder.
///
/// Extensions jpg, jpeg, png and webp in any case; hidden files and folders are skipped, links
/// are followed.
///
/// # Errors
/// [`ListError`] where there is no such folder, it cannot be read, or it holds no picture.
pub fn list(dir: &Path) -> Result<Listing, ListError> {
    match fs::metadata(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(ListError::Missing { path: dir.to_owned() });
        }
        Err(reason) => return Err(ListError::Read { path: dir.to_owned(), reason }),
        Ok(meta) if !meta.is_dir() => return Err(ListError::NotAFolder { path: dir.to_owned() }),
        Ok(_) => {}
    }
    let top = entries(dir)?;
    let mut listing = Listing::default();
    listing.samples.extend(top.files.into_iter().map(|path| Sample { path, class: None }));
    let loose = listing.samples.len();
    for folder in &top.folders {
        let class = u32::try_from(listing.classes.len()).ok();
        listing.classes.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        walk(folder, class, &mut BTreeSet::new(), &mut listing.samples)?;
    }
    match listing.samples.len() {
        0 => return Err(ListError::Empty { path: dir.to_owned() }),
        // Sub-folders without any picture are not classes: the folder is flat.
        n if n == loose => listing.classes.clear(),
        _ => {}
    }
    Ok(listing)
}

/// Pictures and sub-folders of one folder, each sorted.
struct Entries {
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
}

fn entries(dir: &Path) -> Result<Entries, ListError> {
    let failed = |reason| ListError::Read { path: dir.to_owned(), reason };
    let mut found = Entries { files: Vec::new(), folders: Vec::new() };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // The kind comes with the listing; only a link costs a look of its own. A dangling one is
        // listed where its name is a picture's, so that loading reports it by name.
        let kind = entry.file_type().map_err(failed)?;
        let path = entry.path();
        if kind.is_dir() || (kind.is_symlink() && path.is_dir()) {
            found.folders.push(path);
        } else if is_picture(&name) {
            found.files.push(path);
        }
    }
    found.files.sort_unstable();
    found.folders.sort_unstable();
    Ok(found)
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

/// Collects the pictures of a class folder and of the folders below it; `seen` holds the folders on
/// the way down, because links can lead back up.
fn walk(
    dir: &Path,
    class: Option<u32>,
    seen: &mut BTreeSet<PathBuf>,
    samples: &mut Vec<Sample>,
) -> Result<(), ListError> {
    let found = entries(dir)?;
    samples.extend(found.files.into_iter().map(|path| Sample { path, class }));
    if found.folders.is_empty() {
        return Ok(());
    }
    let real = fs::canonicalize(dir).map_err(|reason| ListError::Read { path: dir.to_owned(), reason })?;
    if !seen.insert(real.clone()) {
        return Ok(());
    }
    for folder in found.folders {
        walk(&folder, class, seen, samples)?;
    }
    seen.remove(&real);
    Ok(())
}
