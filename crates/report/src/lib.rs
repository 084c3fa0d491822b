//! Seeing a training run, without libtorch or Python.
//!
//! [`events::Writer`] appends to event files that TensorBoard opens. [`html::write`] turns a run's folder into one
//! page that needs nothing beside it, and [`html::compare`] lays several runs over each other.
//!
//! ```no_run
//! # fn main() -> Result<(), occlude_report::Error> {
//! use occlude_report::{events::Writer, html};
//! use std::path::Path;
//!
//! let run = Path::new("runs/pretrain");
//! let mut events = Writer::create(run)?;
//! events.scalar("train/loss", 10, 1.7e9, 4.2);
//! events.flush()?;
//! println!("{}", html::write(run)?.display());
//! # Ok(())
//! # }
//! ```

mod error;
pub mod events;
pub mod html;
mod run;

pub use error::Error;
