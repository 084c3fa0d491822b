//! Which outputs may be written.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why a file must not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Refused {
    /// Something is there already.
    #[error("`{path}` exists; hint: `--force` replaces it", path = .0.display())]
    Exists(PathBuf),
    /// It would replace what it is made from.
    #[error("{}; hint: name another output, the input would be lost", same(output, input))]
    Input { output: PathBuf, input: PathBuf },
    /// Two results would be one file.
    #[error("{}; hint: name another output", twice(first, second))]
    Twice { first: PathBuf, second: PathBuf },
    /// A folder, a device or a pipe.
    #[error("`{path}` is {what}; hint: name a file", path = path.display())]
    NoFile { path: PathBuf, what: &'static str },
    /// Its folder is not there.
    #[error("cannot write `{path}`: there is no folder `{folder}`; hint: create the folder first", path = path.display(), folder = folder.display())]
    NoFolder { path: PathBuf, folder: PathBuf },
    /// The operating system does not say what is there.
    #[error("cannot inspect `{path}`: {reason}", path = path.display())]
    Io {
        path: PathBuf,
        /// What it says.
        reason: io::Error,
    },
}

fn same(a: &Path, b: &Path) -> String {
    if a == b {
        format!("`{}` is both input and output", a.display())
    } else {
        format!("`{}` and `{}` are the same file", a.display(), b.display())
    }
}

fn twice(a: &Path, b: &Path) -> String {
    if a == b {
        format!("`{}` is named for two results", a.display())
    } else {
        format!("`{}` and `{}`, named for two results, are the same file", a.display(), b.display())
    }
}

/// Holds the files that a command is going to write against those that it reads; see the crate.
///
/// Inputs that do not exist are somebody else's error, and folders among them are no files. Call it before the work,
/// and with every file that will be written, also those whose names follow from another's.
///
/// # Errors
/// [`Refused`].
pub fn check(outputs: &[&Path], inputs: &[&Path], force: bool) -> Result<(), Refused> {
    for (i, output) in outputs.iter().enumerate() {
        if let Some(input) = inputs.iter().find(|input| is_same_file(output, input)) {
            return Err(Refused::Input { output: output.to_path_buf(), input: input.to_path_buf() });
        }
        if let Some(other) = outputs.iter().take(i).find(|other| is_same_file(output, other)) {
            return Err(Refused::Twice { first: other.to_path_buf(), second: output.to_path_buf() });
        }
    }
    outputs.iter().try_for_each(|output| free(output, force))
}

/// Whether both paths lead to one file. A file that is not there yet is the one of that name in that folder.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    a == b || is_one_inode(a, b) || matches!((place(a), place(b)), (Some(a), Some(b)) if a == b)
}

/// Whether both are names of one file, hard links included.
#[cfg(unix)]
fn is_one_inode(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    id(a).is_some() && id(a) == id(b)
}

/// Elsewhere only paths are compared.
#[cfg(not(unix))]
fn is_one_inode(_: &Path, _: &Path) -> bool {
    false
}

/// Where a file is, or would be: without links, without `..`.
fn place(path: &Path) -> Option<PathBuf> {
    match fs::canonicalize(path) {
        Ok(place) => Some(place),
        Err(_) => Some(fs::canonicalize(crate::atomic::parent(path)).ok()?.join(path.file_name()?)),
    }
}

/// Whether a file may be written there.
fn free(path: &Path, force: bool) -> Result<(), Refused> {
    let owned = || path.to_owned();
    let no_file = |what| Err(Refused::NoFile { path: owned(), what });
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return no_file("a folder"),
        Ok(found) if !found.is_file() => return no_file("not a regular file"),
        _ => {}
    }
    // Not through links: one that leads nowhere would be replaced, too.
    match fs::symlink_metadata(path) {
        Ok(_) if force => Ok(()),
        Ok(_) => Err(Refused::Exists(owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = crate::atomic::parent(path);
            match folder.is_dir() {
                true => Ok(()),
                false => Err(Refused::NoFolder { path: owned(), folder: folder.to_owned() }),
            }
        }
        Err(reason) => Err(Refused::Io { path: owned(), reason }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder with the file `in`.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::write(dir.path().join("in"), "precious").expect("written");
        dir
    }

    #[test]
    fn an_input_is_never_replaced() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).expect("a folder");
        symlink(at("in"), at("symbolic")).expect("a link");
        symlink("symbolic", at("twice")).expect("a link");
        fs::hard_link(at("in"), at("hard")).expect("a link");
        symlink(dir.path(), at("loop")).expect("a link");
        let input = at("in");
        for name in ["in", "sub/../in", "./in", "symbolic", "twice", "hard", "loop/in", "loop/loop/hard"] {
            for force in [false, true] {
                let refused = check(&[&at("new"), &at(name)], &[&at("sub"), &input], force).expect_err(name);
                assert!(matches!(refused, Refused::Input { .. }), "{name}: {refused}");
                assert!(refused.to_string().contains("hint: name another output"), "{refused}");
            }
        }
        // And the other way round: the input is named by a link.
        assert!(matches!(check(&[&input], &[&at("twice")], true), Err(Refused::Input { .. })));
    }

    #[test]
    fn existing_files_need_force() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        symlink("nowhere", at("dangling")).expect("a link");
        for name in ["in", "dangling"] {
            let refused = check(&[&at(name)], &[], false).expect_err(name);
            assert!(matches!(refused, Refused::Exists(_)), "{refused}");
            assert!(refused.to_string().ends_with("exists; hint: `--force` replaces it"), "{refused}");
            assert!(check(&[&at(name)], &[], true).is_ok(), "{name}");
        }
        assert!(check(&[&at("new"), &at("newer")], &[&at("gone"), &at("in")], false).is_ok());
    }

    #[test]
    fn two_results_are_two_files() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        symlink(dir.path(), at("loop")).expect("a link");
        for (a, b) in [("new", "new"), ("new", "loop/new"), ("./new", "loop/loop/new")] {
            let refused = check(&[&at(a), &at(b)], &[], true).expect_err(b);
            assert!(matches!(refused, Refused::Twice { .. }), "{refused}");
        }
        assert!(check(&[&at("new"), &at("newer")], &[], true).is_ok());
    }

    #[test]
    fn only_files_in_folders_that_are_there() {
        let dir = folder();
        assert!(matches!(check(&[dir.path()], &[], true), Err(Refused::NoFile { .. })));
        assert!(matches!(check(&[Path::new("/dev/null")], &[], true), Err(Refused::NoFile { .. })));
        let lost = dir.path().join("no/where");
        let refused = check(&[&lost], &[], false).expect_err("no folder");
        assert!(refused.to_string().contains("hint: create the folder first"), "{refused}");
        assert!(matches!(refused, Refused::NoFolder { .. }));
        assert!(check(&[&dir.path().join("in/side")], &[], true).is_err(), "below a file");
        assert!(check(&[Path::new("a-bare-name-that-is-not-there")], &[], false).is_ok());
    }
}
