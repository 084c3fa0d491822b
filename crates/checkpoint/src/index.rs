//! What a parser knows of a file when it has read it.

use std::collections::BTreeMap;

use crate::tensor::Entry;

/// A tensor that the file holds and that is not read here, such as a complex or a quantised one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// What a parser finds in a file.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: Vec<Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) skipped: Vec<Skipped>,
}
