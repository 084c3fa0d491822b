//! Running a model for a comparison.

use std::time::{Duration, Instant};

use occlude_contract::InputKind;
use occlude_preprocess::Preprocess;

use super::report::Difference;
use crate::pictures::Inputs;
use crate::runtime::Session;
use crate::{Error, OnnxFile, golden};

/// Pictures that ONNX Runtime gets at once; a batch that is not full is run as it is.
pub(super) const BATCH: usize = 8;

/// How far the model is from its golden answer; `None` where it has none.
pub(super) fn reproduced(
    file: &OnnxFile,
    contract: &Preprocess,
    input: InputKind,
) -> Result<Option<Difference>, Error> {
    let Some(golden) = file.golden()? else { return Ok(None) };
    let broken = |reason| Error::Golden { path: file.path().to_owned(), reason };
    let pixels = contract.pixels(&golden.picture().map_err(broken)?);
    let expected = golden::outputs(&golden);
    let names: Vec<String> = expected.keys().cloned().collect();
    let inputs = Inputs::prepared(vec![pixels], contract, input);
    let rows = Session::from_file(file.path())?.rows(&inputs.batch(0..1), &names)?;
    Ok(rows.first().map(|row| Difference::of(row, &expected)))
}

pub(super) fn measure<T>(f: impl FnOnce() -> Result<T, Error>) -> Result<(T, Duration), Error> {
    let start = Instant::now();
    f().map(|result| (result, start.elapsed()))
}

/// Milliseconds.
pub(super) fn per_picture(time: Duration, pictures: usize) -> f64 {
    time.as_secs_f64() * 1e3 / pictures.max(1) as f64
}
