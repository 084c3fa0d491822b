//! ImageNet's training pictures: a tar file that holds a tar file for each class.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use occlude_preprocess::files::is_picture;
use occlude_preprocess::names;
use rayon::prelude::*;

use super::output::{Staging, Window, plain_name};
use crate::index::Span;
use crate::tar_scan::each;
use crate::{Error, Progress};

/// What [`imagenet_train`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// Classes in the archive.
    pub classes: usize,
    /// Those that were there already.
    pub skipped: usize,
    /// Pictures written.
    pub pictures: u64,
}

/// A class: its name and where its archive lies in the file.
struct Member {
    class: OsString,
    span: Span,
}

/// Unpacks `archive`, which holds `CLASS.tar` for each class (ILSVRC2012_img_train.tar), into
/// `out/CLASS/`, several classes at a time. A folder that is there is a finished class and is skipped,
/// so that an interrupted call is simply repeated.
///
/// # Errors
/// [`Error`] of reading and writing; [`Error::Tar`] also for a class without pictures.
pub fn imagenet_train(archive: &Path, out: &Path, progress: &dyn Progress) -> Result<Unpacked, Error> {
    let file = File::open(archive).map_err(|e| Error::read(archive, e))?;
    let members = members(archive, &file)?;
    fs::create_dir_all(out).map_err(|e| Error::write(out, e))?;
    progress.begin(members.iter().map(|member| member.span.len).sum(), "bytes");
    let done: Vec<Option<u64>> = members
        .par_iter()
        .map(|member| {
            let target = out.join(&member.class);
            let pictures =
                if target.is_dir() { None } else { Some(unpack(archive, &file, member, &target, progress)?) };
            if pictures.is_none() {
                progress.advance(member.span.len);
            }
            Ok(pictures)
        })
        .collect::<Result<_, Error>>()?;
    Ok(Unpacked {
        classes: members.len(),
        skipped: done.iter().filter(|pictures| pictures.is_none()).count(),
        pictures: done.iter().flatten().sum(),
    })
}

fn members(archive: &Path, file: &File) -> Result<Vec<Member>, Error> {
    let len = file.metadata().map_err(|e| Error::read(archive, e))?.len();
    let mut members: Vec<Member> = Vec::new();
    each(Window::new(file, Span { offset: 0, len }), len, |name, span, _| {
        let class =
            plain_name(name).and_then(|n| n.as_bytes().strip_suffix(b".tar")).filter(|c| !c.is_empty());
        if let Some(class) = class {
            members.push(Member { class: OsStr::from_bytes(class).to_owned(), span });
        }
        Ok(())
    })
    .map_err(|reason| Error::Tar { path: archive.to_owned(), reason })?;
    if members.is_empty() {
        let hint = "the archive of the training pictures holds one tar file per class";
        return Err(Error::Empty { path: archive.to_owned(), hint });
    }
    members.sort_by(|a, b| a.class.cmp(&b.class));
    if let Some(pair) =
        members.windows(2).find(|pair| pair.first().map(|m| &m.class) == pair.last().map(|m| &m.class))
    {
        let class = pair.first().map_or(Path::new(""), |m| Path::new(&m.class));
        let reason = format!("it holds `{}.tar` twice", names::of_path(class));
        return Err(Error::Tar { path: archive.to_owned(), reason });
    }
    Ok(members)
}

/// Unpacks one class under a hidden name, and renames it; the number of pictures.
fn unpack(
    archive: &Path,
    file: &File,
    member: &Member,
    target: &Path,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let staging = Staging::beside(target)?;
    let mut inner = member.class.clone();
    inner.push(".tar");
    let broken = |reason| Error::Tar { path: archive.join(&inner), reason };
    let mut pictures: Vec<(Vec<u8>, Span)> = Vec::new();
    each(Window::new(file, member.span), member.span.len, |name, span, _| {
        if let Some(name) = plain_name(name).filter(|name| is_picture(name)) {
            pictures.push((name.as_bytes().to_owned(), span));
        }
        Ok(())
    })
    .map_err(broken)?;
    if pictures.is_empty() {
        return Err(broken("it holds no picture".to_owned()));
    }
    let mut written = 0;
    for (name, span) in &pictures {
        let path = staging.path().join(OsStr::from_bytes(name));
        let inside = Span { offset: member.span.offset + span.offset, len: span.len };
        write_new(&path, file, inside)?;
        written += span.len;
        progress.advance(span.len);
    }
    staging.finish()?;
    // headers and padding
    progress.advance(member.span.len.saturating_sub(written));
    Ok(pictures.len() as u64)
}

fn write_new(path: &Path, file: &File, span: Span) -> Result<(), Error> {
    let copy = || -> io::Result<()> {
        let n = io::copy(&mut Window::new(file, span), &mut File::create_new(path)?)?;
        if n == span.len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    };
    copy().map_err(|e| Error::write(path, e))
}
