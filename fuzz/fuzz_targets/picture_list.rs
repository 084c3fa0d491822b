//! Any bytes as a list of pictures.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| occlude_dataset::parse::list(data));
