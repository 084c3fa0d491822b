//! Any bytes as a cached index: with its checksum, and as what follows it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| occlude_dataset::parse::cache(data));
