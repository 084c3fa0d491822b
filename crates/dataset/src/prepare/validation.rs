//! ImageNet's validation pictures, which come in one flat archive.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use occlude_preprocess::files::is_picture;
use occlude_preprocess::names;

use super::output::{Durable, Link, Window, flush, plain_name, write_whole};
use super::truth::Truth;
use crate::dataset::Dataset;
use crate::index::Span;
use crate::options::{Cache, Options};
use crate::tar_scan::each;
use crate::{Error, Progress};

/// What [`imagenet_val`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sorted {
    /// Pictures, those that were there already included.
    pub pictures: usize,
    /// Classes that they are of.
    pub classes: usize,
    /// Pictures that were there already.
    pub skipped: usize,
}

/// Where a picture comes from.
enum Source {
    File(PathBuf),
    Part(Span),
}

/// Sorts the pictures of `source`, a tar file or a folder, into `out/CLASS/` as `truth` says. Those of
/// a folder are linked as `link` says, those of an archive written. What is there is skipped, so that
/// an interrupted call is simply repeated.
///
/// # Errors
/// [`Error`] of reading and writing, before anything is written also [`Error::Unsuitable`] for a
/// picture whose class is not told.
pub fn imagenet_val(
    source: &Path,
    out: &Path,
    truth: &Truth,
    link: Link,
    progress: &dyn Progress,
) -> Result<Sorted, Error> {
    let answers = truth.read()?;
    let archive =
        if source.is_dir() { None } else { Some(File::open(source).map_err(|e| Error::read(source, e))?) };
    let pictures = match &archive {
        Some(file) => in_archive(source, file)?,
        None => in_folder(source)?,
    };
    let mut jobs = Vec::with_capacity(pictures.len());
    for (name, from) in pictures {
        let class = answers.class(&names::escape(name.as_encoded_bytes())).ok_or_else(|| Error::Unsuitable {
            what: format!("the class of `{}` is unknown", name.display()),
            hint: "names of pictures must end in their number, like ILSVRC2012_val_00000001.JPEG, or be in the ground truth",
        })?;
        jobs.push((out.join(class), name, from));
    }
    let classes: BTreeSet<&PathBuf> = jobs.iter().map(|(folder, _, _)| folder).collect();
    for folder in &classes {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    let classes = classes.len();
    progress.begin(jobs.len() as u64, "pictures");
    let (pictures, mut skipped) = (jobs.len(), 0);
    for (folder, name, from) in jobs {
        let target = folder.join(name);
        // files appear under their names when they are whole
        if target.symlink_metadata().is_ok() {
            skipped += 1;
        } else {
            put(&from, archive.as_ref(), &target, link)?;
        }
        progress.advance(1);
    }
    flush(out).map_err(|e| Error::write(out, e))?;
    Ok(Sorted { pictures, classes, skipped })
}

fn in_archive(source: &Path, file: &File) -> Result<Vec<(OsString, Source)>, Error> {
    let len = file.metadata().map_err(|e| Error::read(source, e))?.len();
    let mut pictures = Vec::new();
    each(Window::new(file, Span { offset: 0, len }), len, |name, span, _| {
        if let Some(name) = plain_name(name).filter(|name| is_picture(name)) {
            pictures.push((name.to_owned(), Source::Part(span)));
        }
        Ok(())
    })
    .map_err(|reason| Error::Tar { path: source.to_owned(), reason })?;
    if pictures.is_empty() {
        let hint = "the archive of the validation pictures holds them as JPEG files";
        return Err(Error::Empty { path: source.to_owned(), hint });
    }
    Ok(pictures)
}

fn in_folder(source: &Path) -> Result<Vec<(OsString, Source)>, Error> {
    let data = Dataset::open(source, &Options { cache: Cache::Off, ..Options::default() })?;
    let files = (0..data.len()).filter_map(|i| data.path(i));
    let named =
        |path: PathBuf| (path.file_name().map(OsStr::to_owned).unwrap_or_default(), Source::File(path));
    Ok(files.map(named).collect())
}

fn put(from: &Source, archive: Option<&File>, target: &Path, link: Link) -> Result<(), Error> {
    match (from, archive) {
        (Source::Part(span), Some(file)) => {
            let mut part = Window::new(file, *span);
            write_whole(target, Durable::Later, |out| match io::copy(&mut part, out)? {
                n if n == span.len => Ok(()),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            })
        }
        (Source::File(path), _) => link.make(path, target),
        (Source::Part(_), None) => Ok(()),
    }
}
