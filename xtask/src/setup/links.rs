//! The two fixed names below `.deps/` that builds and tools look for.

use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::paths;

/// The libtorch release that the `tch` of Cargo.toml is made for.
pub(crate) const LIBTORCH: &str = "2.11";

/// Makes `link` point at `target`, relative where both lie in `.deps/` so that the checkout can be moved.
pub(super) fn point(link: &Path, target: &Path) -> Result<()> {
    if let (Ok(now), Ok(wanted)) = (link.canonicalize(), target.canonicalize())
        && now == wanted
    {
        return Ok(());
    }
    let folder = link.parent().context("a link has a folder")?;
    fs::create_dir_all(folder)?;
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(|| format!("could not replace `{}`", link.display()))?;
    }
    let deps = paths::deps();
    let value = match (folder.strip_prefix(&deps), target.strip_prefix(&deps)) {
        (Ok(inside), Ok(below)) => {
            let up: std::path::PathBuf = inside.components().map(|_| "..").collect();
            up.join(below)
        }
        _ => target.to_path_buf(),
    };
    symlink(&value, link).with_context(|| format!("could not link `{}`", link.display()))
}

/// Whether `folder` holds a libtorch of the release that the trainer is built with.
pub(super) fn check_libtorch(folder: &Path) -> Result<()> {
    if !folder.join("lib/libtorch.so").is_file() {
        bail!("`{}` holds no `lib/libtorch.so`\nhint: correct or unset `LIBTORCH`", folder.display());
    }
    if let Some(found) = libtorch_version(folder)
        && !found.starts_with(&format!("{LIBTORCH}."))
        && std::env::var_os("LIBTORCH_BYPASS_VERSION_CHECK").is_none()
    {
        bail!(
            "`{}` is libtorch {found}; the trainer needs {LIBTORCH}\n\
             hint: unset `LIBTORCH` to use the one of `cargo xtask setup`",
            folder.display()
        );
    }
    Ok(())
}

/// The release that a libtorch folder says it is: `build-version` of the zip, `version.py` of the wheel.
fn libtorch_version(folder: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(folder.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let text = fs::read_to_string(folder.join("version.py")).ok()?;
    let line = text.lines().find(|line| line.starts_with("__version__"))?;
    line.split('\'').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("occlude-xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("lib")).unwrap();
        folder
    }

    #[test]
    fn a_folder_without_libtorch_is_refused() {
        let folder = folder("empty");
        let message = check_libtorch(&folder).unwrap_err().to_string();
        assert!(message.contains("holds no `lib/libtorch.so`") && message.contains("hint:"), "{message}");
    }

    #[test]
    fn a_libtorch_of_another_release_is_refused() {
        let folder = folder("old");
        fs::write(folder.join("lib/libtorch.so"), "").unwrap();
        fs::write(folder.join("version.py"), "__version__ = '2.3.1+cpu'\n").unwrap();
        let message = check_libtorch(&folder).unwrap_err().to_string();
        assert!(message.contains("2.3.1+cpu") && message.contains("hint:"), "{message}");
        fs::write(folder.join("build-version"), "2.11.0+cpu\n").unwrap();
        check_libtorch(&folder).unwrap();
    }

    #[test]
    fn a_link_is_replaced_once_its_target_changes() {
        let folder = folder("link");
        let (a, b, link) = (folder.join("a"), folder.join("b"), folder.join("into/link"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        for target in [&a, &a, &b] {
            point(&link, target).unwrap();
            assert_eq!(link.canonicalize().unwrap(), target.canonicalize().unwrap());
        }
    }
}
