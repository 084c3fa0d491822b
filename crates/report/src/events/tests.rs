//! Against a reader of their own: frames, checksums and fields are taken apart without the writer's code.

use super::*;
use std::collections::BTreeMap;

/// CRC-32C by definition, bit by bit: <https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4>.
fn crc(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |mut crc, &byte| {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
        crc
    })
}

fn masked(data: &[u8]) -> u32 {
    let crc = crc(data);
    (crc.rotate_left(17)).wrapping_add(0xa282_ead8)
}

fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while !file.is_empty() {
        let (head, rest) = file.split_at(12);
        assert_eq!(head[8..], masked(&head[..8]).to_le_bytes(), "checksum of a length");
        let length = u64::from_le_bytes(head[..8].try_into().expect("8 bytes")) as usize;
        let (data, rest) = rest.split_at(length);
        assert_eq!(rest[..4], masked(data).to_le_bytes(), "checksum of data");
        out.push(data.to_vec());
        file = &rest[4..];
    }
    out
}

/// Fields of a message by number; numbers as their 8 bytes.
fn fields(mut message: &[u8]) -> BTreeMap<u64, Vec<u8>> {
    fn varint(from: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = from[0];
            *from = &from[1..];
            value |= u64::from(byte & 127) << shift;
            if byte < 128 {
                break;
            }
        }
        value
    }
    let mut out = BTreeMap::new();
    while !message.is_empty() {
        let key = varint(&mut message);
        let length = match key & 7 {
            0 => {
                let value = varint(&mut message);
                assert!(out.insert(key >> 3, value.to_le_bytes().to_vec()).is_none());
                continue;
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (value, rest) = message.split_at(length);
        assert!(out.insert(key >> 3, value.to_vec()).is_none());
        message = rest;
    }
    out
}

fn within(message: &[u8], path: &[u64]) -> BTreeMap<u64, Vec<u8>> {
    path.iter().fold(fields(message), |message, number| fields(&message[number]))
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc(b"123456789"), 0xe306_9283);
}

#[test]
fn a_file_holds_what_was_written() -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("folder");
    let mut writer = Writer::create(&dir.path().join("new"))?;
    writer.scalar("train/loss", 300, 1.7e9, 0.0);
    writer.image("first batch", 0, 1.7e9, b"not looked at", 7, 5);
    writer.text("config", 0, 1.7e9, "**bold**");
    writer.flush()?;
    let file = fs::read(writer.path()).expect("a file");
    let records = records(&file);
    assert_eq!(records.len(), 5);
    assert_eq!(fields(&records[0])[&3], b"brain.Event:2");
    assert_eq!(within(&records[1], &[7])[&1], 1u64.to_le_bytes());

    let event = fields(&records[2]);
    assert_eq!(event[&1], 1.7e9f64.to_le_bytes());
    assert_eq!(event[&2], 300u64.to_le_bytes());
    let value = within(&records[2], &[5, 1]);
    assert_eq!((value[&1].as_slice(), value[&2].as_slice()), (&b"train/loss"[..], &0f32.to_le_bytes()[..]));

    let image = within(&records[3], &[5, 1, 4]);
    assert_eq!(image[&1], 5u64.to_le_bytes());
    assert_eq!(image[&2], 7u64.to_le_bytes());
    assert_eq!(image[&3], 3u64.to_le_bytes());
    assert_eq!(image[&4], b"not looked at");

    assert_eq!(within(&records[4], &[5, 1, 8])[&8], b"**bold**");
    assert_eq!(within(&records[4], &[5, 1, 9, 1])[&1], b"text");
    Ok(())
}

#[test]
fn names_sort_in_the_order_of_writing() -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("folder");
    let names = (0..3)
        .map(|_| Ok(Writer::create(dir.path())?.path().to_owned()))
        .collect::<Result<Vec<_>, Error>>()?;
    assert!(names.is_sorted(), "{names:?}");
    let name = names[0].file_name().expect("a name").to_string_lossy().into_owned();
    let rest = name.strip_prefix("events.out.tfevents.").expect("the prefix");
    let parts: Vec<_> = rest.rsplitn(3, '.').collect();
    assert_eq!(parts[1], std::process::id().to_string());
    assert!(
        parts[0].parse::<u64>().is_ok() && rest.split('.').next().is_some_and(|s| s.len() == 10),
        "{name}"
    );
    Ok(())
}

#[test]
fn a_resumed_run_says_from_where() -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("folder");
    let records = records(&fs::read(Writer::resume(dir.path(), 41)?.path()).expect("a file"));
    assert_eq!(fields(&records[1])[&2], 42u64.to_le_bytes());
    assert_eq!(within(&records[1], &[7])[&1], 1u64.to_le_bytes());
    Ok(())
}

#[test]
fn what_was_not_flushed_is_written_at_the_end() -> Result<(), Error> {
    let dir = tempfile::tempdir().expect("folder");
    let mut writer = Writer::create(dir.path())?;
    let path = writer.path().to_owned();
    writer.scalar("a", 1, 0.0, 1.0);
    assert_eq!(records(&fs::read(&path).expect("a file")).len(), 2);
    drop(writer);
    assert_eq!(records(&fs::read(&path).expect("a file")).len(), 3);
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_is_an_error() {
    let dir = tempfile::tempdir().expect("folder");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    let error = Writer::create(&file.join("below")).expect_err("a file is no folder");
    assert!(error.to_string().starts_with("cannot create `"), "{error}");
}
