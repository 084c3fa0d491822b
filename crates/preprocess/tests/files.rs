//! Listing folders.

use std::fs;
use std::path::Path;

use occlude_preprocess::files::{ListError, list};

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes folders");
        if !file.ends_with('/') {
            fs::write(&path, b"x").expect("writes");
        }
    }
    dir
}

/// Classes, and samples as `class:path`.
fn listed(dir: &Path) -> (Vec<String>, Vec<String>) {
    let listing = list(dir).expect("pictures");
    let show = |s: &occlude_preprocess::files::Sample| {
        let path = s.path.strip_prefix(dir).expect("below").display().to_string();
        s.class.map_or(path.clone(), |c| format!("{c}:{path}"))
    };
    (listing.classes.clone(), listing.samples.iter().map(show).collect())
}

#[test]
fn a_tree_is_listed_as_torchvision_does() {
    let dir = folder(&[
        "b/2.JPG",
        "b/1.png",
        "a/deep/x.webp",
        "a/z.jpeg",
        "B/1.jpg",
        "a/notes.txt",
        "c/.keep",
        ".git/x.jpg",
        "a/.hidden.jpg",
    ]);
    let (classes, samples) = listed(dir.path());
    assert_eq!(classes, ["B", "a", "b", "c"]);
    assert_eq!(samples, ["0:B/1.jpg", "1:a/z.jpeg", "1:a/deep/x.webp", "2:b/1.png", "2:b/2.JPG"]);
}

#[test]
fn a_flat_folder() {
    let (classes, samples) = listed(folder(&["2.jpg", "1.jpg", "empty/notes.txt"]).path());
    assert!(classes.is_empty());
    assert_eq!(samples, ["1.jpg", "2.jpg"]);
}

#[test]
fn loose_pictures_beside_classes_have_none() {
    let (classes, samples) = listed(folder(&["x.jpg", "a/1.jpg"]).path());
    assert_eq!((classes.len(), samples), (1, vec!["x.jpg".to_owned(), "0:a/1.jpg".to_owned()]));
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_end() {
    let dir = folder(&["a/1.jpg"]);
    std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("b")).expect("links");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a/up")).expect("links");
    std::os::unix::fs::symlink("gone", dir.path().join("a/gone.jpg")).expect("links");
    let (classes, samples) = listed(dir.path());
    assert_eq!(classes, ["a", "b"]);
    assert!(samples.contains(&"0:a/1.jpg".to_owned()) && samples.contains(&"1:b/1.jpg".to_owned()));
    assert!(samples.contains(&"0:a/gone.jpg".to_owned()), "a dangling link is reported when it is loaded");
    assert!(samples.len() < 30, "{samples:?}");
}

#[test]
fn every_error() {
    let dir = folder(&["text.txt", "sub/"]);
    assert!(matches!(list(&dir.path().join("gone")), Err(ListError::Missing { .. })));
    assert!(matches!(list(&dir.path().join("text.txt")), Err(ListError::NotAFolder { .. })));
    let empty = list(dir.path()).expect_err("no pictures");
    assert!(matches!(empty, ListError::Empty { .. }));
    assert!(empty.to_string().contains("hint:"), "{empty}");
    // A name longer than any file system takes cannot even be looked up.
    let unreadable = list(&dir.path().join("x".repeat(5000)));
    assert!(matches!(unreadable, Err(ListError::Read { .. })), "{unreadable:?}");
}
