//! Caps on what a pickle may cost.

/// Caps on what a pickle may cost; the defaults are far above any checkpoint and keep a hostile one
/// below a second and 200 MB.
///
/// Strings and bytes that the file holds as they are cost nothing, they are borrowed; so only those
/// that have to be decoded are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Instructions executed.
    pub ops: usize,
    /// Values created; also the deepest stack and the largest memo index.
    pub values: usize,
    /// Members of all lists, tuples, sets and dictionaries together.
    pub members: usize,
    /// Containers open at a time (marks on the stack).
    pub nesting: usize,
    /// Mentions of classes and functions; a pickle refers back to those that it has mentioned.
    pub globals: usize,
    /// Bytes of strings that had to be decoded (the escaped ones of protocol 0) together.
    pub decoded_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ops: 8 << 20,
            values: 1 << 19,
            members: 2 << 20,
            nesting: 1 << 14,
            globals: 1 << 16,
            decoded_bytes: 32 << 20,
        }
    }
}
