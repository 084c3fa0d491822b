//! The Python scripts that travel inside the binary.

use std::path::{Path, PathBuf};

use crate::error::Error;

/// Trains and evaluates detectors; also defines the C4 head that the YAMLs name.
pub const DRIVER: &str = include_str!("../python/train_detector.py");
/// Name of [`DRIVER`], under which the other script imports it.
pub const DRIVER_NAME: &str = "train_detector.py";
/// Loads a pickle with Detectron2's checkpointer.
pub(crate) const CHECK: &str = include_str!("../python/check_weights.py");

/// Writes the training script to `out`, or under its own name into a folder; returns where it is.
///
/// # Errors
/// [`Error::Output`] and [`Error::Write`].
pub fn write_driver(out: &Path, force: bool) -> Result<PathBuf, Error> {
    let path = if out.is_dir() { out.join(DRIVER_NAME) } else { out.to_owned() };
    occlude_output::check(&[&path], &[], force)?;
    occlude_output::write(&path, |file| file.write_all(DRIVER.as_bytes()))
        .map_err(|reason| Error::Write { path: path.clone(), reason })?;
    Ok(path)
}
