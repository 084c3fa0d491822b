//! Zip archives and legacy streams that contradict themselves.

use crate::measure::{refused, refused_for};
use crate::wrap::{Record, end, legacy, tensor, text, zip};

/// `{'w': a tensor of the storage 0}`.
fn state() -> Vec<u8> {
    let tensor = tensor("FloatStorage", b"K\x10", b"K\x10\x85", b"K\x01\x85");
    [b"\x80\x02}", text("w").as_slice(), &tensor, b"s."].concat()
}

/// An archive that would be fine without the last record, or with another storage record.
fn with(records: &[Record<'_>]) -> Vec<u8> {
    let state = state();
    let mut all = vec![Record::new("a/data.pkl", &state)];
    all.extend(records.iter().map(|r| Record { ..*r }));
    zip(&all)
}

#[test]
fn the_archive_without_an_attack_is_fine() {
    let file = with(&[Record::new("a/data/0", &[0; 64])]);
    assert!(crate::measure::open("sound", &file).is_ok());
}

#[test]
fn zip_bombs() {
    let storage = || Record::new("a/data/0", &[0; 64]);
    let deflated = Record { method: 8, ..storage() };
    refused_for("compressed", &with(&[deflated]), "compressed (method 8)");
    let huge = Record { method: 8, claims: Some(1 << 40), ..storage() };
    refused("compressed, 1 TiB", &with(&[huge]));
    let overlapping = Record { offset: Some(0), ..storage() };
    refused_for("overlapping", &with(&[storage(), Record { name: "a/data/1", ..overlapping }]), "overlaps");
    let inside = Record { claims: Some(200), ..storage() };
    refused_for("reaching into the next", &with(&[inside, Record::new("a/data/1", &[0; 300])]), "overlaps");
    let encrypted = Record { flags: 1, ..storage() };
    refused_for("encrypted", &with(&[encrypted]), "encrypted");
}

#[test]
fn sizes_and_offsets_that_lie_outside() {
    for claims in [65, 1 << 20, 1 << 40, 1 << 63, u64::MAX] {
        let storage = Record { claims: Some(claims), ..Record::new("a/data/0", &[0; 64]) };
        refused(&format!("{claims} bytes"), &with(&[storage]));
    }
    for offset in [1 << 20, 1 << 40, 1 << 63, u64::MAX, 1] {
        let storage = Record { offset: Some(offset), ..Record::new("a/data/0", &[0; 64]) };
        refused(&format!("at {offset}"), &with(&[storage]));
    }
}

#[test]
fn names() {
    let storage = || Record::new("a/data/0", &[0; 64]);
    for name in ["../evil", "/etc/passwd", "a/../../evil", "a\\..\\evil", ".."] {
        refused_for(name, &with(&[storage(), Record::new(name, b"x")]), "points outside the archive");
    }
    refused_for("twice", &with(&[storage(), storage()]), "two records named `a/data/0`");
    refused_for(
        "two pickles",
        &with(&[storage(), Record::new("b/data.pkl", b"N.")]),
        "several records `data.pkl`",
    );
    let long = "x".repeat(60_000);
    refused_for("long", &with(&[storage(), Record::new(&long, b"x")]), "1024");
    // The storage's key is a path.
    let climbing = String::from_utf8(state().iter().map(|b| b & 0x7f).collect()).expect("text");
    assert!(climbing.contains("cpu"));
    let key = state();
    let at = key.windows(9).position(|w| w == b"X\x01\0\0\x000X\x03\0").expect("the key");
    let path = [&key[..at], text("../../etc/passwd").as_slice(), &key[at + 6..]].concat();
    refused_for(
        "a path as a key",
        &zip(&[Record::new("a/data.pkl", &path)]),
        "`../../etc/passwd` is not in the file",
    );
}

/// The header before the data names another record than the directory does.
#[test]
fn header_and_directory_disagree() {
    let mut file = with(&[Record::new("a/data/0", &[0; 64])]);
    let at = file.windows(8).position(|w| w == b"a/data/0").expect("the header");
    file[at + 7] = b'1';
    refused_for("another name", &file, "has no header");
}

#[test]
fn directories_that_lie() {
    let sound = with(&[Record::new("a/data/0", &[0; 64])]);
    let body = &sound[..sound.len() - 22];
    let directory = body.windows(4).position(|w| w == b"PK\x01\x02").expect("the directory") as u32;
    for (count, start) in [(3, directory), (0xfffe, directory), (2, 0), (2, directory + 1), (2, u32::MAX - 1)]
    {
        refused(&format!("{count} from {start}"), &[body, &end(count, 0, start)].concat());
    }
    refused_for("no directory", body, "no directory at its end");
    // A 64-bit directory with more records than a file of any size has.
    for count in [1u64 << 40, u64::MAX] {
        let mut end64 = [b"PK\x06\x06".as_slice(), &44u64.to_le_bytes(), &[0; 12]].concat();
        end64.extend([count, count, 1, directory.into()].iter().flat_map(|v| v.to_le_bytes()));
        let locator =
            [b"PK\x06\x07".as_slice(), &[0; 4], &(body.len() as u64).to_le_bytes(), &[1, 0, 0, 0]].concat();
        let file = [body, &end64, &locator, &end(0xffff, u32::MAX, u32::MAX)].concat();
        refused_for("many records", &file, "records, more than");
    }
}

#[test]
fn many_records() {
    let names: Vec<String> = (0..65_000).map(|i| format!("a/data/{i}")).collect();
    let records: Vec<_> = names.iter().map(|name| Record::new(name, &[0; 64])).collect();
    assert!(crate::measure::open("65000 records", &with(&records)).is_ok());
}

#[test]
fn torchscript_and_other_archives() {
    let storage = || Record::new("a/data/0", &[0; 64]);
    refused_for("torchscript", &with(&[storage(), Record::new("a/constants.pkl", b"N.")]), "TorchScript");
    refused_for("no pickle", &zip(&[Record::new("word/document.xml", b"<x/>")]), "no `data.pkl`");
    refused_for(
        "byte order",
        &with(&[storage(), Record::new("a/byteorder", b"middle")]),
        "byte order `middle`",
    );
    refused_for("metadata", &with(&[storage(), Record::new("a/extra/occlude.json", b"[]")]), "bad metadata");
    let large = format!("{{\"a\": \"{}\"}}", "x".repeat(2 << 20));
    refused("large metadata", &with(&[storage(), Record::new("a/extra/occlude.json", large.as_bytes())]));
}

#[test]
fn legacy_streams_that_contradict_themselves() {
    let object = state();
    let start = legacy(&object);
    let body = &start[..start.len() - b"\x80\x02].".len()];
    let keys = |keys: &str| [b"\x80\x02](".as_slice(), keys.as_bytes(), b"e."].concat();
    let zero = "X\x01\0\0\x000";
    let storage = [16u64.to_le_bytes().as_slice(), &[0; 64]].concat();
    let sound = [body, &keys(zero), &storage].concat();
    assert!(crate::measure::open("sound", &sound).is_ok());
    for (name, file, reason) in [
        ("no keys", [body, b"N."].concat(), "are not a list"),
        ("a number as a key", [body, &keys("K\x01")].concat(), "is not a short string"),
        ("an unknown key", [body, &keys("X\x01\0\0\x001"), &storage].concat(), "belongs to no tensor"),
        ("a key twice", [body, &keys(&zero.repeat(2)), &storage, &storage].concat(), "appears twice"),
        ("no storage", [body, &keys(zero)].concat(), "not in the file"),
        ("half a storage", [body, &keys(zero), &storage[..40]].concat(), "not in the file"),
        ("another count", [body, &keys(zero), &17u64.to_le_bytes(), &[0; 80]].concat(), "not as long"),
        ("a huge count", [body, &keys(zero), &u64::MAX.to_le_bytes(), &[0; 80]].concat(), "not as long"),
    ] {
        refused_for(name, &file, reason);
    }
    let other = [&start[..15], b"\x80\x02K\x01.", &start[21..]].concat();
    refused_for("another protocol", &other, "protocol is not 1001");
}
