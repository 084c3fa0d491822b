//! Any bytes as the `data.pkl` of a sound zip archive with one storage.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let storage: Vec<u8> = (0..=255).collect();
    occlude_fuzz::explore(occlude_fuzz::zip(&[("a/data.pkl", data), ("a/data/0", &storage)]));
});
