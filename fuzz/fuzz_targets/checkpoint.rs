//! Any bytes as a checkpoint of any format: telling the format, opening, the encoder, every tensor.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| occlude_fuzz::explore(data.to_vec()));
