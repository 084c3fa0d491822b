//! Any bytes as a pickle, with the default caps and with tight ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use occlude_pickle::{Limits, Pickle, decode};

fuzz_target!(|data: &[u8]| {
    let tight =
        Limits { ops: 256, values: 64, members: 64, nesting: 4, decoded_bytes: 64, ..Limits::default() };
    for limits in [Limits::default(), tight] {
        match decode(data, &limits) {
            Ok(pickle) => look(&pickle, data.len()),
            Err(error) => drop(error.to_string()),
        }
    }
});

/// Every accessor of every value.
fn look(pickle: &Pickle<'_>, len: usize) {
    assert!(pickle.consumed() <= len);
    // A few large containers may be referred to by many values.
    let mut budget = 100_000usize;
    for node in pickle.nodes() {
        let _ =
            (node.as_str(), node.as_bytes(), node.as_i64(), node.as_usize(), node.as_bool(), node.is_none());
        let _ = (node.global(), node.persistent().map(|id| id.value().kind()));
        let Some(rest) = budget.checked_sub(node.items().map_or(1, |items| items.len() + 1)) else { return };
        budget = rest;
        let Some(rest) = budget.checked_sub(node.entries().map_or(0, |entries| entries.len())) else {
            return;
        };
        budget = rest;
        let Some(rest) = budget.checked_sub(node.call().map_or(0, |call| call.args.len())) else { return };
        budget = rest;
    }
}
