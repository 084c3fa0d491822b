//! Which part of a picture is decoded.

use std::ops::Range;

/// The part of a picture that is wanted, in coded units, and the side that a block of 8 comes out as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) x: Range<usize>,
    pub(super) y: Range<usize>,
    pub(super) side: usize,
}
