//! Any bytes as a pickle of numpy arrays.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| occlude_fuzz::explore([b"\x80\x04".as_slice(), data].concat()));
