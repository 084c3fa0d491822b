//! When two data sets are the same pictures in the same order.

use std::fs;
use std::path::Path;

use occlude_dataset::{Cache, Dataset, Identity, Options, prepare};

const NAMES: [&str; 4] = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg"];

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in NAMES {
        write(dir.path(), name, name);
    }
    dir
}

fn write(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, content).expect("written");
}

fn open(path: &Path) -> Dataset {
    Dataset::open(path, &Options { cache: Cache::Off, ..Options::default() }).expect("opened")
}

fn of(path: &Path) -> Identity {
    open(path).identity().expect("looked at")
}

#[test]
fn it_stays_where_the_pictures_move_or_change_their_form() {
    let (here, there, other) = (tree(), tree(), tempfile::tempdir().expect("a folder"));
    let known = of(here.path());
    assert_eq!(known.pictures, 4);
    assert_eq!(known, of(there.path()));
    let (list, shards) = (other.path().join("list.txt"), other.path().join("shards"));
    let data = open(here.path());
    prepare::write_list(&data, &[0, 1, 2, 3], &list).expect("written");
    prepare::pack(&data, &shards, &prepare::PackOptions { size: 2048, shuffle: None }, &()).expect("packed");
    for same in [of(&list), of(&shards)] {
        assert!(known.is_same(&same) && same.is_same(&known), "{known:?} {same:?}");
    }
    let json = serde_json::to_string(&known).expect("serialisable");
    assert_eq!(serde_json::from_str::<Identity>(&json).expect("readable"), known);
}

#[test]
fn it_changes_with_every_change_of_the_pictures() {
    let known = of(tree().path());
    type Change = (&'static str, &'static dyn Fn(&Path));
    let changes: [Change; 6] = [
        ("one more", &|dir| write(dir, "b/4.jpg", "b/4.jpg")),
        ("one less", &|dir| fs::remove_file(dir.join("a/1.jpg")).expect("removed")),
        ("another one", &|dir| fs::rename(dir.join("a/2.jpg"), dir.join("a/5.jpg")).expect("renamed")),
        ("another size", &|dir| write(dir, "a/2.jpg", "longer than before")),
        ("other bytes of one size", &|dir| write(dir, "a/2.jpg", "A/2.JPG")),
        ("another order", &|dir| {
            fs::rename(dir.join("a"), dir.join("c")).expect("renamed");
        }),
    ];
    for (what, change) in changes {
        let dir = tree();
        change(dir.path());
        assert!(!known.is_same(&of(dir.path())), "{what}");
    }
    let some = open(tree().path());
    let of = |which: &[usize]| some.identity_of(which).expect("looked at");
    assert_ne!(of(&[0, 1]), of(&[0, 2]));
}

/// A pipe among the files has no size and is not waited for.
#[test]
fn a_pipe_is_not_read() {
    let dir = tree();
    let list = dir.path().join("list.txt");
    let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe.jpg")).status();
    assert!(made.expect("mkfifo").success());
    write(dir.path(), "list.txt", "a/1.jpg\npipe.jpg\n");
    if let Ok(data) = Dataset::open(&list, &Options { cache: Cache::Off, ..Options::default() }) {
        assert_eq!(data.identity().expect("looked at").pictures, data.len());
    }
}
