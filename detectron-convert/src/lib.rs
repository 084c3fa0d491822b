//! Encoder checkpoints to what Detectron2 trains detectors from: a pickle of numpy arrays under its
//! names, and the YAML with the settings that go with them.
//!
//! The settings matter as much as the weights: an encoder of torchvision's layout needs RGB input,
//! its own mean and standard deviation, strides in the 3x3 convolutions and no frozen stages, all of
//! which differ from Detectron2's defaults.

pub mod cli;
mod contract;
mod convert;
mod error;
mod recipe;
mod settings;

pub use contract::Normalisation;
pub use convert::{Conversion, Options, convert};
pub use error::Error;
pub use recipe::{Head, Norm, Recipe};
pub use settings::{Settings, settings};
