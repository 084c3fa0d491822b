//! Encoder checkpoints to what Detectron2 trains detectors from: a pickle of numpy arrays under its
//! names, and the YAML with the settings that go with them.
//!
//! The settings matter as much as the weights: an encoder of torchvision's layout needs RGB input,
//! its own mean and standard deviation, strides in the 3x3 convolutions and no frozen stages, all of
//! which differ from Detectron2's defaults.
//!
//! [`import()`] goes the other way. [`verify()`] checks a pickle, by Detectron2 itself where Python has it.
//! [`write_driver`] writes the Python script that trains. [`pseudo_boxes`] makes boxes to train with, of saliency maps.

pub mod cli;
mod contract;
mod convert;
mod driver;
mod error;
mod import;
mod names;
mod pseudo;
mod python;
mod recipe;
mod settings;
mod structure;
mod verify;

pub use contract::Normalisation;
pub use convert::{Conversion, Options, convert};
pub use driver::{DRIVER, DRIVER_NAME, write_driver};
pub use error::Error;
pub use import::{Import, ImportOptions, ORIGIN, import};
pub use pseudo::{Boxes, PseudoBoxes, PseudoOptions, pseudo_boxes};
pub use python::Loaded;
pub use recipe::{Head, Norm, Recipe};
pub use settings::{Settings, settings};
pub use structure::{Structure, structure};
pub use verify::{Verification, VerifyOptions, verify};
