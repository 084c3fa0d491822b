//! Which outputs of a session are asked for, and what they say.

use std::collections::BTreeMap;

use occlude_contract::output::{EMBEDDING, FEATURES, SALIENCY, SALIENCY_SUM as SUM};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionOutputs};

use crate::inference::encode::{EncodeError, Encoded, Features, Plane, Wants};

/// The outputs that are asked for, by what is wanted.
pub(super) struct Selected {
    /// All that can be had.
    all: Wants,
    /// Whether there is a saliency map, which is asked for in any case then.
    maps: bool,
    options: BTreeMap<Wants, RunOptions<HasSelectedOutputs>>,
    plain: RunOptions<HasSelectedOutputs>,
}

/// Names of the outputs for what is wanted, with the saliency map or without.
fn names(wants: Wants, maps: bool) -> impl Iterator<Item = &'static str> {
    let all = [(EMBEDDING, true), (SALIENCY, maps), (FEATURES, wants.features), (SUM, wants.sum)];
    all.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name)
}

impl Selected {
    /// Those of a session that has been checked; others than saliency and embedding only where it has them.
    pub(super) fn new(session: &Session) -> ort::Result<Self> {
        let has = |name: &str| session.outputs().iter().any(|o| o.name() == name);
        let maps = has(SALIENCY);
        let select = |wants| {
            let all = names(wants, maps).fold(OutputSelector::no_default(), OutputSelector::with);
            Ok::<_, ort::Error>(RunOptions::new()?.with_outputs(all))
        };
        let all = Wants { features: has(FEATURES), sum: has(SUM) };
        let some = |wants: Wants| wants.or(all) == all;
        let sets = [(true, false), (false, true), (true, true)];
        let sets = sets.map(|(features, sum)| Wants { features, sum }).into_iter().filter(|w| some(*w));
        let options = sets.map(|wants| Ok::<_, ort::Error>((wants, select(wants)?)));
        let options = options.collect::<ort::Result<_>>()?;
        Ok(Self { all, maps, options, plain: select(Wants::default())? })
    }

    /// All that can be had.
    pub(super) fn all(&self) -> Wants {
        self.all
    }

    /// What of it can be had.
    pub(super) fn possible(&self, wants: Wants) -> Wants {
        Wants { features: wants.features && self.all.features, sum: wants.sum && self.all.sum }
    }

    pub(super) fn options(&self, wants: Wants) -> &RunOptions<HasSelectedOutputs> {
        self.options.get(&self.possible(wants)).unwrap_or(&self.plain)
    }

    pub(super) fn names(&self, wants: Wants) -> impl Iterator<Item = &'static str> {
        names(self.possible(wants), self.maps)
    }
}

/// Shape and values of an output.
pub(super) fn tensor<'o>(
    outputs: &'o SessionOutputs<'_>,
    name: &'static str,
) -> Result<(&'o [i64], &'o [f32]), EncodeError> {
    let missing = EncodeError::Output { output: name, got: vec![], expected: "an output".to_owned() };
    let (shape, values) = outputs.get(name).ok_or(missing)?.try_extract_tensor::<f32>()?;
    Ok((shape, values))
}

/// One result for each of `n` pictures.
pub(super) fn read(outputs: &SessionOutputs<'_>, n: usize) -> Result<Vec<Encoded>, EncodeError> {
    let saliency = outputs.get(SALIENCY).map(|_| tensor(outputs, SALIENCY)).transpose()?;
    let mut rows = rows(n, tensor(outputs, EMBEDDING)?, saliency)?;
    if outputs.get(FEATURES).is_some() {
        let (shape, values) = tensor(outputs, FEATURES)?;
        for (row, features) in rows.iter_mut().zip(features(n, shape, values)?) {
            row.features = Some(features);
        }
    }
    if outputs.get(SUM).is_some() {
        let (shape, values) = tensor(outputs, SUM)?;
        for (row, sum) in rows.iter_mut().zip(planes(n, SUM, shape, values)?) {
            row.sum = Some(sum);
        }
    }
    Ok(rows)
}

fn wrong(n: usize, output: &'static str, got: &[i64], expected: &str) -> EncodeError {
    EncodeError::Output { output, got: got.to_vec(), expected: format!("{expected} for {n} pictures") }
}

fn size(side: i64) -> usize {
    usize::try_from(side).unwrap_or(0)
}

/// Splits the outputs into one result for each picture.
fn rows(
    n: usize,
    embedding: (&[i64], &[f32]),
    saliency: Option<(&[i64], &[f32])>,
) -> Result<Vec<Encoded>, EncodeError> {
    let &[rows, dim] = embedding.0 else { return Err(wrong(n, EMBEDDING, embedding.0, "(n, d)")) };
    let dim = size(dim);
    if size(rows) != n || dim == 0 {
        return Err(wrong(n, EMBEDDING, embedding.0, "(n, d)"));
    }
    let row = |(e, s): (&[f32], Plane)| Encoded {
        embedding: e.to_vec(),
        grid: (s.height, s.width),
        saliency: s.values,
        features: None,
        sum: None,
    };
    let none = || Plane { height: 0, width: 0, values: vec![] };
    let maps = match saliency {
        Some((shape, values)) => planes(n, SALIENCY, shape, values)?,
        None => std::iter::repeat_with(none).take(n).collect(),
    };
    Ok(embedding.1.chunks_exact(dim).zip(maps).map(row).collect())
}

/// Splits grids.
fn planes(n: usize, output: &'static str, shape: &[i64], values: &[f32]) -> Result<Vec<Plane>, EncodeError> {
    let sides: Vec<usize> = shape.iter().map(|&s| size(s)).collect();
    let [rows, height, width] = sides[..] else { return Err(wrong(n, output, shape, "(n, h, w)")) };
    if rows != n || height * width == 0 {
        return Err(wrong(n, output, shape, "(n, h, w)"));
    }
    let plane = |values: &[f32]| Plane { height, width, values: values.to_vec() };
    Ok(values.chunks_exact(height * width).map(plane).collect())
}

/// Splits the feature maps.
fn features(n: usize, shape: &[i64], values: &[f32]) -> Result<Vec<Features>, EncodeError> {
    let sides: Vec<usize> = shape.iter().map(|&s| size(s)).collect();
    let [rows, channels, height, width] = sides[..] else {
        return Err(wrong(n, FEATURES, shape, "(n, c, h, w)"));
    };
    if rows != n || channels * height * width == 0 {
        return Err(wrong(n, FEATURES, shape, "(n, c, h, w)"));
    }
    let row = |values: &[f32]| Features { channels, height, width, values: values.to_vec() };
    Ok(values.chunks_exact(channels * height * width).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(embedding: &[f32], saliency: &[f32]) -> Encoded {
        let (embedding, saliency) = (embedding.to_vec(), saliency.to_vec());
        Encoded { embedding, saliency, grid: (1, 3), features: None, sum: None }
    }

    #[test]
    fn outputs_are_split_by_rows() {
        let saliency: (&[i64], &[f32]) = (&[2, 1, 3], &[5., 6., 7., 8., 9., 10.]);
        let made = rows(2, (&[2, 2], &[1., 2., 3., 4.]), Some(saliency)).unwrap();
        assert_eq!(made[0], encoded(&[1., 2.], &[5., 6., 7.]));
        assert_eq!(made[1], encoded(&[3., 4.], &[8., 9., 10.]));
        let without = rows(2, (&[2, 2], &[1., 2., 3., 4.]), None).unwrap();
        assert_eq!(without[1], Encoded { grid: (0, 0), ..encoded(&[3., 4.], &[]) });
        let maps = features(2, &[2, 2, 1, 1], &[1., 2., 3., 4.]).unwrap();
        assert_eq!(maps[1], Features { channels: 2, height: 1, width: 1, values: vec![3., 4.] });
        let sums = planes(2, SUM, &[2, 1, 2], &[1., 2., 3., 4.]).unwrap();
        assert_eq!(sums[1], Plane { height: 1, width: 2, values: vec![3., 4.] });
    }

    #[test]
    fn outputs_of_other_shapes_are_errors() {
        let name = |error| match error {
            EncodeError::Output { output, .. } => output,
            other => panic!("{other:?}"),
        };
        let fails = |e: &[i64], s: &[i64]| name(rows(2, (e, &[0.0; 8]), Some((s, &[0.0; 8]))).unwrap_err());
        assert_eq!(fails(&[2, 2, 1], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[1, 2], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[2, 0], &[2, 1, 1]), "embedding");
        assert_eq!(fails(&[2, 2], &[1, 1, 1]), "saliency");
        assert_eq!(fails(&[2, 2], &[2, 0, 1]), "saliency");
        for shape in [&[2i64, 2, 2][..], &[1, 2, 2, 1], &[2, 0, 2, 1]] {
            assert_eq!(name(features(2, shape, &[0.0; 8]).unwrap_err()), FEATURES);
            let shape = shape.get(..3).unwrap_or(&[2, 2]);
            assert_eq!(name(planes(3, SUM, shape, &[0.0; 8]).unwrap_err()), SUM);
        }
    }
}
