//! The embedding of what the original answers, by loops that share nothing with the added operations.

use super::choice::{Choice, Pooling};
use super::nodes::MIN_LENGTH;

/// One embedding for each picture of an output `(n, ..)`; `None` where its shape is another one than the choice is for.
pub(crate) fn embeddings(choice: &Choice, shape: &[i64], values: &[f32]) -> Option<Vec<Vec<f32>>> {
    let sides: Vec<usize> = shape.iter().map(|&s| usize::try_from(s).ok()).collect::<Option<_>>()?;
    let (&rows, inner) = sides.split_first()?;
    let length = inner.iter().product::<usize>();
    if length == 0 || values.len() != rows.checked_mul(length)? {
        return None;
    }
    let one = |row: &[f32]| {
        let pooled = match (inner, choice.pool) {
            (&[_], _) => Some(row.iter().map(|&v| f64::from(v)).collect()),
            (&[_, dim], Some(Pooling::Cls)) => {
                row.get(..dim).map(|t| t.iter().map(|&v| f64::from(v)).collect())
            }
            (&[tokens, dim], Some(Pooling::Mean)) => {
                let from = choice.skip.min(tokens);
                let column = |d: usize| row.iter().skip(from * dim + d).step_by(dim).map(|&v| f64::from(v));
                Some((0..dim).map(|d| column(d).sum::<f64>() / (tokens - from) as f64).collect())
            }
            (&[_, height, width], Some(Pooling::Mean)) => {
                let mean =
                    |plane: &[f32]| plane.iter().map(|&v| f64::from(v)).sum::<f64>() / plane.len() as f64;
                Some(row.chunks(height * width).map(mean).collect())
            }
            _ => None,
        };
        pooled.map(|v: Vec<f64>| scaled(v, choice.normalize))
    };
    values.chunks(length).map(one).collect()
}

fn scaled(vector: Vec<f64>, normalize: bool) -> Vec<f32> {
    let length = vector.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::from(MIN_LENGTH));
    let by = if normalize { length } else { 1.0 };
    vector.into_iter().map(|v| (v / by) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(pool: Option<Pooling>, skip: usize, normalize: bool) -> Choice {
        Choice { input: "input".to_owned(), output: "output".to_owned(), pool, skip, normalize }
    }

    #[test]
    fn vectors_tokens_and_maps() {
        let of = |pool, skip, shape: &[i64]| {
            let values: Vec<f32> = (1..=12).map(|v| v as f32).collect();
            embeddings(&choice(pool, skip, false), shape, &values)
        };
        assert_eq!(of(None, 0, &[6, 2]).expect("vectors")[1], [3.0, 4.0]);
        assert_eq!(of(Some(Pooling::Cls), 0, &[2, 3, 2]).expect("tokens"), [[1.0, 2.0], [7.0, 8.0]]);
        assert_eq!(of(Some(Pooling::Mean), 0, &[2, 3, 2]).expect("tokens")[1], [9.0, 10.0]);
        assert_eq!(of(Some(Pooling::Mean), 1, &[2, 3, 2]).expect("tokens")[0], [4.0, 5.0]);
        assert_eq!(of(Some(Pooling::Mean), 0, &[1, 3, 2, 2]).expect("a map"), [[2.5, 6.5, 10.5]]);
        for shape in [&[2i64, 3, 2][..], &[12], &[5, 2], &[-1, 2], &[0, 2], &[1, 12, 0]] {
            assert_eq!(of(None, 0, shape), None, "{shape:?}");
        }
        let unit = embeddings(&choice(None, 0, true), &[1, 2], &[3.0, 4.0]).expect("a vector");
        assert_eq!(unit, [[0.6, 0.8]]);
    }
}
