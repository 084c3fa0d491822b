//! The files below a folder.

use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// All files below `folder` with one of these endings, in either case. Links are followed, but for those to a folder that
/// the link itself lies in.
///
/// # Errors
/// Where a folder cannot be listed.
pub(crate) fn below(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(folder, endings, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn walk(folder: &Path, endings: &[&str], above: &mut Vec<PathBuf>, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || format!("could not list `{}`", folder.display());
    let real = folder.canonicalize().with_context(failed)?;
    if above.contains(&real) {
        return Ok(());
    }
    above.push(real);
    for entry in fs::read_dir(folder).with_context(failed)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, endings, above, found)?;
        } else if path.extension().is_some_and(|own| endings.iter().any(|e| own.eq_ignore_ascii_case(e))) {
            found.push(path);
        }
    }
    above.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn endings_choose_and_links_are_followed_but_not_round_and_round() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        for name in ["1.jpg", "a/2.JPG", "a/b/3.png", "a/b/4.txt", "a/jpg"] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("1.jpg"), at("a/5.jpg")).unwrap();
        symlink(at("a/b"), at("b")).unwrap();
        symlink(dir.path(), at("a/again")).unwrap();
        let mut found = below(dir.path(), &["jpg", "png"]).unwrap();
        found.sort();
        assert_eq!(found, ["1.jpg", "a/2.JPG", "a/5.jpg", "a/b/3.png", "b/3.png"].map(at));
        assert!(below(&at("gone"), &["jpg"]).unwrap_err().to_string().contains("gone"));
    }
}
