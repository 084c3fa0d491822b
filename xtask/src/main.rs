//! Occlude.

fn main() {}
