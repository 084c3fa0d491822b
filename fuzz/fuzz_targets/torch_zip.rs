//! Any bytes as a zip archive.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut file = data.to_vec();
    // Without its signature the file would be taken for another format.
    if let Some(first) = file.first_chunk_mut() {
        *first = *b"PK\x03\x04";
    }
    occlude_fuzz::explore(file);
});
