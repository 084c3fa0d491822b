//! Images a second of an int8 model in ONNX Runtime: against the same model in fp32, and against what ONNX Runtime's
//! own quantiser makes of it.

use anyhow::Result;
use std::path::Path;

use super::{Better, Figure, number, peer};
use crate::{paths, sh};

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    let (checkpoint, images) = (folder.join("resnet50.safetensors"), folder.join("images"));
    let [single, ours, theirs] = ["fp32.onnx", "int8.onnx", "peer.onnx"].map(|name| folder.join(name));
    peer(include_str!("serve_inputs.py"), &[&checkpoint, &images])?;
    let export = || {
        let mut command = sh::command(paths::tool("occlude-export"));
        command.arg("onnx").arg("--force").arg(&checkpoint);
        command
    };
    sh::capture(export().arg(&single))?;
    sh::capture(export().arg(&ours).args(["--precision", "int8", "--calibrate"]).arg(&images))?;
    let answer = peer(include_str!("quantize.py"), &[&single, &ours, &images, &theirs])?;
    let figure = |what: &str, unit, ours, peer| -> Result<Figure> {
        Ok(Figure {
            what: what.into(),
            unit,
            ours: number(&answer, ours)?,
            peer: number(&answer, peer)?,
            better: Better::Higher,
        })
    };
    Ok(vec![
        figure("int8; peer: the same model in fp32", "images/s", "ours", "fp32")?,
        figure("int8; peer: ONNX Runtime's quantiser", "images/s", "ours", "peer")?,
        figure("least cosine with fp32; peer: the quantiser", "cosine", "cosine_ours", "cosine_peer")?,
    ])
}
