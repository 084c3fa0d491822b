//! Unpacking, sorting, selecting, packing and checking, on small real pictures.

mod lists;

use std::fs::{self, File};
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use image::{ImageFormat, Rgb, RgbImage};
use occlude_dataset::prepare::{
    CheckOptions, Link, PackOptions, Sorted, Truth, Unpacked, check, imagenet_train, imagenet_val,
    link_subset, pack, write_list,
};
use occlude_dataset::{Cache, Dataset, Error, Options, Progress, with_workers};

/// A picture that only its number has.
fn picture(number: u32, format: ImageFormat) -> Vec<u8> {
    sized(number, 24, 20, format)
}

fn sized(number: u32, width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let image =
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 9) as u8, (y * 11) as u8, (number * 7) as u8]));
    let mut out = Cursor::new(Vec::new());
    image.write_to(&mut out, format).expect("encoded");
    out.into_inner()
}

fn jpeg(number: u32) -> Vec<u8> {
    picture(number, ImageFormat::Jpeg)
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("has one")).expect("makes folders");
    fs::write(path, bytes).expect("written");
}

fn tar(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data.as_slice()).expect("appended");
    }
    builder.into_inner().expect("finished")
}

fn open(path: &Path) -> Dataset {
    let options = Options { cache: Cache::Off, ..Options::default() };
    Dataset::open(path, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// `class/name` of every picture.
fn names(data: &Dataset, below: &Path) -> Vec<String> {
    data.iter().map(|s| s.name().replace(&format!("{}/", below.display()), "")).collect()
}

fn bytes(data: &Dataset) -> Vec<Vec<u8>> {
    let read = |i| {
        let mut buf = Vec::new();
        data.read(i, &mut buf).expect("read");
        buf
    };
    (0..data.len()).map(read).collect()
}

/// Classes `c0`, `c1`, ... with `count` pictures each.
fn tree(dir: &Path, classes: u32, count: u32) {
    for class in 0..classes {
        for i in 0..count {
            put(&dir.join(format!("c{class}/p{i:03}.jpg")), &jpeg(class * count + i));
        }
    }
}

/// What was announced and what was done.
#[derive(Default)]
struct Told(Mutex<(u64, u64)>);

impl Progress for Told {
    fn begin(&self, total: u64, _: &'static str) {
        self.0.lock().expect("sound").0 += total;
    }
    fn advance(&self, n: u64) {
        self.0.lock().expect("sound").1 += n;
    }
}

impl Told {
    fn check(&self) {
        let (total, done) = *self.0.lock().expect("sound");
        assert!(total > 0 && total == done, "{done} of {total}");
    }
}

#[test]
fn training_archive_of_archives() {
    let dir = tempfile::tempdir().expect("a folder");
    let (archive, out) = (dir.path().join("train.tar"), dir.path().join("out"));
    let class =
        |n: u32| tar(&[(&format!("n{n}_1.JPEG"), jpeg(n)), (&format!("x/n{n}_2.JPEG"), jpeg(n + 50))]);
    put(&archive, &tar(&[("n2.tar", class(2)), ("n1.tar", class(1)), ("readme", b"x".to_vec())]));
    // left by a call that was killed
    put(&out.join(".n1.partial/half.JPEG"), b"half");
    let told = Told::default();
    let done = with_workers(2, || imagenet_train(&archive, &out, &told)).expect("unpacked");
    told.check();
    assert_eq!(done, Unpacked { classes: 2, skipped: 0, pictures: 4 });
    let data = open(&out);
    assert_eq!(names(&data, &out), ["n1/n1_1.JPEG", "n1/n1_2.JPEG", "n2/n2_1.JPEG", "n2/n2_2.JPEG"]);
    assert_eq!(bytes(&data)[3], jpeg(52));
    assert_eq!(fs::read_dir(&out).expect("listed").count(), 2, "nothing hidden is left");

    fs::remove_dir_all(out.join("n2")).expect("removed");
    let told = Told::default();
    let again = imagenet_train(&archive, &out, &told).expect("unpacked");
    told.check();
    assert_eq!(again, Unpacked { classes: 2, skipped: 1, pictures: 2 });
}

#[test]
fn broken_training_archives() {
    let dir = tempfile::tempdir().expect("a folder");
    let (archive, out) = (dir.path().join("train.tar"), dir.path().join("out"));
    let fails = |bytes: &[u8]| {
        put(&archive, bytes);
        let error = imagenet_train(&archive, &out, &()).expect_err("refused").to_string();
        let left = fs::read_dir(&out).map_or(0, |entries| {
            entries
                .filter(|e| e.as_ref().is_ok_and(|e| e.file_name() == "n1" || e.file_name() == ".n1.partial"))
                .count()
        });
        assert_eq!(left, 0, "{error}");
        error
    };
    let mut inner = tar(&[("a.JPEG", jpeg(1)), ("b.JPEG", jpeg(2))]);
    assert!(fails(&tar(&[("a.jpg", jpeg(1))])).contains("one tar file per class"));
    assert!(fails(&tar(&[("n1.tar", inner.clone()), ("d/n1.tar", inner.clone())])).contains("twice"));
    assert!(fails(&tar(&[("n1.tar", tar(&[("a.txt", vec![1])]))])).contains("no picture"));
    assert!(
        fails(&tar(&[("n1.tar", tar(&[("a.JPEG", vec![1]), ("x/a.JPEG", vec![2])]))])).contains("a.JPEG")
    );
    assert!(fails(&tar(&[("n1.tar", inner.clone())])[..2000]).contains("ends beyond the file"));
    inner.truncate(900);
    assert!(fails(&tar(&[("n1.tar", inner)])).contains("n1.tar"));
    assert!(imagenet_train(&dir.path().join("gone"), &out, &()).is_err());
    // cut off between two pictures: the file of the class, and the byte, are named
    let whole = tar(&[("a.JPEG", jpeg(1)), ("b.JPEG", jpeg(2))]);
    let first = 512 + jpeg(1).len().next_multiple_of(512);
    let error = fails(&tar(&[("n1.tar", whole[..first].to_vec())]));
    assert!(error.contains("n1.tar") && error.contains(&format!("byte {first} of {first}")), "{error}");
    let outer = tar(&[("n1.tar", whole.clone()), ("n2.tar", whole.clone())]);
    let error = fails(&outer[..512 + whole.len().next_multiple_of(512)]);
    assert!(error.contains("train.tar") && error.contains("cut off"), "{error}");
}

#[test]
fn validation_pictures_by_devkit_and_by_annotations() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let name = |n: u32| format!("ILSVRC2012_val_{n:08}.JPEG");
    put(
        &at("val.tar"),
        &tar(&[(&format!("val/{}", name(2)), jpeg(2)), (&name(1), jpeg(1)), (&name(3), jpeg(3))]),
    );
    put(&at("truth.txt"), b"2\n1\n2\n");
    put(&at("synsets.txt"), b"1 n09 kit fox\n2 n01 setter\n");
    let truth = Truth::List { file: at("truth.txt"), synsets: Some(at("synsets.txt")) };
    let told = Told::default();
    let sorted = imagenet_val(&at("val.tar"), &at("out"), &truth, Link::Auto, &told).expect("sorted");
    told.check();
    assert_eq!(sorted, Sorted { pictures: 3, classes: 2, skipped: 0 });
    let expected = [format!("n01/{}", name(1)), format!("n01/{}", name(3)), format!("n09/{}", name(2))];
    let data = open(&at("out"));
    assert_eq!(names(&data, &at("out")), expected);
    assert_eq!(bytes(&data), [jpeg(1), jpeg(3), jpeg(2)]);
    let again = imagenet_val(&at("val.tar"), &at("out"), &truth, Link::Auto, &()).expect("sorted");
    assert_eq!(again.skipped, 3);

    // the same from a folder, by annotations, with links
    for n in 1..=3 {
        put(&at("flat").join(name(n)), &jpeg(n));
        let class = if n == 2 { "n09" } else { "n01" };
        let xml = format!("<annotation><object><name>{class}</name></object></annotation>");
        put(&at("xml/val").join(name(n).replace("JPEG", "xml")), xml.as_bytes());
    }
    let truth = Truth::Annotations(at("xml"));
    for (out, link) in [("hard", Link::Hard), ("symbolic", Link::Symbolic)] {
        imagenet_val(&at("flat"), &at(out), &truth, link, &()).expect("sorted");
        assert_eq!(names(&open(&at(out)), &at(out)), expected);
        let meta = fs::symlink_metadata(at(out).join(&expected[0])).expect("there");
        assert_eq!(
            (meta.is_symlink(), meta.nlink()),
            (link == Link::Symbolic, if link == Link::Hard { 2 } else { 1 })
        );
    }
}

#[test]
fn validation_pictures_without_a_class_stop_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    put(&dir.path().join("flat/x_7.jpg"), &jpeg(1));
    put(&dir.path().join("truth.txt"), b"n01\nn02\n");
    let truth = Truth::List { file: dir.path().join("truth.txt"), synsets: None };
    let out = dir.path().join("out");
    let error = imagenet_val(&dir.path().join("flat"), &out, &truth, Link::Auto, &()).expect_err("refused");
    assert!(error.to_string().contains("x_7.jpg") && !out.exists(), "{error}");
    put(&dir.path().join("xml/x_7.xml"), b"<annotation/>");
    let truth = Truth::Annotations(dir.path().join("xml"));
    let silent = imagenet_val(&dir.path().join("flat"), &out, &truth, Link::Auto, &()).expect_err("refused");
    assert!(matches!(silent, Error::Annotation { .. }), "{silent}");
    let truth = Truth::Annotations(dir.path().join("flat"));
    let none = imagenet_val(&dir.path().join("flat"), &out, &truth, Link::Auto, &()).expect_err("refused");
    assert!(matches!(none, Error::Empty { .. }), "{none}");
}

#[test]
fn texts_with_byte_order_marks() {
    let dir = tempfile::tempdir().expect("a folder");
    tree(&dir.path().join("data"), 2, 2);
    let wide = |text: &str| {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [b"\xff\xfe".as_slice(), &units].concat()
    };
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let (list, classes) = (dir.path().join("l.txt"), dir.path().join("classes"));
    for encode in [&wide as &dyn Fn(&str) -> Vec<u8>, &marked] {
        put(&list, &encode("# root: data\r\nc0/p000.jpg\r\nc1/p001.jpg\r\n"));
        let data = open(&list);
        assert_eq!((data.len(), data.classes().len()), (2, 2));
        assert!(data.path(0).is_some_and(|path| path.is_file()), "{}", data.name(0));
        put(&classes, &encode("c1\r\n"));
        assert_eq!(occlude_dataset::prepare::read_classes(&classes).expect("names"), ["c1"]);
    }
    put(&list, b"\xff\xfe\x00\xd8");
    let error =
        Dataset::open(&list, &Options { cache: Cache::Off, ..Options::default() }).expect_err("broken");
    assert!(error.to_string().contains("UTF-16"), "{error}");
}

#[test]
fn shards_hold_the_same_pictures() {
    let dir = tempfile::tempdir().expect("a folder");
    let source = dir.path().join("source");
    tree(&source, 3, 10);
    put(&source.join("c1/a name, with. dots.PNG"), &picture(99, ImageFormat::Png));
    let data = open(&source);
    let out = dir.path().join("shards");
    let told = Told::default();
    let packed = pack(&data, &out, &PackOptions { size: 10_000, shuffle: None }, &told).expect("packed");
    told.check();
    let shards = open(&out);
    assert_eq!((shards.len(), shards.classes()), (data.len(), data.classes()));
    assert_eq!(bytes(&shards), bytes(&data));
    assert!((0..data.len()).all(|i| shards.class(i) == data.class(i)));
    let files: Vec<_> = fs::read_dir(&out).expect("listed").map(|e| e.expect("entry").path()).collect();
    let sizes = files.iter().filter(|f| f.extension().is_some_and(|e| e == "tar"));
    let sizes: Vec<u64> = sizes.map(|f| fs::metadata(f).expect("there").len()).collect();
    assert!(
        packed.shards > 3 && sizes.len() == packed.shards && sizes.iter().all(|&s| s <= 10_000),
        "{sizes:?}"
    );
    assert_eq!((packed.pictures, packed.bytes), (31, sizes.iter().sum()));

    // shuffled: the same pictures in another order, the same bytes each time
    let shuffled = PackOptions { size: 1 << 20, shuffle: Some(1) };
    let [a, b] = ["a", "b"].map(|name| {
        let out = dir.path().join(name);
        pack(&data, &out, &shuffled, &()).expect("packed");
        out
    });
    let shard = |dir: &Path| fs::read(dir.join("shard-000000.tar")).expect("one shard");
    assert_eq!(shard(&a), shard(&b));
    let (mut all, mut original) = (bytes(&open(&a)), bytes(&data));
    assert_ne!(all, original);
    all.sort();
    original.sort();
    assert_eq!(all, original);

    // shards can be packed again, and cannot be linked to
    pack(&shards, &dir.path().join("again"), &shuffled, &()).expect("packed");
    assert!(matches!(
        link_subset(&shards, &[0], &dir.path().join("x"), Link::Auto, &()),
        Err(Error::Unsuitable { .. })
    ));
    assert!(matches!(write_list(&shards, &[0], &dir.path().join("x.txt")), Err(Error::Unsuitable { .. })));
    assert!(matches!(pack(&data, &out, &shuffled, &()), Err(Error::Exists { .. })));
}

#[test]
fn a_picture_that_cannot_be_packed_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    tree(&dir.path().join("data"), 1, 3);
    std::os::unix::fs::symlink("gone", dir.path().join("data/c0/gone.jpg")).expect("links");
    let options = PackOptions { size: 1 << 20, shuffle: None };
    let error =
        pack(&open(&dir.path().join("data")), &dir.path().join("out"), &options, &()).expect_err("refused");
    assert!(error.to_string().contains("gone.jpg"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
}

#[test]
fn a_check_finds_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let (train, val) = (dir.path().join("train"), dir.path().join("val"));
    tree(&train, 2, 6);
    put(&train.join("c1/twin.jpg"), &jpeg(0));
    put(&train.join("c2/tiny.png"), &sized(1, 40, 3, ImageFormat::Png));
    put(&train.join("c2/cut.jpg"), &jpeg(3)[..200]);
    put(&train.join("c2/empty.jpg"), b"");
    put(&train.join("c2/void.jpg"), b"");
    put(&val.join("c0/new.jpg"), &jpeg(77));
    put(&val.join("c0/old.jpg"), &jpeg(2));
    std::os::unix::fs::symlink("gone", val.join("c0/gone.jpg")).expect("links");
    let told = Told::default();
    let report = check(&open(&train), Some(&open(&val)), CheckOptions::default(), &told).expect("checked");
    told.check();
    let name = |text: &str| train.join(text).display().to_string();
    let broken: Vec<&str> = report.broken.iter().map(|b| b.name.as_str()).collect();
    assert_eq!(broken, [name("c2/cut.jpg"), name("c2/empty.jpg"), name("c2/void.jpg")]);
    assert!(report.broken[1].reason.contains("empty"));
    assert_eq!(report.duplicates.len(), 1, "empty files are no copies of each other");
    assert_eq!(report.duplicates[0].names, [name("c0/p000.jpg"), name("c1/twin.jpg")]);
    assert!(report.duplicates[0].conflicting);
    assert_eq!((report.small.len(), report.small[0].width, report.small[0].height), (1, 40, 3));
    let few: Vec<_> = report.few.iter().map(|f| (f.class.as_str(), f.pictures)).collect();
    assert_eq!(few, [("c2", 1)]);
    assert_eq!((report.pictures, report.classes, report.unlabelled), (17, 3, 0));
    let width = report.width.expect("pictures");
    assert_eq!((width.min, width.median, width.max, width.mean), (24, 24, 40, 25));
    assert_eq!((report.formats["JPEG"], report.formats["PNG"]), (13, 1));
    let against = report.against.as_ref().expect("given");
    assert_eq!((against.pictures, against.unreadable, against.shared.len()), (3, 1, 1));
    assert!(against.shared[0].here.ends_with("p002.jpg") && against.shared[0].there.ends_with("old.jpg"));
}

#[test]
fn a_sound_data_set_has_nothing_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    tree(dir.path(), 2, 5);
    File::create(dir.path().join("c0/notes.txt")).expect("created");
    let report = check(&open(dir.path()), None, CheckOptions::default(), &()).expect("checked");
    assert!(report.broken.is_empty() && report.duplicates.is_empty() && report.few.is_empty());
    assert!(report.small.is_empty() && report.against.is_none());
}
