//! `occlude-train dataset` as a process: files, exit codes, what is data and what is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `dataset LINE` with `@` standing for the folder, which also holds the caches.
fn run(dir: &Path, line: &str) -> Said {
    let line = line.replace('@', &dir.display().to_string());
    let output = Command::new(env!("CARGO_BIN_EXE_occlude-train"))
        .arg("dataset")
        .args(line.split_whitespace())
        .env("OCCLUDE_CACHE", dir.join("cache"))
        .output()
        .expect("started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn done(dir: &Path, line: &str) -> Said {
    let said = run(dir, line);
    assert_eq!(said.code, Some(0), "`{line}`: {}", said.stderr);
    said
}

fn index(dir: &Path, source: &str) -> Value {
    serde_json::from_str(&done(dir, &format!("index {source} --json")).stdout).expect("JSON")
}

/// Three classes of eight pictures.
fn pictures() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for i in 0..24u32 {
        let image = image::RgbImage::from_fn(30, 20, |x, y| image::Rgb([x as u8, (y * i) as u8, i as u8]));
        let path = dir.path().join(format!("train/n0{}/p{i}.jpg", i % 3));
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        image.save(path).expect("written");
    }
    dir
}

fn tar(path: &Path, entries: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(fs::File::create(path).expect("created"));
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, name, data.as_slice()).expect("appended");
    }
    builder.finish().expect("finished");
}

/// The files of a folder with their names, as `prefix` and position say.
fn files(dir: &Path, name: impl Fn(usize) -> String) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<_> = fs::read_dir(dir).expect("listed").map(|e| e.expect("entry").path()).collect();
    paths.sort();
    paths.iter().enumerate().map(|(i, path)| (name(i), fs::read(path).expect("read"))).collect()
}

#[test]
fn imagenet_from_its_archives() {
    let dir = pictures();
    let at = |name: &str| dir.path().join(name);
    let class = |class: &str| {
        tar(&at("inner.tar"), &files(&at("train").join(class), |i| format!("{class}_{i}.JPEG")));
        (format!("{class}.tar"), fs::read(at("inner.tar")).expect("read"))
    };
    tar(&at("train.tar"), &[class("n01"), class("n02")]);
    let said = done(dir.path(), "imagenet-unpack @/train.tar @/unpacked --workers 2");
    assert!(said.stdout.is_empty() && said.stderr.contains("16 pictures of 2 classes"), "{}", said.stderr);
    assert!(
        done(dir.path(), "imagenet-unpack @/train.tar @/unpacked")
            .stderr
            .contains("2 classes were already there")
    );
    assert_eq!(index(dir.path(), "@/unpacked")["pictures"], 16);

    tar(&at("val.tar"), &files(&at("train/n00"), |i| format!("ILSVRC2012_val_{:08}.JPEG", i + 1)));
    fs::write(at("truth.txt"), "2\n1\n2\n2\n1\n1\n1\n1\n").expect("written");
    fs::write(at("synsets.txt"), "1 n02\n2 n01\n").expect("written");
    let line = "imagenet-val @/val.tar @/val --ground-truth @/truth.txt --synsets @/synsets.txt";
    assert!(done(dir.path(), line).stderr.contains("8 pictures of 2 classes"));
    assert_eq!(fs::read_dir(at("val/n01")).expect("listed").count(), 3);

    assert_eq!(run(dir.path(), "imagenet-val @/val.tar @/val").code, Some(2), "without a truth");
    let both = "imagenet-val @/val.tar @/val --ground-truth @/truth.txt --annotations @";
    assert_eq!(run(dir.path(), both).code, Some(2));
    let refused = run(dir.path(), "imagenet-val @/val.tar @/val --ground-truth @/truth.txt");
    assert!(refused.code == Some(1) && refused.stderr.contains("--synsets"), "{}", refused.stderr);
}

#[test]
fn subsets_and_shards_open_as_data_sets() {
    let dir = pictures();
    let said = done(dir.path(), "subset @/train @/tenth --per-class 2 --list @/tenth.txt --seed 3");
    assert!(said.stderr.contains("6 of 24 pictures"), "{}", said.stderr);
    let (links, list) = (index(dir.path(), "@/tenth"), index(dir.path(), "@/tenth.txt"));
    assert_eq!((&links["pictures"], &links["classes"]), (&Value::from(6), &list["classes"]));
    fs::write(dir.path().join("some.txt"), "n02\n").expect("written");
    done(dir.path(), "subset @/train @/one --classes @/some.txt --percent 25 --first --link symbolic");
    assert_eq!(index(dir.path(), "@/one")["classes"], serde_json::json!(["n02"]));

    let said = done(dir.path(), "shards @/train @/shards --size 8KiB --shuffle");
    assert!(said.stderr.contains("24 pictures in"), "{}", said.stderr);
    let shards = index(dir.path(), "@/shards");
    assert_eq!((&shards["pictures"], &shards["classes"]), (&Value::from(24), &list["classes"]));
    assert!(done(dir.path(), "index @/shards").stdout.contains("24 pictures, 3 classes"));

    for (line, code, names) in [
        ("subset @/train", 2, "--list"),
        ("subset @/train @/x --percent 10 --per-class 1", 2, "--per-class"),
        ("subset @/train @/x --percent 0", 2, "at most 100"),
        ("subset @/train @/x --first", 2, "--percent"),
        ("subset @/train --list @/x.lst", 1, ".txt"),
        ("subset @/train @/tenth", 1, "tenth"),
        ("subset @/shards @/x", 1, "shards"),
        ("shards @/train @/x --size 5parsec", 2, "parsec"),
        ("index @/gone", 1, "gone"),
    ] {
        let said = run(dir.path(), line);
        assert_eq!(said.code, Some(code), "`{line}`: {}", said.stderr);
        assert!(said.stderr.contains(names) && said.stdout.is_empty(), "`{line}`: {}", said.stderr);
    }
    assert!(!dir.path().join("x").exists());
}

#[test]
fn a_check_reports_and_tells_by_its_exit_code() {
    let dir = pictures();
    let sound = done(dir.path(), "check @/train --workers 2");
    assert!(sound.stdout.contains("24 pictures, 3 classes") && sound.stdout.contains("broken: 0"));
    fs::write(dir.path().join("train/n00/cut.jpg"), [0xff, 0xd8, 0xff]).expect("written");
    fs::copy(dir.path().join("train/n00/p0.jpg"), dir.path().join("train/n01/copy.jpg")).expect("copied");
    fs::create_dir(dir.path().join("val")).expect("made");
    fs::copy(dir.path().join("train/n01/p1.jpg"), dir.path().join("val/leak.jpg")).expect("copied");
    let said = run(dir.path(), "check @/train --against @/val --json --min-side 21 --min-per-class 9");
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let report: Value = serde_json::from_str(&said.stdout).expect("JSON");
    let count = |key: &str| report[key].as_array().map(Vec::len);
    assert_eq!(["broken", "duplicates", "small", "few"].map(count), [Some(1), Some(1), Some(25), Some(2)]);
    assert_eq!(report["against"]["shared"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["width"]["median"], 30);
    let said = run(dir.path(), "check @/train --against @/val --min-side 21");
    assert_eq!(said.code, Some(3));
    for line in ["broken: 1", "in different classes", "... and 5 more", "in both: 1", "leak.jpg"] {
        assert!(said.stdout.contains(line), "{line}: {}", said.stdout);
    }
}

#[test]
fn what_is_no_sound_picture_is_told_and_nothing_is_waited_for() {
    let dir = pictures();
    let at = |name: &str| dir.path().join("train").join(name);
    // half a picture with an end again, files of other kinds, a pipe, a link that leads back, a class of nothing
    let whole = fs::read(at("n00/p0.jpg")).expect("read");
    let half = [&whole[..whole.len() - whole.len() / 8], &[0xff, 0xd9]].concat();
    fs::write(at("n00/half.jpg"), half).expect("written");
    fs::write(at("n01/x.heic"), b"").expect("written");
    fs::create_dir(at("empty")).expect("made");
    std::os::unix::fs::symlink(".", at("n01/here")).expect("linked");
    assert!(Command::new("mkfifo").arg(at("n02/pipe.jpg")).status().expect("started").success());
    let said = run(dir.path(), "check @/train");
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    let left_out = "left out: 2 files: 1 .heic, 1 not a regular file; 1 link to folders that are listed \
                    already; classes without a picture: empty";
    for line in ["25 pictures, 4 classes", "broken: 1", "half.jpg`: truncated JPEG", left_out] {
        assert!(said.stdout.contains(line), "{line}: {}", said.stdout);
    }
    let json = index(dir.path(), "@/train");
    assert_eq!((&json["pictures"], &json["left_out"]["endings"][".heic"]), (&25.into(), &1.into()));
    let said = done(dir.path(), "subset @/train --percent 100 --list @/all.txt");
    assert!(said.stderr.contains("note: `") && said.stderr.contains(left_out), "{}", said.stderr);
}
