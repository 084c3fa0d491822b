//! What evaluations that train begin with and end with.

use anyhow::Result;
use occlude_distributed::World;
use occlude_preprocess::Preprocess;
use tch::Device;

use super::folder::Folder;
use super::report::{Question, Report, batches};
use super::source::Reading;
use crate::model::Encoder;
use crate::ranks;

/// An encoder to evaluate.
pub struct Subject<'a> {
    /// The checkpoint, as it was named.
    pub name: String,
    /// Its weights.
    pub weights: &'a occlude_checkpoint::Encoder<'a>,
    /// How it wants its input.
    pub contract: &'a Preprocess,
}

/// Where and how fast an evaluation runs; none of it changes what is computed.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Where to compute.
    pub device: Device,
    /// How pictures are read.
    pub reading: Reading,
    /// Folder of the evaluation.
    pub out: Option<std::path::PathBuf>,
    /// Steps after which to stop, for tests of resuming.
    pub stop_after: Option<u64>,
    /// The processes that evaluate together.
    pub world: World,
}

/// How an evaluation ended.
#[derive(Debug)]
pub enum Outcome {
    /// With an answer.
    Answer(Box<Report>),
    /// With an answer that another process gives.
    Elsewhere,
    /// By a signal of that number, or by `stop_after` (0).
    Interrupted(usize),
}

/// What an evaluation begins with.
pub(super) enum Begun {
    /// The answer of an earlier call.
    Done(Outcome),
    /// A folder, where there is one and this is the process that writes.
    Folder(Option<Folder>),
}

impl Machine {
    /// Opens the folder, once all processes were asked the same.
    ///
    /// # Errors
    /// Where they were not, or the folder is of something else.
    pub(super) fn begin(&self, question: &Question) -> Result<Begun> {
        let world = &self.world;
        let device = if self.device.is_cuda() { "cuda" } else { "cpu" };
        ranks::same(
            world,
            &[
                ("the program's version", env!("CARGO_PKG_VERSION")),
                ("what is asked", &serde_json::to_string(question)?),
                ("the kind of device", device),
            ],
        )?;
        let open = || -> Result<_> {
            let out = self.out.as_deref().filter(|_| world.is_main());
            let folder = out.map(|out| Folder::open(out, question)).transpose()?;
            let report: Option<Report> = folder.as_ref().map(Folder::result).transpose()?.flatten();
            Ok((folder, report))
        };
        let (folder, report) = ranks::agreed(world, open(), "the folder")?;
        if !world.any(report.is_some(), "whether there is a result")? {
            return Ok(Begun::Folder(folder));
        }
        Ok(Begun::Done(report.map_or(Outcome::Elsewhere, |report| Outcome::Answer(Box::new(report)))))
    }
}

/// The encoder of a checkpoint, its counter of batches included.
pub(super) fn load(subject: &Subject<'_>, device: Device) -> Result<Encoder> {
    let encoder = Encoder::from_checkpoint(subject.weights, device)?;
    encoder.set_batches(batches(subject.weights));
    Ok(encoder)
}
