//! Time and memory from a checkpoint to an ONNX file and to a Detectron2 pickle.

use anyhow::Result;
use std::ffi::OsStr;
use std::path::Path;

use super::{Better, Figure, number, peer};
use crate::paths;

const SCRIPT: &str = include_str!("export.py");
const RUNS: &str = "5";

/// What running a command costs.
struct Cost {
    seconds: f64,
    /// Largest resident set in bytes.
    peak: f64,
}

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let checkpoint = folder.join("moco.pth.tar");
    peer(SCRIPT, &[Path::new("make"), &checkpoint])?;
    let file = std::fs::metadata(&checkpoint)?.len() as f64;
    let mut figures = Vec::new();
    let peers =
        [("detectron", "occlude-detectron", "convert", "pkl"), ("onnx", "occlude-export", "onnx", "onnx")];
    for (what, tool, command, extension) in peers {
        let (ours, theirs) =
            (folder.join(format!("ours.{extension}")), folder.join(format!("peer.{extension}")));
        let (tool, python) = (paths::tool(tool), paths::python());
        let line: [&OsStr; 5] =
            [tool.as_ref(), command.as_ref(), checkpoint.as_ref(), ours.as_ref(), "--force".as_ref()];
        let ours = cost(&line)?;
        let line: [&OsStr; 6] = [
            python.as_ref(),
            "-c".as_ref(),
            SCRIPT.as_ref(),
            what.as_ref(),
            checkpoint.as_ref(),
            theirs.as_ref(),
        ];
        let theirs = cost(&line)?;
        figures.extend(pair(what, file, &ours, &theirs));
        if what == "onnx" {
            let again = peer(SCRIPT, &[Path::new("again"), &checkpoint, &folder.join("again.onnx")])?;
            figures.push(lower("onnx, peer already imported", "s", ours.seconds, number(&again, "seconds")?));
        }
    }
    Ok(figures)
}

fn cost(line: &[&OsStr]) -> Result<Cost> {
    let mut arguments = vec![Path::new(RUNS)];
    arguments.extend(line.iter().map(Path::new));
    let answer = peer(include_str!("process.py"), &arguments)?;
    Ok(Cost { seconds: number(&answer, "seconds")?, peak: number(&answer, "peak")? })
}

fn pair(what: &str, file: f64, ours: &Cost, theirs: &Cost) -> [Figure; 2] {
    [
        lower(&format!("{what}, whole command"), "s", ours.seconds, theirs.seconds),
        lower(&format!("{what}, peak memory"), "x checkpoint", ours.peak / file, theirs.peak / file),
    ]
}

fn lower(what: &str, unit: &'static str, ours: f64, peer: f64) -> Figure {
    Figure { what: what.to_owned(), unit, ours, peer, better: Better::Lower }
}
