//! Where a run stands.

use occlude_dataset::Identity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metrics::Meter;
use super::watchdog::Symptom;
use crate::config::Config;

/// The pictures of a run, and where in them the epoch under way began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Course {
    /// What the pictures are.
    pub data: Identity,
    /// Steps of an epoch over them.
    pub steps_per_epoch: u64,
    /// Step at which the epoch under way began. A product of the two numbers only while the data stay the same.
    pub began: u64,
}

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// Steps of the optimiser done.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u64,
    /// Metrics of the last epoch.
    pub metrics: Value,
    /// What else.
    pub run: RunState,
    /// The data, and where the epoch under way began.
    pub course: Course,
}

/// What a checkpoint holds besides tensors.
#[derive(Debug)]
pub(super) struct Loaded {
    /// The configuration that it was written with.
    pub(super) config: Config,
    /// Where the run stood; its course is still to be held against the data.
    pub(super) at: Position,
    /// What it was trained on; absent in files of earlier versions.
    pub(super) course: Option<Course>,
}

/// What a run remembers besides its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Factor on the learning rate, lowered at each rollback.
    pub lr_scale: f64,
    /// Times that the run was rolled back.
    pub rollbacks: u32,
    /// What the watchdog has seen.
    pub symptom: Symptom,
    /// The metrics of the epoch under way.
    pub meter: Meter,
    /// The best accuracy by nearest neighbours so far, 0 to 1; absent before the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<f64>,
}

impl Default for Position {
    fn default() -> Self {
        let (symptom, meter) = (Symptom::default(), Meter::default());
        let run = RunState { lr_scale: 1.0, rollbacks: 0, symptom, meter, best: None };
        Self { step: 0, epoch: 0, metrics: Value::Null, run, course: Course::default() }
    }
}
