//! A model that was taken over, beside the original.

use std::path::{Path, PathBuf};

use occlude_contract::{InputKind, key};
use occlude_preprocess::Preprocess;

use super::report::{Comparison, Difference, PictureResult};
use super::run::{BATCH, measure, per_picture, reproduced};
use crate::adopt::{self, Choice};
use crate::pictures::{Inputs, Pictures};
#[cfg(feature = "tract")]
use crate::runtime::TractModel;
use crate::runtime::{Outputs, Session};
use crate::{Error, OnnxFile};

/// What the embedding is made of, where the file is one that was taken over.
///
/// # Errors
/// [`Error::Foreign`] where it says something that this version does not know.
pub(super) fn choice(file: &OnnxFile) -> Result<Option<Choice>, Error> {
    let metadata = file.metadata();
    let Some(text) = metadata.get(key::ADOPTED) else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|_| file.foreign("known way to its embedding"))
}

/// Holds a model against the file that it was made from: ONNX Runtime runs both, the original one picture at a time, and
/// its answer is pooled and scaled by plain loops. Where tract can run the model, it does so, too.
pub(super) fn verify(
    file: &OnnxFile,
    choice: &Choice,
    (original, pictures, limit): (&Path, &[PathBuf], Option<usize>),
) -> Result<Comparison, Error> {
    let contract = file.contract()?;
    let fingerprint =
        (file.property(key::FINGERPRINT)?.to_owned(), adopt::fingerprint_of(original, &contract)?);
    let mut pictures = Pictures::expand(pictures, limit)?;
    let (inputs, paths) = pictures.load(0..pictures.paths.len(), &contract, InputKind::Float);
    pictures.not_all_broken()?;
    let names = [occlude_contract::output::EMBEDDING.to_owned()];
    let count = paths.len();
    let (ours, time) = measure(|| {
        let mut session = Session::from_file(file.path())?;
        let starts = (0..count).step_by(BATCH);
        let batch = |at: usize| session.rows(&inputs.batch(at..count.min(at + BATCH)), &names);
        Ok(starts.map(batch).collect::<Result<Vec<_>, Error>>()?.concat())
    })?;
    let (theirs, their_time) = measure(|| answers(original, choice, &inputs))?;
    let (tract, tract_time) = measure(|| Ok(in_tract(file, &contract, &inputs)))?;
    let mut notes = pictures.notes.clone();
    let mut times = vec![("ONNX Runtime", time), ("the original", their_time)];
    let tract = match tract {
        Ok(None) => vec![],
        Ok(Some(rows)) => {
            times.push(("tract", tract_time));
            rows
        }
        Err(error) => {
            notes.push(format!("note: compared in ONNX Runtime alone: {error}"));
            vec![]
        }
    };
    let results = paths.iter().enumerate().map(|(i, path)| PictureResult {
        path: path.clone(),
        tract: tract.get(i).map(|row| Difference::of(&ours[i], row)),
        reference: Difference::of(&ours[i], &theirs[i]),
        saliency: Default::default(),
    });
    Ok(Comparison {
        precision: file.precision().to_owned(),
        adopted: true,
        whitened: false,
        results: results.collect(),
        agreement: None,
        golden: reproduced(file, &contract, InputKind::Float)?,
        fingerprint,
        skipped: pictures.skipped(),
        notes,
        times: times.into_iter().map(|(name, time)| (name, per_picture(time, count))).collect(),
    })
}

/// What the original says, made into embeddings.
fn answers(original: &Path, choice: &Choice, inputs: &Inputs) -> Result<Vec<Outputs>, Error> {
    let mut session = Session::from_file(original)?;
    let one = |i: usize| {
        let mut embedding = None;
        session.run_as(&choice.input, &inputs.batch(i..i + 1), &choice.output, &mut |shape, values| {
            embedding = adopt::embeddings(choice, shape, values).and_then(|rows| rows.into_iter().next());
        })?;
        let reason = || format!("`{}` has not the shape that the embedding is made of", choice.output);
        let embedding = embedding.ok_or_else(|| Error::Runtime {
            runtime: "ONNX Runtime",
            action: "run the original",
            reason: reason(),
        })?;
        Ok(Outputs::from([(occlude_contract::output::EMBEDDING.to_owned(), embedding)]))
    };
    (0..inputs.len()).map(one).collect()
}

/// Where the programs are built with tract.
#[cfg(feature = "tract")]
fn in_tract(file: &OnnxFile, contract: &Preprocess, inputs: &Inputs) -> Result<Option<Vec<Outputs>>, Error> {
    let model = TractModel::load(file, contract.crop as usize)?;
    (0..inputs.len()).map(|i| model.run(&inputs.batch(i..i + 1))).collect::<Result<_, _>>().map(Some)
}

#[cfg(not(feature = "tract"))]
fn in_tract(_: &OnnxFile, _: &Preprocess, _: &Inputs) -> Result<Option<Vec<Outputs>>, Error> {
    Ok(None)
}
