//! How much of what an encoder held alike it still holds alike: the share of each picture's nearest neighbours that were its
//! neighbours at the start. Needs no labels, and says how far a run went from the encoder that it began with, not whether
//! that was for the better.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use occlude_dataset::Dataset;
use occlude_preprocess::Preprocess;
use serde::{Deserialize, Serialize};
use tch::Kind;

use super::online::choose;
use crate::eval::Extractor;
use crate::loss::normalize;
use crate::model::Encoder;

/// Neighbours of a picture; of few pictures, half of them.
const K: i64 = 20;
/// Most pictures that are looked at, as each is compared with each.
const MOST: usize = 2_000;
/// Which of a data set they are, among the choices that are made of it.
const CHOICE: u64 = 3;

/// The neighbours at the start, as positions in the data set.
#[derive(Debug, Serialize, Deserialize)]
struct First {
    /// Hash of what the pictures are.
    data: String,
    neighbours: BTreeMap<usize, BTreeSet<usize>>,
}

/// The pictures, and the neighbours that they had.
pub(super) struct Kept {
    data: Dataset,
    first: First,
}

impl Kept {
    /// The neighbours by `encoder`, written to `path`: a resumed run has another encoder.
    ///
    /// # Errors
    /// Where no picture can be read, or the file not be written.
    pub(super) fn begin(
        (data, hash): (Dataset, String),
        path: &Path,
        (encoder, contract): (&Encoder, &Preprocess),
        workers: usize,
    ) -> Result<Self> {
        let neighbours = neighbours(&data, encoder, contract, workers)?;
        let first = First { data: hash, neighbours };
        let text = serde_json::to_string(&first)?;
        occlude_output::write(path, |w| writeln!(w, "{text}"))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { data, first })
    }

    /// Those of an earlier part of the run; none where the file is gone, or speaks of other pictures.
    ///
    /// # Errors
    /// Where the file is something else.
    pub(super) fn open((data, hash): (Dataset, String), path: &Path) -> Result<Option<Self>> {
        let Ok(text) = std::fs::read_to_string(path) else { return Ok(None) };
        let first: First = serde_json::from_str(&text).with_context(|| {
            format!("`{}` is damaged; hint: remove it, and the run continues without it", path.display())
        })?;
        Ok((first.data == hash).then_some(Self { data, first }))
    }

    /// The mean share of a picture's neighbours that were its neighbours at the start, 0 to 1, over the pictures that could be
    /// read both times.
    ///
    /// # Errors
    /// Where no picture can be read.
    pub(super) fn measure(&self, encoder: &Encoder, contract: &Preprocess, workers: usize) -> Result<f64> {
        let now = neighbours(&self.data, encoder, contract, workers)?;
        let shares: Vec<f64> = now
            .iter()
            .filter_map(|(picture, now)| {
                let first = self.first.neighbours.get(picture)?;
                Some(first.intersection(now).count() as f64 / first.len().max(1) as f64)
            })
            .collect();
        Ok(shares.iter().sum::<f64>() / shares.len().max(1) as f64)
    }
}

/// The nearest neighbours of some pictures among them, by the cosine.
fn neighbours(
    data: &Dataset,
    encoder: &Encoder,
    contract: &Preprocess,
    workers: usize,
) -> Result<BTreeMap<usize, BTreeSet<usize>>> {
    let which = choose(data.len(), MOST, CHOICE);
    let set = Extractor::Encoder(encoder, contract).run_some(data, &which, workers).context("neighbours")?;
    let n = set.samples.len() as i64;
    let nearest = tch::no_grad(|| {
        let x = normalize(&set.features);
        let cosine = x.matmul(&x.transpose(0, 1));
        let _ = cosine.diagonal(0, 0, 1).fill_(f64::NEG_INFINITY);
        cosine.topk(K.min(n / 2).max(1).min(n - 1), 1, true, false).1.to_kind(Kind::Int64)
    });
    let rows: Vec<Vec<i64>> = (0..n).map(|i| Vec::try_from(nearest.get(i))).collect::<Result<_, _>>()?;
    let place = |&i: &i64| set.samples[i as usize];
    Ok(set.samples.iter().zip(&rows).map(|(&of, row)| (of, row.iter().map(place).collect())).collect())
}
