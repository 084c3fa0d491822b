//! The most that is read.

/// Largest file that is read as a picture.
pub const MAX_PICTURE_BYTES: u64 = 512 << 20;

/// Numbers of classes beyond this are taken for a mistake: memory for their names is taken.
pub(crate) const MAX_CLASSES: u32 = 1 << 18;
