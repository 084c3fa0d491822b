//! Any text as the header of a safetensors file; what follows its last brace is the data.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let split = data.iter().rposition(|&b| b == b'}').map_or(data.len(), |at| at + 1);
    occlude_fuzz::explore([(split as u64).to_le_bytes().as_slice(), data].concat());
});
