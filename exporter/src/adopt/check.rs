//! Does the model answer as one of ours has to? Found out by running it.

use std::path::Path;

use occlude_contract::{Golden, InputKind, golden, output};
use occlude_preprocess::{Preprocess, Rgb};

use crate::Error;
use crate::pictures::Inputs;
use crate::refusal::Refusal;
use crate::runtime::Session;

/// Pictures of the batch that is tried.
const BATCH: usize = 3;

/// Least cosine between a picture's answer alone and within a batch: kernels may add in another order, and no more.
const LEAST: f64 = 1.0 - 1e-5;

/// What is checked.
pub(super) struct Subject<'c> {
    pub(super) contract: &'c Preprocess,
    /// Whether the original took a fixed number of pictures.
    pub(super) fixed: bool,
    pub(super) precision: &'static str,
}

/// Runs the golden picture alone and at each place of a batch; gives what the file has to say about it.
///
/// # Errors
/// [`Refusal`] as [`Ok`], so that the caller names the file; [`Error`] where there is no runtime, or it does not take
/// the model.
pub(super) fn golden(model: &Path, subject: &Subject<'_>) -> Result<Result<Golden, Refusal>, Error> {
    let mut session = Session::from_file(model)?;
    let picture = golden::picture(subject.contract);
    let pixels = subject.contract.pixels(&picture);
    let mut run = |pictures: Vec<Rgb>| {
        let inputs = Inputs::prepared(pictures, subject.contract, InputKind::Float);
        let rows = session.rows(&inputs.batch(0..inputs.len()), &[output::EMBEDDING.to_owned()]);
        let take = |mut row: crate::runtime::Outputs| row.remove(output::EMBEDDING).unwrap_or_default();
        rows.map(|rows| rows.into_iter().map(take).collect::<Vec<_>>())
    };
    let alone = match run(vec![pixels.clone()]) {
        Ok(rows) => rows.into_iter().next().unwrap_or_default(),
        Err(error) => return Ok(Err(subject.run("one picture", &error))),
    };
    if let Some(refusal) = broken(&alone) {
        return Ok(Err(refusal));
    }
    let negative = Rgb { data: pixels.data.iter().map(|v| 255 - v).collect(), ..pixels.clone() };
    for at in 0..BATCH {
        let batch = (0..BATCH).map(|i| if i == at { &pixels } else { &negative }.clone()).collect();
        let rows = match run(batch) {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(subject.run(&format!("{BATCH} pictures"), &error))),
        };
        let cosine = rows.get(at).map_or(-1.0, |row| cosine(row, &alone));
        if cosine < LEAST {
            return Ok(Err(Refusal::Batch { batch: BATCH, cosine, hint: subject.of_batch() }));
        }
    }
    Ok(Ok(Golden::new(&picture, alone, vec![], "onnxruntime")))
}

impl Subject<'_> {
    fn run(&self, pictures: &str, error: &Error) -> Refusal {
        let reason = match error {
            Error::Runtime { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        let one = pictures == "one picture";
        let hint = match (one, self.fixed) {
            (false, true) => "export it with a dynamic batch: the number of pictures is built into it",
            _ => "`--contract` says another size of the crop",
        };
        Refusal::Run { pictures: pictures.to_owned(), crop: self.contract.crop, reason, hint }
    }

    /// Why answers may depend on what is beside them.
    fn of_batch(&self) -> &'static str {
        match (self.precision, self.fixed) {
            ("int8", _) => {
                "take the file in single precision, or one that is quantised statically: this one scales its integers by all pictures of a batch"
            }
            (_, true) => "export it with a dynamic batch: the number of pictures is built into it",
            _ => "export it in evaluation mode: this graph mixes pictures",
        }
    }
}

fn broken(embedding: &[f32]) -> Option<Refusal> {
    let refuse = |found: &str, hint| Some(Refusal::Answer { found: found.to_owned(), hint });
    if embedding.is_empty() {
        return refuse("empty", "`--output` names another one");
    }
    if !embedding.iter().all(|v| v.is_finite()) {
        return refuse(
            "not finite",
            "check the contract's mean and deviation, and whether the weights are whole",
        );
    }
    match embedding.iter().all(|v| *v == 0.0) {
        true => refuse("zero throughout", "`--output` names another one"),
        false => None,
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(&p, &q)| f64::from(p) * f64::from(q)).sum() };
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    if a.len() == b.len() && !cosine.is_nan() { cosine.min(1.0) } else { -1.0 }
}
