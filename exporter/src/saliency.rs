//! The rules of [`MapRule`], computed plainly: what the operators of a model are held against.

use occlude_preprocess::Preprocess;
use occlude_saliency::rule::{self, ALIKE, OPPONENT, SEGMENT, TINY};
use occlude_saliency::{MapRule, prior};

use crate::onnx::{Alignment, Projection};
use crate::reference::Map;

/// The map `(h, w)` of a stage's features and the picture `(3, side, side)`, normalised and unfiltered.
pub(crate) fn map(
    rule: MapRule,
    features: &Map,
    (pixels, contract): (&[f32], &Preprocess),
    projection: Option<&Projection>,
) -> Vec<f32> {
    let map = match rule {
        MapRule::Sum | MapRule::Attention => return features.channel_sum(),
        MapRule::Border => border(&Cells::of(features)),
        MapRule::Object => object(features, pixels, contract),
        MapRule::Alignment => alignment(features, projection),
    };
    map.into_iter().map(|v| v as f32).collect()
}

/// The mean of alignment maps; nothing without a head that makes some.
pub(crate) fn alignment(features: &Map, projection: Option<&Projection>) -> Vec<f64> {
    let Some(Alignment { head, scale }) = projection.and_then(Projection::alignment) else {
        return Vec::new();
    };
    let projected = |vector: &Vec<f64>| -> Vec<f64> {
        let cell: Vec<f32> = vector.iter().map(|&v| v as f32).collect();
        let z: Vec<f64> = head.forward(&cell).into_iter().map(f64::from).collect();
        let length = dot(&z, &z).sqrt().max(1e-12);
        z.into_iter().map(|v| v / length / f64::from(scale)).collect()
    };
    let scores: Vec<Vec<f64>> = Cells::of(features).vectors.iter().map(projected).collect();
    let mut mean = vec![0.0; scores.len()];
    for d in 0..head.dim() {
        let total: f64 = scores.iter().map(|s| s[d].exp()).sum();
        mean.iter_mut().zip(&scores).for_each(|(m, s)| *m += s[d].exp() / total / head.dim() as f64);
    }
    mean
}

/// Features by cell.
struct Cells {
    height: usize,
    width: usize,
    vectors: Vec<Vec<f64>>,
}

impl Cells {
    fn of(map: &Map) -> Self {
        let n = map.height * map.width;
        let vector = |cell: usize| (0..map.channels).map(|c| f64::from(map.data[c * n + cell])).collect();
        Self { height: map.height, width: map.width, vectors: (0..n).map(vector).collect() }
    }

    /// Means of cells along the border, [`SEGMENT`] at a time.
    fn segments(&self) -> Vec<Vec<f64>> {
        let (h, w) = (self.height, self.width);
        let row = |y: usize| (0..w).map(|x| y * w + x).collect::<Vec<_>>();
        let column = |x: usize| (0..h).map(|y| y * w + x).collect::<Vec<_>>();
        let lines = [row(0), row(h - 1), column(0), column(w - 1)];
        let mean = |cells: &[usize]| {
            let share = 1.0 / cells.len() as f64;
            weighted(cells.iter().map(|&cell| (self.vectors[cell].as_slice(), share)))
        };
        lines.iter().flat_map(|line| line.chunks(SEGMENT).map(mean)).collect()
    }

    /// Cells of the first and last row and column; a corner twice.
    fn sides(&self) -> Vec<&[f64]> {
        let (h, w) = (self.height, self.width);
        let rows = (0..w).flat_map(|x| [x, (h - 1) * w + x]);
        let columns = (0..h).flat_map(|y| [y * w, y * w + w - 1]);
        rows.chain(columns).map(|cell| self.vectors[cell].as_slice()).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn unit(v: &[f64]) -> Vec<f64> {
    let length = dot(v, v).sqrt() + f64::from(TINY);
    v.iter().map(|x| x / length).collect()
}

/// The sum of vectors, each times its weight.
fn weighted<'v>(vectors: impl Iterator<Item = (&'v [f64], f64)>) -> Vec<f64> {
    let mut sum = Vec::new();
    for (vector, weight) in vectors {
        sum.resize(vector.len(), 0.0);
        sum.iter_mut().zip(vector).for_each(|(s, v)| *s += weight * v);
    }
    sum
}

fn scaled(map: &[f64]) -> Vec<f64> {
    let (low, high) = map.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    map.iter().map(|v| (v - low) / (high - low + f64::from(TINY))).collect()
}

fn border(cells: &Cells) -> Vec<f64> {
    let sides = cells.sides();
    let share = 1.0 / sides.len() as f64;
    let direction = unit(&weighted(sides.into_iter().map(|v| (v, share))));
    cells.vectors.iter().map(|v| 1.0 - dot(&unit(v), &direction)).collect()
}

fn object(features: &Map, pixels: &[f32], contract: &Preprocess) -> Vec<f64> {
    let (h, w) = (features.height, features.width);
    let stride = rule::stride((pixels.len() / 3).isqrt(), h);
    let alike = scaled(&resemblance(features, &prior::contrast(&prior::centre(h, w))));
    let colours = colours(pixels, contract, rule::fine(stride));
    let (rows, columns) = (colours.height, colours.width);
    let (down, along) = (rule::between(h, stride, rows), rule::between(w, stride, columns));
    let fine = |y: usize, x: usize| {
        let cell = |i: usize| f64::from(down[y * h + i / w]) * f64::from(along[x * w + i % w]) * alike[i];
        (0..h * w).map(cell).sum::<f64>()
    };
    let border = colours.segments();
    let uniform = uniform(&border);
    let nearest = |v: &Vec<f64>| border.iter().map(|b| apart(v, b)).fold(f64::INFINITY, f64::min).sqrt();
    let distances: Vec<f64> = colours.vectors.iter().map(nearest).collect();
    let centre = prior::centre(rows, columns);
    let value = |(i, distance): (usize, f64)| {
        let alike = fine(i / columns, i % columns);
        distance * (alike + uniform * (1.0 - alike)) * f64::from(centre[i])
    };
    scaled(&distances).into_iter().enumerate().map(value).collect()
}

/// The square of a distance.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// How alike the border's colours are, over all pairs.
fn uniform(border: &[Vec<f64>]) -> f64 {
    let alike =
        |a: &Vec<f64>| border.iter().map(|b| (-0.5 * apart(a, b) / (ALIKE * ALIKE)).exp()).sum::<f64>();
    border.iter().map(alike).sum::<f64>() / (border.len() * border.len()) as f64
}

fn resemblance(features: &Map, contrast: &[f32]) -> Vec<f64> {
    let mut cells = Cells::of(features);
    let n = cells.vectors.len() as f64;
    for channel in 0..features.channels {
        let mean = cells.vectors.iter().map(|v| v[channel]).sum::<f64>() / n;
        let variance = cells.vectors.iter().map(|v| (v[channel] - mean).powi(2)).sum::<f64>() / n;
        let by = variance.sqrt() + f64::from(TINY);
        cells.vectors.iter_mut().for_each(|v| v[channel] = (v[channel] - mean) / by);
    }
    let units: Vec<Vec<f64>> = cells.vectors.iter().map(|v| unit(v)).collect();
    let direction = weighted(units.iter().zip(contrast).map(|(v, &w)| (v.as_slice(), f64::from(w))));
    units.iter().map(|v| dot(v, &direction)).collect()
}

/// The mean colours of cells of `stride` pixels.
fn colours(pixels: &[f32], contract: &Preprocess, stride: usize) -> Cells {
    let side = (pixels.len() / 3).isqrt();
    let n = side.div_ceil(stride);
    let mean = |channel: usize, cell: usize| {
        let range = |at: usize| at * stride..((at + 1) * stride).min(side);
        let (rows, columns) = (range(cell / n), range(cell % n));
        let count = (rows.len() * columns.len()) as f64;
        let at = |y: usize, x: usize| f64::from(pixels[(channel * side + y) * side + x]);
        rows.flat_map(|y| columns.clone().map(move |x| at(y, x))).sum::<f64>() / count
    };
    let colour = |cell: usize| -> Vec<f64> {
        let rgb: [f64; 3] = std::array::from_fn(|c| mean(c, cell) * f64::from(contract.std[c]));
        OPPONENT.iter().map(|row| dot(row, &rgb)).collect()
    };
    Cells { height: n, width: n, vectors: (0..n * n).map(colour).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 4x4 cells of two channels: an object in the middle, of another kind and colour.
    fn scene() -> (Map, Vec<f32>) {
        let inside = |cell: usize| (1..3).contains(&(cell / 4)) && (1..3).contains(&(cell % 4));
        let data = (0..32).map(|i| f32::from(u8::from(inside(i % 16) == (i >= 16)))).collect();
        let pixel = |i: usize| inside((i / 32) / 8 * 4 + (i % 32) / 8);
        let pixels = (0..3 * 1024).map(|i| if pixel(i % 1024) { 1.0 } else { -1.0 }).collect();
        (Map { channels: 2, height: 4, width: 4, data }, pixels)
    }

    #[test]
    fn every_rule_but_the_sum_finds_the_object() {
        let (features, pixels) = scene();
        let contract = Preprocess::imagenet(32);
        for rule in [MapRule::Border, MapRule::Object] {
            let map = map(rule, &features, (&pixels, &contract), None);
            let (inside, outside) = (map[map.len() / 2 - map.len().isqrt() / 2], map[0]);
            assert!(inside > outside + 0.3, "{rule}: {map:?}");
        }
        assert_eq!(map(MapRule::Sum, &features, (&pixels, &contract), None), [1.0; 16]);
    }

    #[test]
    fn a_picture_of_one_colour_has_finite_maps() {
        let features = Map { channels: 3, height: 2, width: 2, data: vec![0.5; 12] };
        for rule in MapRule::ALL {
            let map = map(rule, &features, (&[0.25; 3 * 256], &Preprocess::imagenet(16)), None);
            assert!(map.iter().all(|v| v.is_finite()), "{rule}: {map:?}");
        }
    }
}
