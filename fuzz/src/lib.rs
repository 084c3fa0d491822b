//! What the fuzz targets share: opening bytes as a checkpoint and looking at all of it.

use occlude_checkpoint::{Checkpoint, Format, LoadOptions, match_encoder};

/// Bytes of tensors read per input. A view may repeat a small storage up to 16 MiB, which a fuzzer
/// would otherwise spend its time on.
const READ_BUDGET: usize = 1 << 16;

/// Opens the bytes, and reads names, metadata, tensors and the encoder. Errors are fine; panics,
/// much memory and much time are findings.
///
/// # Panics
/// Where the library promises something that does not hold: those are findings too.
pub fn explore(bytes: Vec<u8>) {
    let Ok(checkpoint) = Checkpoint::from_bytes("input", bytes) else { return };
    assert_eq!(checkpoint.names().count(), checkpoint.tensors().count());
    let mut budget = READ_BUDGET;
    for tensor in checkpoint.tensors() {
        let found = checkpoint.tensor(tensor.name).expect("a listed name is found");
        assert_eq!(found.shape, tensor.shape);
        let Some(rest) = budget.checked_sub(tensor.byte_len()) else { continue };
        budget = rest;
        if let Ok(data) = tensor.to_bytes() {
            assert_eq!(data.len(), tensor.byte_len());
            assert_eq!(tensor.to_f32().expect("bytes were read").len(), tensor.len());
            assert_eq!(tensor.to_i64().expect("bytes were read").len(), tensor.len());
        }
    }
    assert!(checkpoint.format() == Format::TorchZip || checkpoint.damaged_records().is_empty());
    checkpoint.damaged_records();
    for partial in [false, true] {
        match match_encoder(&checkpoint, &LoadOptions { partial, ..LoadOptions::default() }) {
            Ok(found) => assert!(found.report.matched > 0),
            Err(error) => drop(error.to_string()),
        }
    }
}

/// A zip archive of stored records, as `torch.save` writes it; checksums are left zero, since
/// opening does not look at them.
pub fn zip(records: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in records {
        let offset = out.len() as u32;
        let sizes = [(data.len() as u32).to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
        let name_len = (name.len() as u16).to_le_bytes();
        out.extend(
            [b"PK\x03\x04".as_slice(), &[0; 14], &sizes, &name_len, &[0; 2], name.as_bytes(), data].concat(),
        );
        directory.extend([b"PK\x01\x02".as_slice(), &[0; 16], &sizes, &name_len, &[0; 12]].concat());
        directory.extend(offset.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let count = (records.len() as u16).to_le_bytes();
    let (start, len) = ((out.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    out.extend(directory);
    out.extend([b"PK\x05\x06".as_slice(), &[0; 4], &count, &count, &len, &start, &[0; 2]].concat());
    out
}
