//! safetensors headers that lie or explode.

use crate::measure::{open, refused_for};

fn file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn tensor(name: &str, shape: &str, begin: u64, end: u64) -> String {
    format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
}

fn tensors(all: &[String]) -> String {
    format!("{{{}}}", all.join(","))
}

#[test]
fn ranges_overlap_nor_leave_holes() {
    let pair = |begin, end| tensors(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", begin, end)]);
    assert!(open("sound", &file(&pair(8, 16), 16)).is_ok());
    refused_for("overlapping", &file(&pair(4, 12), 12), "begins at byte 4");
    refused_for("the same range", &file(&pair(0, 8), 8), "begins at byte 0");
    refused_for("a hole", &file(&pair(12, 20), 20), "begins at byte 12");
    refused_for("a hole at the start", &file(&tensors(&[tensor("a", "[2]", 8, 16)]), 16), "begins at byte 8");
    refused_for(
        "backwards",
        &file(&tensors(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", 8, 0)]), 8),
        "8..0",
    );
    refused_for("data behind", &file(&pair(8, 16), 17), "the file has 17");
    refused_for("data missing", &file(&pair(8, 16), 15), "the file has 15");
    refused_for(
        "another size",
        &file(&tensors(&[tensor("a", "[3]", 0, 8)]), 8),
        "cannot occupy the bytes 0..8",
    );
}

#[test]
fn sizes_that_overflow() {
    for shape in ["[18446744073709551615]", "[4294967296,4294967296]", "[18446744073709551615,4]"] {
        refused_for(shape, &file(&tensors(&[tensor("a", shape, 0, 8)]), 8), "cannot occupy");
    }
    let end = u64::MAX;
    refused_for("an end", &file(&tensors(&[tensor("a", "[2]", 0, end)]), 8), "need 18446744073709551615");
    refused_for("a negative side", &file(&tensors(&[tensor("a", "[-1]", 0, 8)]), 8), "bad header");
    refused_for("too large a side", &file(&tensors(&[tensor("a", "[1e30]", 0, 8)]), 8), "bad header");
}

#[test]
fn lengths_of_the_header() {
    let with_len = |len: u64| [len.to_le_bytes().as_slice(), b"{}"].concat();
    refused_for("longer than the file", &with_len(3), "truncated");
    refused_for("1 GiB", &with_len(1 << 30), "more than the");
    refused_for("2^63", &with_len(1 << 63), "no known signature");
    refused_for("2^64 - 1", &with_len(u64::MAX), "no known signature");
}

#[test]
fn header_bombs() {
    let mega = 1 << 20;
    refused_for("nesting", &file(&format!("{{\"a\":{}", "[".repeat(30 * mega)), 0), "bad header");
    refused_for("nested objects", &file(&"{\"a\":".repeat(5 * mega), 0), "bad header");
    let many: Vec<_> = (0..400_000).map(|i| tensor(&i.to_string(), "[0]", 0, 0)).collect();
    refused_for("tensors", &file(&tensors(&many), 0), "more than 131072 tensors");
    let sides = format!("[{}]", vec!["0"; 10 * mega].join(","));
    refused_for("sides", &file(&tensors(&[tensor("a", &sides, 0, 0)]), 0), "at most 64 sizes");
    let metadata: Vec<_> = (0..2_000_000).map(|i| format!("\"{i:x}\":\"\"")).collect();
    let header = format!("{{\"__metadata__\":{{{}}}}}", metadata.join(","));
    refused_for("metadata", &file(&header, 0), "more than 65536 entries");
    let long = format!("{{\"__metadata__\":{{\"a\":\"{}\"}}}}", "x".repeat(31 * mega));
    assert!(open("one long value", &file(&long, 0)).is_ok());
    let escaped = format!("{{\"__metadata__\":{{\"a\":\"{}\"}}}}", "\\u0000".repeat(5 * mega));
    assert!(open("one escaped value", &file(&escaped, 0)).is_ok());
    let wide = format!("[{}]", vec!["0"; 64].join(","));
    let most: Vec<_> = (0..131_072).map(|i| tensor(&i.to_string(), &wide, 0, 0)).collect();
    assert!(open("as many as are accepted", &file(&tensors(&most), 0)).is_ok());
    let name = "x".repeat(20 * mega);
    refused_for("a long name", &file(&tensors(&[tensor(&name, "[2]", 4, 12)]), 12), "begins at byte 4");
}

#[test]
fn names_and_types() {
    let twice = tensors(&[tensor("a", "[2]", 0, 8), tensor("a", "[2]", 8, 16)]);
    refused_for("a name twice", &file(&twice, 16), "appears twice");
    let metadata = "{\"__metadata__\":{},\"__metadata__\":{}}";
    refused_for("metadata twice", &file(metadata, 0), "appears twice");
    refused_for("metadata of numbers", &file("{\"__metadata__\":{\"a\":1}}", 0), "bad header");
    refused_for("another field", &file("{\"a\":{\"dtype\":\"F32\",\"evil\":1}}", 0), "bad header");
    refused_for("no JSON", &file("{\"a\"", 0), "bad header");
    let unknown = tensors(&[tensor("a", "[2]", 0, 8)]).replace("F32", "F8_E8M0");
    let checkpoint = open("an unknown type", &file(&unknown, 8)).expect("opens");
    assert_eq!(checkpoint.skipped().len(), 1);
}

/// A pipe would block whoever opens it; a device has no end.
#[cfg(unix)]
#[test]
fn files_that_are_none() {
    use occlude_checkpoint::Checkpoint;
    let dir = tempfile::tempdir().expect("folder");
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    for path in [pipe.as_path(), std::path::Path::new("/dev/zero")] {
        let message = Checkpoint::open(path).map(drop).expect_err("refused").to_string();
        assert!(message.contains("not a regular file"), "{message}");
    }
}
