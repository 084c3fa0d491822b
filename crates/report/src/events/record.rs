//! TFRecord framing: <https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>.

/// Appends a record: length, its checksum, data, their checksum; little-endian.
pub(super) fn append(out: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length).to_le_bytes());
    out.extend(data);
    out.extend(masked(data).to_le_bytes());
}

/// CRC-32C, masked so that the checksum of data that holds checksums stays a good one.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}
