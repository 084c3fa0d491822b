//! Listing folders.

use std::fs;
use std::path::Path;

use occlude_preprocess::files::{ListError, list};

fn folder(files: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes folders");
        if file.ends_with('/') {
            fs::create_dir_all(&path).expect("makes folders");
        } else {
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
    // a dangling link is reported when it is loaded
    assert_eq!(samples, ["0:a/1.jpg", "0:a/gone.jpg", "1:b/1.jpg", "1:b/gone.jpg"]);
    assert_eq!(list(dir.path()).expect("pictures").left_out.links, 2, "`up`, by either way");
}

#[test]
fn links_that_lead_back_add_nothing() {
    use std::os::unix::fs::symlink;
    for (target, link) in [
        (".", "a/here"),
        ("..", "a/up"),
        (".", "here"),
        ("..", "above"),
        ("/", "a/b/root"),
        ("../../a", "a/b/again"),
        ("b", "a/c"),
        ("loop", "loop"),
    ] {
        let dir = folder(&["data/a/1.jpg", "data/a/b/2.jpg", "other/3.jpg"]);
        let data = dir.path().join("data");
        let before = listed(&data);
        symlink(target, data.join(link)).expect("links");
        let after = listed(&data);
        assert_eq!(before, after, "{link} -> {target}");
    }
    // links among many folders do not multiply
    let dir = folder(&["data/x.txt"]);
    for i in 0..9 {
        let class = dir.path().join(format!("data/a/{i}"));
        fs::create_dir_all(&class).expect("makes folders");
        fs::write(class.join("1.jpg"), b"x").expect("writes");
        (0..9).filter(|&k| k != i).for_each(|k| {
            symlink(format!("../{k}"), class.join(format!("to{k}"))).expect("links");
        });
    }
    assert_eq!(listed(&dir.path().join("data")).1.len(), 9);
}

#[test]
fn what_is_left_out_is_told() {
    let dir = folder(&[
        "a/1.jpg",
        "a/2.JFIF",
        "a/3.bmp",
        "a/4.Tif",
        "a/5.gif",
        "a/x.heic",
        "a/y.HEIC",
        "a/._1.jpg",
        "a/.DS_Store",
        "a/README",
        "a/@eaDir/1.jpg/thumb.jpg",
        "__MACOSX/a/1.jpg",
        ".git/HEAD",
        "empty/",
        "texts/only.txt",
        "old.tar",
    ]);
    let listing = list(dir.path()).expect("pictures");
    assert_eq!(listing.classes, ["a", "empty", "texts"]);
    assert_eq!(listing.samples.len(), 5);
    assert_eq!(
        listing.left_out.to_string(),
        "left out: 7 files: 2 .heic, 2 hidden, 1 .tar, 1 .txt, 1 without an extension; 3 folders: 1 .git, 1 \
         @eaDir, 1 __MACOSX; classes without a picture: empty, texts"
    );
    let none = list(&dir.path().join("texts")).expect_err("no pictures").to_string();
    assert!(none.contains("left out: 1 file: 1 .txt"), "{none}");
}

#[test]
fn only_regular_files_are_pictures() {
    let dir = folder(&["a/1.jpg", "b/1.jpg"]);
    let pipe = dir.path().join("a/pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("starts").success());
    std::os::unix::fs::symlink("pipe.jpg", dir.path().join("a/link.jpg")).expect("links");
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("b/zero.png")).expect("links");
    let listing = list(dir.path()).expect("pictures");
    assert_eq!((listing.samples.len(), listing.left_out.special), (2, 3));
    for path in [&pipe, &dir.path().join("b/zero.png")] {
        let error = occlude_preprocess::load(path, &Default::default()).expect_err("no file").to_string();
        assert!(error.contains("pipe, a socket or a device"), "{error}");
    }
}

#[test]
fn class_names_of_other_encodings_stay_apart() {
    use std::os::unix::ffi::OsStrExt;
    let dir = folder(&["x/1.jpg"]);
    for name in [b"caf\xe8".as_slice(), b"caf\xe9"] {
        let class = dir.path().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&class).expect("makes a folder");
        fs::write(class.join("1.jpg"), b"x").expect("writes");
    }
    assert_eq!(list(dir.path()).expect("pictures").classes, ["caf%E8", "caf%E9", "x"]);
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
