//! What `tch` and the build script of `torch-sys` use of zip 0.6, by zip 3.
//!
//! Both ask for zip 0.6 with all that it can do, and so built the C libraries zstd and bzip2 twice, and ciphers: for `.npz` files
//! and for downloading libtorch, neither of which is used here. `[patch.crates-io]` in the root manifest puts this crate in its
//! place. It goes when they move to a later version.

pub use current::{CompressionMethod, ZipArchive, ZipWriter, result};

/// Options of what is written.
pub mod write {
    pub use current::write::SimpleFileOptions as FileOptions;
}
