//! Time from a checkpoint to an ONNX file.

use anyhow::Result;
use std::path::Path;

use super::{Better, Figure, median_seconds, number, peer};
use crate::{paths, sh};

const RUNS: usize = 5;

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let (checkpoint, ours, theirs) =
        (folder.join("resnet50.safetensors"), folder.join("ours.onnx"), folder.join("peer.onnx"));
    // The peer writes the checkpoint that both export.
    let answer = peer(include_str!("export.py"), &[&checkpoint, &theirs])?;
    let process = median_seconds(RUNS, || {
        let mut command = sh::command(paths::tool("occlude-export"));
        command.arg("onnx").arg(&checkpoint).arg(&ours);
        command
    })?;
    let figure = |what: &str, peer| Figure {
        what: what.into(),
        unit: "s",
        ours: process,
        peer,
        better: Better::Lower,
    };
    Ok(vec![
        figure("whole command (peer: import, load, export)", number(&answer, "process")?),
        figure("peer already imported: load and export", number(&answer, "export")?),
    ])
}
