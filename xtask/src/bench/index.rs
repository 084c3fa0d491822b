//! Seconds and memory of indexing a tree of ImageNet's size: listed, from the cached index, and by torchvision's
//! `ImageFolder`. Names only: the files are empty.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Better, Figure, number, peer};
use crate::{build, paths, sh};

const CLASSES: u32 = 1000;
const PICTURES: u32 = 1300;
/// Each is measured that often; the median counts.
const RUNS: usize = 5;

pub(super) fn run(folder: &Path) -> Result<Vec<Figure>> {
    build::tools_and(&["-p", "occlude-dataset", "--example", "index"])?;
    let (tree, cache) = (folder.join("tree"), folder.join("cache"));
    let figures = measure(&tree, &cache);
    // 1.3 million files are nothing to leave lying about
    fs::remove_dir_all(folder)?;
    figures
}

fn measure(tree: &Path, cache: &Path) -> Result<Vec<Figure>> {
    let tool = || sh::command(paths::release().join("examples/index"));
    let counts = [CLASSES, PICTURES].map(|n| n.to_string());
    sh::capture(tool().arg("make").arg(tree).args(counts))?;
    // the index of a tree that changed a moment ago is not kept
    thread::sleep(Duration::from_secs(3));
    let ours = |cache: &Path| {
        let text = sh::capture(tool().arg("open").arg(tree).arg(cache))?;
        serde_json::from_str(&text).context("no JSON")
    };
    let theirs = || peer(include_str!("index.py"), &[tree]);
    // one round that nobody counts: it brings the folders into memory, and writes the cached index
    let rounds = (0..=RUNS).map(|_| Ok([ours(Path::new("-"))?, ours(cache)?, theirs()?]));
    let rounds: Vec<[serde_json::Value; 3]> = rounds.collect::<Result<_>>()?;
    let median = |which: usize, key: &str| -> Result<f64> {
        let mut values =
            rounds.iter().skip(1).map(|round| number(&round[which], key)).collect::<Result<Vec<_>>>()?;
        values.sort_by(f64::total_cmp);
        Ok(values[RUNS / 2])
    };
    for which in 0..3 {
        ensure!(median(which, "pictures")? == f64::from(CLASSES * PICTURES), "not all pictures were found");
    }
    let figure = |what: &str, unit, which, key: &str, scale: f64| -> Result<Figure> {
        let (ours, peer) = (median(which, key)? / scale, median(2, key)? / scale);
        Ok(Figure { what: what.into(), unit, ours, peer, better: Better::Lower })
    };
    let mib = f64::from(1 << 20);
    Ok(vec![
        figure("1.3 million pictures, listed", "s", 0, "seconds", 1.0)?,
        figure("from the cached index", "s", 1, "seconds", 1.0)?,
        figure("peak memory, listed", "MiB", 0, "peak", mib)?,
        figure("peak memory, from the cached index", "MiB", 1, "peak", mib)?,
    ])
}
