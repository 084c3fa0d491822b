//! Any bytes behind the magic number, the protocol and the system information of a legacy stream.
#![no_main]

use libfuzzer_sys::fuzz_target;

const START: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.";

fuzz_target!(|data: &[u8]| occlude_fuzz::explore([START, data].concat()));
