//! Folders, lists and shards through one interface; the cache.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use occlude_dataset::{Cache, Dataset, Error, Options};
use occlude_preprocess::Limits;
use occlude_preprocess::files::{self, ListError};
use proptest::prelude::*;

fn without_cache() -> Options {
    Options { cache: Cache::Off, ..Options::default() }
}

fn open(path: &Path) -> Dataset {
    Dataset::open(path, &without_cache()).unwrap_or_else(|e| panic!("{e}"))
}

fn error(path: &Path) -> Error {
    Dataset::open(path, &without_cache()).expect_err("refused")
}

/// Files that hold their own names.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in names {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("has one")).expect("makes folders");
        if name.ends_with('/') {
            fs::create_dir_all(&path).expect("makes a folder");
        } else {
            fs::write(&path, name).expect("writes");
        }
    }
    dir
}

fn tar(path: &Path, entries: &[(&str, &str)]) {
    let mut builder = tar::Builder::new(File::create(path).expect("created"));
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data.as_bytes()).expect("appended");
    }
    builder.finish().expect("finished");
}

/// `class name: content` of every sample, names without the folder.
fn contents(data: &Dataset, dir: &Path) -> Vec<String> {
    let mut buf = b"left over".to_vec();
    data.iter()
        .map(|sample| {
            sample.read(&mut buf).expect("read");
            let class = sample.class().map_or("-", |c| data.classes()[c as usize].as_str());
            let name = sample.name().replace(&format!("{}/", dir.display()), "");
            format!("{class} {name}: {}", String::from_utf8_lossy(&buf))
        })
        .collect()
}

#[test]
fn a_folder_reads_its_files() {
    let dir = folder(&["x.jpg", "b/2.PNG", "a/deep/1.webp", "a/notes.txt", "old.tar"]);
    let data = open(dir.path());
    assert_eq!(data.classes(), ["a", "b"]);
    assert_eq!(
        contents(&data, dir.path()),
        ["- x.jpg: x.jpg", "a a/deep/1.webp: a/deep/1.webp", "b b/2.PNG: b/2.PNG"]
    );
    assert_eq!(data.path(2), Some(dir.path().join("b/2.PNG")));
    assert!(data.path(3).is_none() && data.class(3).is_none());
}

/// What `files::list` says and what the index says.
fn agree(dir: &Path) {
    match files::list(dir) {
        Ok(listing) => {
            let data = open(dir);
            assert_eq!((&listing.classes[..], &listing.left_out), (data.classes(), data.left_out()));
            let ours: Vec<_> =
                (0..data.len()).map(|i| (data.path(i).expect("a file"), data.class(i))).collect();
            let theirs: Vec<_> = listing.samples.into_iter().map(|s| (s.path, s.class)).collect();
            assert_eq!(ours, theirs);
        }
        Err(e) => assert_eq!(e.to_string(), error(dir).to_string()),
    }
}

#[test]
fn loops_and_dangling_links_as_in_a_listing() {
    use std::os::unix::fs::symlink;
    let dir = folder(&["a/1.jpg", "a/c/2.jpg", "empty/"]);
    symlink(dir.path().join("a"), dir.path().join("b")).expect("links");
    symlink(dir.path(), dir.path().join("a/up")).expect("links");
    symlink("gone", dir.path().join("a/gone.jpg")).expect("links");
    agree(dir.path());
    // the loop that made three of one
    let dir = folder(&["a/1.jpg", "b/2.jpg", "a/x.heic", "none/"]);
    symlink(".", dir.path().join("a/here")).expect("links");
    symlink("..", dir.path().join("b/up")).expect("links");
    agree(dir.path());
    let data = open(dir.path());
    assert_eq!((data.len(), data.left_out().links), (2, 2));
    let left_out = "left out: 1 file: 1 .heic; 2 links to folders that are listed already; \
                    classes without a picture: none";
    assert_eq!(data.left_out().to_string(), left_out);
}

#[test]
fn what_is_left_out_is_kept_with_the_index() {
    let dir = folder(&["data/a/1.jpg", "data/a/x.heic", "data/b/", "cache/", "shards/"]);
    tar(&dir.path().join("shards/0.tar"), &[("k.jpg", "x"), ("k.json", "{}"), ("l.heic", "x")]);
    settle();
    let cache = Cache::Folder(dir.path().join("cache"));
    let options = Options { cache, cache_from: 1, ..Options::default() };
    for (name, text) in [
        ("data", "left out: 1 file: 1 .heic; classes without a picture: b"),
        ("shards", "left out: 2 files: 1 .heic, 1 .json"),
    ] {
        for _ in 0..2 {
            let data = Dataset::open(&dir.path().join(name), &options).expect("opens");
            assert_eq!(data.left_out().to_string(), text);
        }
    }
    assert_eq!(cache_files(&dir.path().join("cache")).len(), 2);
}

/// Waiting for somebody to write into a pipe would be for ever.
#[test]
fn pipes_are_never_waited_for() {
    let dir = folder(&["a/1.jpg", "l.txt"]);
    let make = |name: &str| {
        let path = dir.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("starts").success());
        path
    };
    let (pipe, shard, list) = (make("a/p.jpg"), make("p.tar"), make("p.txt"));
    let data = open(&dir.path().join("a"));
    assert_eq!((data.len(), data.left_out().special), (1, 1));
    fs::write(dir.path().join("l.txt"), "a/p.jpg\n").expect("written");
    let error = open(&dir.path().join("l.txt")).read(0, &mut Vec::new()).expect_err("a pipe");
    assert!(error.to_string().contains("a pipe, a socket or a device"), "{error}");
    for path in [&shard, &list] {
        assert!(error_of(path).contains("a pipe, a socket or a device"), "{}", error_of(path));
    }
    let single = &Dataset::open_all(&[pipe], &without_cache()).expect("named")[0];
    assert!(single.read(0, &mut Vec::new()).is_err());
}

fn error_of(path: &Path) -> String {
    error(path).to_string()
}

proptest! {
    #[test]
    fn any_tree_is_what_its_listing_says(
        names in proptest::collection::vec("([aB.]{1,2}/){0,3}[ab.]{1,3}(\\.jpg|\\.PNG|\\.txt|/)", 0..12)
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = dir.path().join(&name);
            // dots climb and names clash; what cannot be made is left out
            if path.components().any(|part| part == std::path::Component::ParentDir) {
                continue;
            }
            let folder = if name.ends_with('/') { Some(path.as_path()) } else { path.parent() };
            if fs::create_dir_all(folder.expect("has one")).is_ok() && !name.ends_with('/') {
                let _ = fs::write(&path, b"x");
            }
        }
        agree(dir.path());
    }
}

#[test]
fn a_list_reads_below_its_folder_or_a_root() {
    let dir = folder(&["data/a/1.jpg", "data/b/2.jpg"]);
    let list = dir.path().join("data/list.txt");
    fs::write(&list, "b/2.jpg\na/1.jpg\n").expect("written");
    let expected = ["b data/b/2.jpg: data/b/2.jpg", "a data/a/1.jpg: data/a/1.jpg"];
    assert_eq!(contents(&open(&list), dir.path()), expected);
    let list = dir.path().join("elsewhere.txt");
    fs::write(&list, "b/2.jpg\tb\na/1.jpg\ta\n").expect("written");
    let options = Options { root: Some(dir.path().join("data")), ..without_cache() };
    assert_eq!(contents(&Dataset::open(&list, &options).expect("a list"), dir.path()), expected);
    let absolute = dir.path().join("data").display().to_string();
    for root in ["data", &absolute] {
        fs::write(&list, format!("# remark\n# root: {root}\nb/2.jpg\na/1.jpg\n# root: gone\n"))
            .expect("written");
        assert_eq!(contents(&open(&list), dir.path()), expected, "{root}");
    }
}

#[test]
fn shards_with_numbers_names_and_a_file_of_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let second: &[(&str, &str)] = &[("k3.webp", "three"), ("k3.cls", "1")];
    tar(&dir.path().join("1.tar"), second);
    tar(&dir.path().join("0.tar"), &[("k1.jpg", "one"), ("k1.cls", "2"), ("k2.png", "two")]);
    let expected = ["2 0.tar:k1.jpg: one", "- 0.tar:k2.png: two", "1 1.tar:k3.webp: three"];
    assert_eq!(contents(&open(dir.path()), dir.path()), expected);
    assert_eq!(contents(&open(&dir.path().join("1.tar")), dir.path()), ["1 1.tar:k3.webp: three"]);
    fs::write(dir.path().join("classes.txt"), "ant\nbee\ncat\n").expect("written");
    let data = open(dir.path());
    assert_eq!(data.classes(), ["ant", "bee", "cat"]);
    assert_eq!(contents(&data, dir.path())[0], "cat 0.tar:k1.jpg: one");
    assert!(data.path(0).is_none());
    fs::write(dir.path().join("classes.txt"), "ant\nbee\n").expect("written");
    assert!(matches!(error(dir.path()), Error::UnknownClass { .. }));
}

#[test]
fn more_shards_than_files_that_stay_open() {
    let dir = tempfile::tempdir().expect("a folder");
    for i in 0..600 {
        tar(&dir.path().join(format!("{i:03}.tar")), &[("x.jpg", &i.to_string())]);
    }
    let data = open(dir.path());
    let mut buf = Vec::new();
    for i in (0..600).chain(0..600) {
        data.read(i, &mut buf).expect("read");
        assert_eq!(buf, i.to_string().as_bytes());
    }
}

#[test]
fn every_error_of_opening_and_reading() {
    let dir = folder(&["x.bin", "empty/", "text/notes.txt", "shards/readme"]);
    let at = |name: &str| dir.path().join(name);
    assert!(matches!(error(&at("gone")), Error::Folder(ListError::Missing { .. })));
    assert!(matches!(error(&at("x.bin")), Error::NotADataset { .. }));
    assert!(matches!(error(&at("empty")), Error::Folder(ListError::Empty { .. })));
    assert!(matches!(error(&at("text")), Error::Folder(ListError::Empty { .. })));
    tar(&at("shards/a.tar"), &[("x.txt", "nothing")]);
    assert!(matches!(error(&at("shards")), Error::Empty { .. }));
    fs::write(at("shards/a.tar"), [0x1f, 0x8b, 8, 0].repeat(256)).expect("written");
    assert!(error(&at("shards")).to_string().contains("uncompressed"));
    fs::write(at("l.txt"), "gone.jpg\n").expect("written");
    let unread = open(&at("l.txt")).read(0, &mut Vec::new()).expect_err("gone");
    assert!(matches!(&unread, Error::Read { name, .. } if name.ends_with("gone.jpg")), "{unread}");
    fs::write(at("l.txt"), "x.bin\n").expect("written");
    let broken = open(&at("l.txt")).decode(0, &Limits::default(), &mut Vec::new()).expect_err("no picture");
    assert!(matches!(&broken, Error::Decode { name, .. } if name.ends_with("x.bin")), "{broken}");
    assert!(open(&at("l.txt")).read(1, &mut Vec::new()).is_err(), "past the end");
    let large = File::create(at("large.jpg")).expect("created");
    large.set_len(occlude_dataset::MAX_PICTURE_BYTES + 1).expect("sparse");
    fs::write(at("l.txt"), "large.jpg\n").expect("written");
    let refused = open(&at("l.txt")).read(0, &mut Vec::new()).expect_err("large");
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused}");
}

#[test]
fn a_shard_that_became_shorter_is_an_error_of_the_picture() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.tar");
    tar(&path, &[("k.jpg", &"x".repeat(5000))]);
    let data = open(&path);
    File::options().write(true).open(&path).expect("opens").set_len(1000).expect("cut");
    let error = data.read(0, &mut Vec::new()).expect_err("cut");
    assert!(matches!(&error, Error::Read { name, .. } if name.ends_with("a.tar:k.jpg")), "{error}");
}

/// Sets a folder's or file's time back; the time of its inode only time itself sets back.
fn settle() {
    std::thread::sleep(Duration::from_millis(2300));
}

fn cache_files(cache: &Path) -> Vec<PathBuf> {
    let Ok(files) = fs::read_dir(cache.join("index")) else { return Vec::new() };
    files.map(|file| file.expect("listed").path()).collect()
}

#[test]
fn the_cache_serves_until_something_changes() {
    let dir = folder(&["data/a/1.jpg", "data/b/deep/2.jpg", "cache/", "shards/"]);
    let (data, cache, shards) =
        (dir.path().join("data"), dir.path().join("cache"), dir.path().join("shards"));
    tar(&shards.join("0.tar"), &[("k1.jpg", "one"), ("k1.cls", "0")]);
    let options = Options { cache: Cache::Folder(cache.clone()), cache_from: 1, ..Options::default() };
    let len = |path: &Path| Dataset::open(path, &options).expect("opens").len();
    len(&data);
    assert!(cache_files(&cache).is_empty(), "what changed a moment ago is not kept");
    settle();
    assert_eq!((len(&data), len(&shards)), (1 + 1, 1));
    let files = cache_files(&cache);
    assert_eq!(files.len(), 2);
    let written = || cache_files(&cache).iter().map(|f| fs::metadata(f).unwrap().modified().unwrap()).max();
    let first = written();
    assert_eq!((len(&data), len(&shards)), (2, 1));
    assert_eq!(contents(&Dataset::open(&shards, &options).expect("opens"), &shards), ["0 0.tar:k1.jpg: one"]);
    assert_eq!(written(), first, "served, not written again");

    // a file more in the deepest folder, whose time is then set back
    let deep = data.join("b/deep");
    let old = fs::metadata(&deep).expect("there").modified().expect("known");
    fs::write(deep.join("3.jpg"), "3").expect("written");
    File::open(&deep).expect("opens").set_times(FileTimes::new().set_modified(old)).expect("set");
    assert_eq!(len(&data), 3);
    // a shard more, names of classes
    tar(&shards.join("1.tar"), &[("k2.jpg", "two")]);
    assert_eq!(len(&shards), 2);
    fs::write(shards.join("classes.txt"), "ant\n").expect("written");
    assert_eq!(Dataset::open(&shards, &options).expect("opens").classes(), ["ant"]);

    // broken in any way, it is built again
    settle();
    assert_eq!(len(&data), 3);
    for content in [b"".as_slice(), b"occlude index\0\0\x01", &[0xff; 500]] {
        for file in &files {
            fs::write(file, content).expect("written");
        }
        assert_eq!((len(&data), len(&shards)), (3, 2));
    }
    assert!(files.iter().all(|file| fs::metadata(file).expect("there").len() > 0));
}

#[test]
fn small_data_sets_and_caches_that_cannot_be_written() {
    let dir = folder(&["data/1.jpg", "file"]);
    let old = SystemTime::now() - Duration::from_secs(100);
    File::open(dir.path().join("data"))
        .expect("opens")
        .set_times(FileTimes::new().set_modified(old))
        .expect("set");
    settle();
    for (cache, cache_from) in [("cache", 2), ("file", 1)] {
        let cache = dir.path().join(cache);
        let options = Options { cache: Cache::Folder(cache.clone()), cache_from, ..Options::default() };
        assert_eq!(Dataset::open(&dir.path().join("data"), &options).expect("opens").len(), 1);
        assert!(cache_files(&cache).is_empty());
    }
}

#[test]
fn single_files() {
    let dir = folder(&["a/1.jpg", "b/2.jpg"]);
    let paths = [dir.path().join("b/2.jpg"), dir.path().join("a/1.jpg")];
    let data = Dataset::of_files(paths.iter().map(PathBuf::as_path)).expect("files");
    assert_eq!(contents(&data, dir.path()), ["- b/2.jpg: b/2.jpg", "- a/1.jpg: a/1.jpg"]);
    assert!(Dataset::of_files([Path::new("/")]).is_err());
}

#[test]
fn what_a_command_line_names() {
    let dir = folder(&["a/1.jpg", "b/2.jpg", "picture", "3.png"]);
    fs::write(dir.path().join("l.txt"), "3.png\n").expect("written");
    let at = |names: &[&str]| names.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>();
    let paths = at(&["picture", "3.png", "a", "b", "3.png", "l.txt"]);
    let sets = Dataset::open_all(&paths, &without_cache()).expect("open");
    assert_eq!(sets.iter().map(Dataset::len).collect::<Vec<_>>(), [2, 1, 1, 1, 1]);
    assert_eq!(contents(&sets[0], dir.path()), ["- picture: picture", "- 3.png: 3.png"]);
    let gone = Dataset::open_all(&at(&["3.png", "gone"]), &without_cache()).expect_err("gone");
    assert!(matches!(&gone, Error::Read { name, .. } if name.ends_with("gone")), "{gone}");
}

#[test]
fn any_thread_reads() {
    fn shared<T: Send + Sync>() {}
    shared::<Dataset>();
}
