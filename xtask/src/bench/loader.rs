//! Samples a second of processor time, from JPEG files to two augmented views, against Pillow and torchvision.

use anyhow::{Context, Result};
use std::path::Path;

use super::{Better, Figure, number, peer};
use crate::{paths, sh};

/// Measures on `data`, or on photos that are generated into `folder`.
pub(super) fn run(folder: &Path, data: Option<&Path>) -> Result<Vec<Figure>> {
    let generated = folder.join("photos");
    let photos = match data {
        // the tools run in the checkout's root
        Some(data) => &data.canonicalize().with_context(|| format!("no folder `{}`", data.display()))?,
        None => &generated,
    };
    if data.is_none() {
        peer(include_str!("loader.py"), &[photos])?;
    }
    let (everything, cut) = (ours(photos, &[])?, ours(photos, &["--no-colours"])?);
    let theirs = peer(include_str!("loader.py"), &[photos, Path::new("measure")])?;
    // whichever way of writing it is faster
    let faster = |a, b| Ok::<_, anyhow::Error>(number(&theirs, a)?.max(number(&theirs, b)?));
    let figure = |what: &str, ours, peer| Figure {
        what: what.into(),
        unit: "samples/s/core",
        ours,
        peer,
        better: Better::Higher,
    };
    Ok(vec![
        figure("two views, augmented", everything, faster("all_pillow", "all_tensor")?),
        figure("two views, decoded and cropped only", cut, faster("cut_pillow", "cut_tensor")?),
        figure("the same against Pillow decoding alone", cut, number(&theirs, "decode")?),
    ])
}

fn ours(photos: &Path, more: &[&str]) -> Result<f64> {
    let mut tool = sh::command(paths::tool("occlude-train"));
    let text = sh::capture(tool.arg("loader-speed").arg(photos).args(more))?;
    let answer: serde_json::Value = serde_json::from_str(&text).context("`loader-speed` printed no JSON")?;
    number(&answer, "samples_per_s")
}
