//! Any text as a filter and, behind the first line break, a payload that it is held against.
#![no_main]

use libfuzzer_sys::fuzz_target;
use occlude_retrieval::Filter;

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let (filter, payload) = data.split_at(split);
    let filter: Filter = match serde_json::from_slice(filter) {
        Ok(filter) => filter,
        Err(error) => return drop(error.to_string()),
    };
    // what was read is written as what is read again
    let written = serde_json::to_string(&filter).expect("filters are JSON");
    let again: Filter = serde_json::from_str(&written).expect("what was written is read");
    assert!(again == filter, "{written}");
    let Ok(payload) = serde_json::from_slice(payload.get(1..).unwrap_or_default()) else { return };
    assert_eq!(filter.matches(&payload), again.matches(&payload));
});
