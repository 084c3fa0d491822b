//! Results that are whole or absent, and that cost nobody an input.
//!
//! [`write()`] replaces a file in one step; a [`Draft`] is the same in several, and [`place()`] for what another program wrote. [`check`] is the one rule of all tools for the files that a user names:
//!
//! - An output that is one of the inputs is refused, by whatever path, hard or symbolic link, and `--force` does not
//!   help: the input may hold more than what would be written (a momentum encoder, an optimiser).
//! - An output that exists is refused unless `--force` is given.
//! - What is no regular file is refused, and so is a folder that does not exist: before the work, not after it.
//!
//! Folders that a tool fills (runs, collections, data sets) have rules of their own; a [`FileLock`] keeps a second writer out.

mod atomic;
mod lock;
mod policy;

pub use atomic::{Draft, place, write};
pub use lock::FileLock;
pub use policy::{Refused, check, is_same_file};
