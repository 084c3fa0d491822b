//! Files that were cut or changed on their way.

use std::path::Path;

use occlude_checkpoint::{Checkpoint, LoadOptions, match_encoder};

fn golden() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e != "py"))
        .map(|path| (path.display().to_string(), std::fs::read(&path).expect("reads")))
        .collect();
    files.sort();
    assert!(files.len() > 10);
    files
}

/// Opens the bytes and looks at everything in them; anything may come of it but a panic.
fn explore(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes("damaged", bytes) else { return };
    for tensor in checkpoint.tensors().filter(|t| t.byte_len() < 1 << 20) {
        if let Ok(bytes) = tensor.to_bytes() {
            assert_eq!(bytes.len(), tensor.byte_len());
        }
    }
    let _ = match_encoder(&checkpoint, &LoadOptions::default());
}

#[test]
fn cut_at_every_length() {
    for (name, bytes) in golden() {
        for len in 0..bytes.len() {
            let result = Checkpoint::from_bytes("cut", bytes[..len].to_vec());
            assert!(result.is_err(), "{name} cut at {len} of {} opens", bytes.len());
        }
    }
}

#[test]
fn a_bit_flipped_at_every_position() {
    for (_, bytes) in golden() {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            // Another bit at every position; over the files each of them meets every kind of field.
            damaged[at] ^= 1 << (at % 8);
            explore(damaged);
        }
    }
}

#[test]
fn bytes_set_to_their_extremes() {
    for (_, bytes) in golden() {
        for at in (0..bytes.len()).step_by(3) {
            for value in [0, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                explore(damaged);
            }
        }
    }
}

#[test]
fn two_files_in_one() {
    let files = golden();
    for (first, a) in files.iter().step_by(3) {
        for (_, b) in files.iter().step_by(4) {
            let both = [a.as_slice(), b].concat();
            explore(both);
        }
        assert!(!first.is_empty());
    }
}
