//! `embed` into a folder: one file for each shard, by several processes, some of which are killed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArrayType, DataType, FloatType};
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};

use crate::common::*;

/// A row as it is read back.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) path: String,
    pub(crate) class: Option<String>,
    pub(crate) embedding: Option<Vec<f32>>,
    pub(crate) reason: Option<String>,
}

/// `occlude-serve embed` of a fixture's model, without what the machine says of arrays.
pub(crate) fn embed(model: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_occlude-serve"));
    let model = format!("small={}", fixture(model).display());
    command.arg("embed").args(arguments).args([
        "--model",
        &model,
        "--provider",
        "cpu",
        "--decode-threads",
        "2",
    ]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["SLURM_", "JOB_COMPLETION_INDEX", "AWS_"].iter().any(|known| name.starts_with(known)) {
            command.env_remove(name);
        }
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    embed("tiny.onnx", arguments).output().unwrap()
}

fn log(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", log(output));
    log(output)
}

fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", log(output));
    assert!(output.stdout.is_empty(), "stdout carries data only");
    log(output)
}

/// Values, and of each place its level of definition and repetition.
fn column<T: DataType>(reader: ColumnReader, rows: usize) -> (Vec<T::T>, Vec<i16>, Vec<i16>) {
    let mut column = get_typed_column_reader::<T>(reader);
    let (mut values, mut definition, mut repetition, mut read) = (Vec::new(), Vec::new(), Vec::new(), 0);
    while read < rows {
        let levels = (Some(&mut definition), Some(&mut repetition));
        read += column.read_records(rows - read, levels.0, levels.1, &mut values).unwrap().0;
    }
    (values, definition, repetition)
}

fn texts(reader: ColumnReader, rows: usize, optional: bool) -> Vec<Option<String>> {
    let (values, definition, _) = column::<ByteArrayType>(reader, rows);
    let mut values = values.into_iter().map(|value| value.as_utf8().unwrap().to_owned());
    let there = |row: usize| !optional || definition[row] == 1;
    (0..rows).map(|row| if there(row) { values.next() } else { None }).collect()
}

/// The rows of a file of the result.
pub(crate) fn rows<R: ChunkReader + 'static>(file: R) -> Vec<Row> {
    let reader = SerializedFileReader::new(file).unwrap();
    let mut rows = Vec::new();
    for group in 0..reader.num_row_groups() {
        let group = reader.get_row_group(group).unwrap();
        let count = group.metadata().num_rows() as usize;
        let text = |i, optional| texts(group.get_column_reader(i).unwrap(), count, optional);
        let (paths, classes, reasons) = (text(0, false), text(1, true), text(3, true));
        let (numbers, definition, repetition) =
            column::<FloatType>(group.get_column_reader(2).unwrap(), count);
        let mut numbers = numbers.into_iter();
        let mut embeddings: Vec<Option<Vec<f32>>> = Vec::new();
        for (level, repeated) in definition.into_iter().zip(repetition) {
            if repeated == 0 {
                embeddings.push((level > 0).then(Vec::new));
            }
            if level == 2 {
                embeddings.last_mut().unwrap().as_mut().unwrap().push(numbers.next().unwrap());
            }
        }
        for (((path, class), embedding), reason) in
            paths.into_iter().zip(classes).zip(embeddings).zip(reasons)
        {
            assert!(embedding.is_some() != reason.is_some(), "{path:?} has an embedding or a reason");
            rows.push(Row { path: path.unwrap(), class, embedding, reason });
        }
    }
    rows
}

/// Rows of all files in a folder, by their names.
fn result(out: &Path) -> BTreeMap<String, Vec<Row>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(out).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.extension().is_some_and(|ending| ending == "parquet") {
            let bytes = Bytes::from(std::fs::read(&path).unwrap());
            found.insert(name.rsplit_once('-').unwrap().0.to_owned(), rows(bytes));
        }
    }
    found
}

/// A picture of noise, different for every number.
pub(crate) fn noise(number: u32, side: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 25) as u8
    };
    let tint = [next(), next(), next()];
    let pixels: Vec<u8> = (0..side * side * 3).map(|i| tint[i as usize % 3] + next()).collect();
    png_of(side, side, &pixels)
}

/// A tar of these files.
pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Shards of `each` pictures of `side` pixels, and the names that their rows must have.
pub(crate) fn shards(count: u32, each: u32, side: u32) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let mut names = Vec::new();
    let shard = |s: u32| {
        let picture = |i: u32| (format!("{i:04}.png"), noise(s * each + i, side));
        (format!("{s:05}.tar"), archive(&(0..each).map(picture).collect::<Vec<_>>()))
    };
    let made: Vec<_> = (0..count).map(shard).collect();
    for (name, _) in &made {
        names.extend((0..each).map(|i| format!("{name}:{i:04}.png")));
    }
    (made, names)
}

/// Starts the four tasks of a Slurm array, kills three of them at moments that `seed` draws, and lets the array run again.
pub(crate) fn killed_and_again(task: &(dyn Fn() -> Command + Sync), seed: u64) {
    const TASKS: usize = 4;
    let start = |i: usize| -> Child {
        let variables = [("ID", i + 1), ("COUNT", TASKS), ("MIN", 1), ("MAX", TASKS), ("STEP", 1)];
        let variables =
            variables.map(|(name, value)| (format!("SLURM_ARRAY_TASK_{name}"), value.to_string()));
        task().envs(variables).stderr(Stdio::piped()).spawn().unwrap()
    };
    std::thread::scope(|scope| {
        let finishes = scope.spawn(move || start(0).wait_with_output().unwrap());
        for i in 1..TASKS {
            let drawn = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(i as u64 * 1_442_695_040_888_963_407);
            let moment = (drawn >> 40) as f64 / (1u64 << 24) as f64;
            scope.spawn(move || kill(start(i), i - 1, moment));
        }
        done(&finishes.join().unwrap());
    });
    let again: Vec<Child> = (0..TASKS).map(start).collect();
    again.into_iter().for_each(|child| drop(done(&child.wait_with_output().unwrap())));
}

/// Kills a task within the first half of the shard that follows its first `after` ones: at `moment` of that half.
fn kill(mut child: Child, after: usize, moment: f64) {
    // before the first shard the model is loaded
    let mut time = 0.2;
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut shards = lines.filter(|line| line.contains(" pictures in "));
    for _ in 0..after {
        let line = shards.next().expect("a task ended before its time");
        let told = line.split(" pictures in ").nth(1).and_then(|rest| rest.split(' ').next());
        time = told.and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    }
    std::thread::sleep(Duration::from_secs_f64(time * moment / 2.0));
    assert!(child.try_wait().unwrap().is_none(), "a task ended before it was killed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Every name once, each with the embedding that the same picture has elsewhere.
pub(crate) fn whole(result: &BTreeMap<String, Vec<Row>>, names: &[String]) {
    let mut found: Vec<&str> = result.values().flatten().map(|row| row.path.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, names, "rows are lost or doubled");
    assert!(result.values().flatten().all(|row| row.embedding.as_ref().is_some_and(|e| e.len() == 8)));
}

fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).unwrap();
    (dir, input, out)
}

fn put(folder: &Path, files: &[(String, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names, classes, order, broken pictures and equal ones, in tars and beside `classes.txt`.
#[test]
fn a_tar_becomes_a_file_with_a_row_for_each_picture() {
    let (_dir, input, out) = place();
    let same = noise(1, 40);
    let first = [
        ("a.cls", b"1".to_vec()),
        ("a.png", same.clone()),
        ("b.png", b"no picture".to_vec()),
        ("c.png", same.clone()),
        ("c.cls", b"other\n".to_vec()),
        ("d.png", b"no picture".to_vec()),
        ("notes.txt", b"x".to_vec()),
    ];
    let first: Vec<_> = first.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    put(&input, &[("x.tar".to_owned(), archive(&first)), ("y.tar".to_owned(), archive(&[]))]);
    put(&input, &[("classes.txt".to_owned(), b"cat\ndog\n".to_vec())]);
    let said = done(&run(&[text(&input), "--out", text(&out), "--shard", "0/1", "--dedup"]));
    assert!(said.contains("2 written with 4 rows (2 broken), 0 already there"), "{said}");
    assert!(said.contains("4 pictures") && said.contains("1 with the bytes of another"), "{said}");
    let found = result(&out);
    let [a, b, c, d] = &found["x.tar"][..] else { panic!("{found:?}") };
    assert_eq!((a.path.as_str(), a.class.as_deref()), ("x.tar:a.png", Some("dog")));
    assert_eq!((c.path.as_str(), c.class.as_deref()), ("x.tar:c.png", Some("other")));
    assert!(a.embedding.is_some() && a.embedding == c.embedding);
    assert!(b.reason.as_ref().is_some_and(|reason| reason.contains("not a")), "{b:?}");
    assert_eq!(d.reason.as_deref(), Some("the same bytes as row 1 of this file, counted from 0"));
    assert!(found["y.tar"].is_empty());
    // without `--dedup`, from a single tar, the rows are the same but for the reason
    let single = input.join("x.tar");
    let plain = out.with_file_name("plain/");
    done(&run(&[text(&single), "--out", &format!("{}/", plain.display())]));
    let again = result(&plain);
    for (row, other) in again["x.tar"].iter().zip([a, b, c, d]) {
        assert_eq!((&row.path, &row.class), (&other.path, &other.class));
        match (&row.embedding, &other.embedding) {
            // batches are put together differently
            (Some(one), Some(two)) => assert!(cosine(one, two) > 0.999_999),
            (one, two) => assert!(one.is_none() && two.is_none(), "{row:?}, {other:?}"),
        }
    }
    assert_eq!(again["x.tar"][3].reason, b.reason);
    // and the embedding is that of the same picture in a folder
    let photos = out.with_file_name("photos");
    put(&photos, &[("dog/a.png".to_owned(), same)]);
    let lines = out.with_file_name("e.jsonl");
    done(&run(&[text(&photos), "--out", text(&lines)]));
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(lines).unwrap()).unwrap();
    assert!(cosine(&floats(&line["embedding"]), a.embedding.as_ref().unwrap()) > 0.999_999);
}

#[test]
fn a_folder_is_cut_into_stretches_that_are_done_once() {
    let (_dir, input, out) = place();
    let picture = |i: u32| (format!("{}/{i}.png", ["cat", "dog"][i as usize % 2]), noise(i, 40));
    put(&input, &(0..5).map(picture).collect::<Vec<_>>());
    let flags = [text(&input), "--out", text(&out), "--per-shard", "2"];
    let with = |more: &[&str]| run(&[&flags[..], more].concat());
    done(&with(&["--shard", "1/2"]));
    let missing = with(&["--list-missing"]);
    done(&missing);
    let listed = String::from_utf8(missing.stdout).unwrap();
    assert_eq!(listed, "pictures-00000-of-00003\npictures-00002-of-00003\n");
    assert!(String::from_utf8(with(&["--list-missing", "--shard", "1/2"]).stdout).unwrap().is_empty());
    let said = done(&with(&[]));
    assert!(
        said.contains("3 of 3 shards: 2 written with 3 rows (0 broken), 1 already there, 0 failed"),
        "{said}"
    );
    let found = result(&out);
    let all: Vec<_> = found.values().flatten().map(|r| (r.path.as_str(), r.class.as_deref())).collect();
    let cats = ["cat/0.png", "cat/2.png", "cat/4.png"].map(|path| (path, Some("cat")));
    let dogs = ["dog/1.png", "dog/3.png"].map(|path| (path, Some("dog")));
    assert_eq!(all, [&cats[..], &dogs].concat());
    assert!(std::fs::read_dir(&out).unwrap().count() == 3, "nothing is left behind");

    // what changes is told, and nothing is doubled
    std::fs::write(input.join("dog/3.png"), noise(77, 44)).unwrap();
    let said = refused(&with(&[]), 1);
    assert!(
        said.contains("1 of 3 shards failed; the first: `pictures-00002-of-00003`: it has changed since"),
        "{said}"
    );
    put(&input, &[("a/0.png".to_owned(), noise(9, 40)), ("a/1.png".to_owned(), noise(10, 40))]);
    let said = refused(&with(&[]), 1);
    assert!(said.contains("cut into 3 shards, now there would be 4"), "{said}");
    assert_eq!(result(&out), found);
    let said = refused(&embed("adopted.onnx", &flags).output().unwrap(), 1);
    assert!(said.contains("has embeddings of the model"), "{said}");
}

#[test]
fn a_broken_shard_stops_no_other() {
    let (_dir, input, out) = place();
    let (mut made, _) = shards(3, 2, 40);
    let length = made[1].1.len();
    made[1].1.truncate(length - 2048);
    put(&input, &made);
    let said = refused(&run(&[text(&input), "--out", text(&out), "--shard", "0/1"]), 1);
    assert!(
        said.contains("1 of 3 shards failed; the first: `00001.tar`") && said.contains("beyond the file"),
        "{said}"
    );
    assert_eq!(result(&out).keys().collect::<Vec<_>>(), ["00000.tar", "00002.tar"]);
    put(&input, &shards(3, 2, 40).0);
    done(&run(&[text(&input), "--out", text(&out), "--shard", "0/1"]));
    whole(&result(&out), &shards(3, 2, 40).1);
}

#[test]
fn killed_processes_lose_and_double_nothing() {
    let (_dir, input, out) = place();
    let (made, names) = shards(12, 20, 300);
    put(&input, &made);
    let arguments = [text(&input), "--out", &format!("{}/", out.display())].map(str::to_owned);
    let task = || embed("tiny.onnx", &arguments.each_ref().map(String::as_str));
    killed_and_again(&task, 7);
    whole(&result(&out), &names);
}

#[test]
fn what_cannot_be_embedded_by_shards_is_told_with_a_way_out() {
    let (_dir, input, out) = place();
    put(&input, &shards(1, 1, 40).0);
    let (folder, out) = (text(&input), text(&out));
    let inside = format!("{folder}/out/");
    let tar = format!("{folder}/00000.tar");
    for (arguments, code, part) in [
        (&[folder, "--out", out, "--shard", "4/4"][..], 2, "parts are 0 to 3"),
        (&[folder, "--out", out, "--shard", "one"], 2, "expected I/N"),
        (&[folder, "--out", out, "--shard", "0/2", "--shards", "2"], 2, "cannot be used with"),
        (&[folder, "--out", out, "--per-shard", "0"], 2, "--per-shard"),
        (&[folder, "--out", out, "--shards", "3"], 1, "`--shard I/3`"),
        (&[folder, "--out", &inside], 1, "lies in the input"),
        (&[folder, "--out", folder], 1, "lies in the input"),
        (&[folder, "--out", "x.parquet", "--shard", "0/1"], 1, "end it in `/`"),
        (&[&tar, "--out", "x.parquet"], 1, "end `--out` in `/`"),
        (&[folder, "--out", out, "--shard", "0/1", "--format", "npy"], 1, "written as Parquet"),
        (&[folder, "--out", out, "--shard", "0/1", "--force"], 1, "delete what is to be done again"),
        (&["gone", "--out", out, "--shard", "0/1"], 1, "no such folder: `gone`"),
        (&["gone.tar", "--out", "out/"], 1, "gone.tar"),
        (&["ftp://a/b", "--out", out], 1, "`ftp://a/b`: "),
        (&[folder, "--out", "s3://"], 1, "`s3:"),
    ] {
        let said = refused(&run(arguments), code);
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    let mut indexed = embed("tiny.onnx", &[folder, "--out", out, "--dedup"]);
    let said = refused(&indexed.env("JOB_COMPLETION_INDEX", "1").output().unwrap(), 1);
    assert!(said.contains("`JOB_COMPLETION_INDEX` is 1") && said.contains("--shards N"), "{said}");
    let mut indexed = embed("tiny.onnx", &[folder, "--out", out, "--shards", "1"]);
    let said = refused(&indexed.env("JOB_COMPLETION_INDEX", "1").output().unwrap(), 1);
    assert!(said.contains("parts are 0 to 0"), "{said}");
    assert!(!Path::new(out).exists(), "nothing was written");
}
