//! Tests of embeddings in files like the server's.

use super::*;
use parquet::data_type::ByteArray;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::sync::Arc;

const SCHEMA: &str = "message embeddings {
    required binary path (UTF8);
    optional binary class (UTF8);
    required group embedding (LIST) { repeated group list { required float element; } }
}";

/// As the server writes shards.
const WITH_REASONS: &str = "message embeddings {
    required binary path (UTF8);
    optional binary class (UTF8);
    optional group embedding (LIST) { repeated group list { required float element; } }
    optional binary reason (UTF8);
}";

type Row<'a> = (&'a str, &'a [f32]);

/// Writes groups of rows as `occlude-serve embed` does.
fn write(path: &Path, fingerprint: Option<&str>, groups: &[&[Row<'_>]]) {
    write_as(SCHEMA, path, fingerprint, groups);
}

/// Likewise; with reasons, a row without a number is a picture that could not be read.
fn write_as(schema: &str, path: &Path, fingerprint: Option<&str>, groups: &[&[Row<'_>]]) {
    let reasons = schema == WITH_REASONS;
    let about = fingerprint.map(|value| vec![KeyValue::new(FINGERPRINT.to_owned(), value.to_owned())]);
    let properties = WriterProperties::builder().set_key_value_metadata(about).build();
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let file = File::create(path).expect("a file");
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).expect("a writer");
    for rows in groups {
        let mut group = writer.next_row_group().expect("a group");
        let names: Vec<ByteArray> = rows.iter().map(|row| ByteArray::from(row.0)).collect();
        let mut column = group.next_column().expect("a column").expect("one");
        column.typed::<ByteArrayType>().write_batch(&names, None, None).expect("written");
        column.close().expect("closed");
        let mut column = group.next_column().expect("a column").expect("one");
        column.typed::<ByteArrayType>().write_batch(&[], Some(&vec![0; rows.len()]), None).expect("written");
        column.close().expect("closed");
        let numbers: Vec<f32> = rows.iter().flat_map(|row| row.1.iter().copied()).collect();
        let places = |row: &Row<'_>| row.1.len().max(usize::from(reasons));
        let repetition: Vec<i16> =
            rows.iter().flat_map(|row| (0..places(row)).map(|i| i16::from(i > 0))).collect();
        let there = 1 + i16::from(reasons);
        let level = |row: &Row<'_>| vec![if row.1.is_empty() { 0 } else { there }; places(row)];
        let definition: Vec<i16> = rows.iter().flat_map(level).collect();
        let mut column = group.next_column().expect("a column").expect("one");
        let levels = (definition, repetition);
        column.typed::<FloatType>().write_batch(&numbers, Some(&levels.0), Some(&levels.1)).expect("written");
        column.close().expect("closed");
        if reasons {
            let broken: Vec<i16> = rows.iter().map(|row| i16::from(row.1.is_empty())).collect();
            let texts =
                vec![ByteArray::from("no picture"); broken.iter().filter(|&&level| level > 0).count()];
            let mut column = group.next_column().expect("a column").expect("one");
            column.typed::<ByteArrayType>().write_batch(&texts, Some(&broken), None).expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
    }
    writer.close().expect("closed");
}

/// A data set of three pictures in two folders.
fn pictures(dir: &Path) -> Dataset {
    for name in ["cat/a.png", "cat/b.png", "dog/a.png"] {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        image::RgbImage::new(4, 4).save(path).expect("written");
    }
    crate::data::open(dir).expect("a data set")
}

fn floats(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t.flatten(0, -1)).expect("numbers")
}

#[test]
fn rows_go_to_their_pictures_in_whatever_order_and_file_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(&dir.path().join("data"));
    let [a, b, c, other]: [Row<'_>; 4] = [
        ("cat/a.png", &[1.0, 2.0]),
        ("cat/b.png", &[3.0, 4.0]),
        ("dog/a.png", &[5.0, 6.0]),
        ("x.png", &[0.0, 0.5]),
    ];
    let one = dir.path().join("one.parquet");
    write(&one, Some("abc"), &[&[c, other], &[b, a]]);
    let teacher = describe(&one).expect("embeddings");
    assert_eq!((teacher.kind, teacher.fingerprint.as_str()), (TeacherKind::Embeddings, "abc"));
    let rows = read(&teacher, &data).expect("all there");
    assert_eq!((rows.size(), floats(&rows)), (vec![3, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let several = dir.path().join("several");
    std::fs::create_dir(&several).expect("a folder");
    write(&several.join("part-0.parquet"), Some("abc"), &[&[b]]);
    write(&several.join("part-1.parquet"), Some("abc"), &[&[a, c]]);
    let parts = describe(&several).expect("embeddings");
    assert_eq!(floats(&read(&parts, &data).expect("all there")), floats(&rows));
    assert!(parts.identity != teacher.identity && is_that(&several) && is_that(&one));
    write(&several.join("part-1.parquet"), Some("def"), &[&[a, c]]);
    let error = describe(&several).expect_err("refused").to_string();
    assert!(error.contains("another model") && error.contains("part-1"), "{error}");
    write(&one, None, &[&[a, b, c]]);
    let changed = read(&teacher, &data).expect_err("refused").to_string();
    assert!(changed.contains("has changed"), "{changed}");
    let unsigned = describe(&one).expect("embeddings");
    assert_eq!(unsigned.fingerprint, unsigned.identity, "a file that says nothing has that of its bytes");
}

#[test]
fn rows_with_a_reason_in_place_of_an_embedding_are_passed_over() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(&dir.path().join("data"));
    let path = dir.path().join("shard.parquet");
    let [a, b, c, broken]: [Row<'_>; 4] =
        [("cat/a.png", &[1.0, 2.0]), ("cat/b.png", &[3.0, 4.0]), ("dog/a.png", &[5.0, 6.0]), ("x.png", &[])];
    write_as(WITH_REASONS, &path, Some("abc"), &[&[broken, c, broken], &[b, broken, a]]);
    let teacher = describe(&path).expect("embeddings");
    assert_eq!(floats(&read(&teacher, &data).expect("all there")), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    write_as(WITH_REASONS, &path, Some("abc"), &[&[a, ("cat/b.png", &[]), c]]);
    let teacher = describe(&path).expect("embeddings");
    let message = read(&teacher, &data).expect_err("refused").to_string();
    assert!(message.contains("lacks 1 of 3 pictures, like `cat/b.png`"), "{message}");
    assert!(message.contains("1 of its rows are pictures that could not be read"), "{message}");
}

#[test]
fn what_is_missing_twice_there_or_no_number_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let data = pictures(&dir.path().join("data"));
    let path = dir.path().join("e.parquet");
    let refused = |groups: &[&[Row<'_>]]| {
        write(&path, None, groups);
        let teacher = describe(&path).expect("embeddings");
        format!("{:#}", read(&teacher, &data).expect_err("refused"))
    };
    let a: Row<'_> = ("cat/a.png", &[1.0, 2.0]);
    let message = refused(&[&[a, ("data/cat/b.png", &[1.0, 2.0])]]);
    for part in ["lacks 2 of 3 pictures", "`cat/b.png`, `dog/a.png`", "`data/cat/b.png`", "hint: "] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for (groups, part) in [
        (&[&[a, a][..]], "two embeddings of `cat/a.png`"),
        (&[&[a, ("cat/b.png", &[1.0, 2.0, 3.0])][..]], "`cat/b.png` has 3 numbers, expected 2"),
        (&[&[a, ("cat/b.png", &[1.0, f32::NAN])][..]], "`cat/b.png` has values that are not finite"),
    ] {
        let message = refused(groups);
        assert!(message.contains(part) && message.contains("e.parquet"), "{message}");
    }
    let schema = "message m { required binary name (UTF8); required double embedding; }";
    let schema = Arc::new(parse_message_type(schema).expect("a schema"));
    let properties = Arc::new(WriterProperties::builder().build());
    let file = File::create(&path).expect("a file");
    SerializedFileWriter::new(file, schema, properties).expect("a writer").close().expect("closed");
    let error = describe(&path).expect_err("refused").to_string();
    assert!(error.contains("no column `path`") && error.contains("`name`, `embedding`"), "{error}");
    let empty = dir.path().join("nothing");
    std::fs::create_dir(&empty).expect("a folder");
    assert!(describe(&empty).expect_err("refused").to_string().contains("no files that end in"));
}
