//! Edges of the picture for a map that is too coarse to have any.
//!
//! The guided filter (He, Sun, Tang: Guided Image Filtering, ECCV 2010, TPAMI 2013) makes of a map, around every
//! pixel, the linear function of the picture's colours that comes nearest to it: where the picture is flat the map is
//! averaged, and where the picture has an edge the map gets one. All its means are over boxes, by running sums, so
//! that the cost does not depend on the radius. The functions change slowly, over a radius: they are found on a reduced
//! picture and interpolated (He, Sun: Fast Guided Filter, arXiv 1505.00996), which costs an eighth.

mod boxes;
mod reduced;

use boxes::Boxes;
use reduced::Reduced;

use crate::{Error, Map, check_len, normalise};

/// Smallest [`Guided::epsilon`]: below it, rounding and not the picture would decide.
const LEAST: f64 = 1e-6;

/// The picture that a map follows, with values in 0..1, of the map's size.
#[derive(Debug, Clone, Copy)]
pub enum Guide<'a> {
    /// (h, w), row-major.
    Grey(&'a [f32]),
    /// (h, w, 3), row-major. Tells apart what is equally bright.
    Colour(&'a [f32]),
}

impl<'a> Guide<'a> {
    fn channels(self) -> (usize, &'a [f32]) {
        match self {
            Self::Grey(values) => (1, values),
            Self::Colour(values) => (3, values),
        }
    }
}

/// How a map is refined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guided {
    /// Pixels to each side of a window's middle: how far the map may be off an edge that it should have.
    pub radius: usize,
    /// Variance of the guide (values in 0..1) from which on a window counts as one with an edge.
    pub epsilon: f32,
    /// Pixels along a side of those blocks whose means stand for them where the linear functions are found; 1 is exact.
    pub every: usize,
}

impl Guided {
    /// For a map whose cells were this many pixels wide before it was upsampled.
    pub fn for_cells(pixels: f64) -> Self {
        let radius = (pixels * RADIUS).round().max(1.0) as usize;
        Self { radius, epsilon: EPSILON, every: (radius / REDUCED).max(1) }
    }
}

/// Radius in cells, and epsilon. Masks of 16 street photos, reduced to 7 x 7 cells with noise and upsampled again, have an
/// IoU of 0.60 with themselves at the mean; refined with these 0.65, with half the radius 0.64, with ten times the epsilon
/// 0.63. From 14 x 14 cells it is 0.71, then 0.76, 0.76 and 0.74.
const RADIUS: f64 = 1.0;
const EPSILON: f32 = 1e-4;

/// Radius in blocks, at least, where pictures are reduced.
const REDUCED: usize = 4;

/// Bytes as values in 0..1.
pub fn unit(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|&b| f32::from(b) / 255.0).collect()
}

/// A map of the guide's size, refined by it. Shape: `(h, w)`, row-major. No value leaves the range of the map's.
///
/// # Errors
/// [`Error::Length`] for a guide of another size, [`Error::Guide`] for one with values that are not finite.
pub fn refine(map: Map<'_>, guide: Guide<'_>, how: Guided) -> Result<Vec<f32>, Error> {
    let (channels, values) = guide.channels();
    check_len(map.height(), map.width(), channels, values.len())?;
    if let Some(index) = values.iter().position(|v| !v.is_finite()) {
        return Err(Error::Guide { index });
    }
    let (low, high) = map.range();
    // On a scale of its own, so that maps of large values lose no digits.
    let unit = normalise(map);
    let size = (map.height(), map.width());
    let refined = match guide {
        Guide::Grey(values) => filtered::<1>(&unit, &centred(values), size, how),
        Guide::Colour(values) => filtered::<3>(&unit, &centred(values), size, how),
    };
    let span = f64::from(high) - f64::from(low);
    let back = |v: f32| (f64::from(low) + f64::from(v) * span) as f32;
    Ok(refined.into_iter().map(|v| back(v).clamp(low, high)).collect())
}

fn filtered<const C: usize>(
    map: &[f32],
    guide: &[Vec<f32>; C],
    size: (usize, usize),
    how: Guided,
) -> Vec<f32> {
    let reduced = Reduced::new(size, how.every);
    let (height, width) = reduced.size();
    let mut boxes = Boxes::new(height, width, (how.radius + reduced.every() / 2) / reduced.every());
    let small: [Vec<f32>; C] = std::array::from_fn(|c| reduced.blocks(&guide[c]));
    let lines = boxes.guided(&reduced.blocks(map), &small, f64::from(how.epsilon).max(LEAST));
    reduced.apply(&lines, guide)
}

/// Planes of an interleaved picture, each less its mean: the filter does not change, and small variances keep their
/// digits.
fn centred<const C: usize>(values: &[f32]) -> [Vec<f32>; C] {
    std::array::from_fn(|c| {
        let channel = || values.iter().skip(c).step_by(C);
        let mean = channel().map(|&v| f64::from(v)).sum::<f64>() / (values.len() / C).max(1) as f64;
        channel().map(|&v| v - mean as f32).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::boxes::{means, shares};
    use super::*;
    use proptest::prelude::*;

    /// Of a map's range: means in single precision (1e-7 of values in 0..1) less each other, over an `epsilon` of 1e-3
    /// or more, times a few.
    const TOLERANCE: f64 = 1e-3;

    /// The definition, window by window, in double precision; unclamped.
    fn naive(map: &[f32], guide: &[f32], channels: usize, (h, w): (usize, usize), how: Guided) -> Vec<f64> {
        let r = how.radius as isize;
        let window = |y: usize, x: usize| {
            let near = |at: usize, n: usize| {
                let at = at as isize;
                (at - r).max(0) as usize..=((at + r) as usize).min(n - 1)
            };
            near(y, h).flat_map(move |y| near(x, w).map(move |x| y * w + x)).collect::<Vec<_>>()
        };
        let mean = |cells: &[usize], f: &dyn Fn(usize) -> f64| {
            cells.iter().map(|&i| f(i)).sum::<f64>() / cells.len() as f64
        };
        let value = |i: usize, c: usize| f64::from(guide[i * channels + c]);
        let mut lines = Vec::new();
        for i in 0..h * w {
            let cells = window(i / w, i % w);
            let p = mean(&cells, &|i| f64::from(map[i]));
            let m: Vec<f64> = (0..channels).map(|c| mean(&cells, &|i| value(i, c))).collect();
            // Cramer's rule for three channels and for one.
            let covariance = |a: usize, b: usize| {
                let spread = mean(&cells, &|i| (value(i, a) - m[a]) * (value(i, b) - m[b]));
                spread + if a == b { f64::from(how.epsilon) } else { 0.0 }
            };
            let shared: Vec<f64> = (0..channels)
                .map(|c| mean(&cells, &|i| (value(i, c) - m[c]) * (f64::from(map[i]) - p)))
                .collect();
            let slope = if channels == 1 {
                vec![shared[0] / covariance(0, 0)]
            } else {
                let s: [[f64; 3]; 3] = std::array::from_fn(|r| std::array::from_fn(|c| covariance(r, c)));
                let determinant = |m: [[f64; 3]; 3]| {
                    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
                        - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
                };
                let replaced = |c: usize| {
                    let mut t = s;
                    (0..3).for_each(|r| t[r][c] = shared[r]);
                    determinant(t) / determinant(s)
                };
                (0..3).map(replaced).collect()
            };
            let offset = p - slope.iter().zip(&m).map(|(a, m)| a * m).sum::<f64>();
            lines.push((slope, offset));
        }
        let at = |i: usize| {
            let cells = window(i / w, i % w);
            let slope = |c: usize| mean(&cells, &|k| lines[k].0[c]);
            (0..channels).map(|c| slope(c) * value(i, c)).sum::<f64>() + mean(&cells, &|k| lines[k].1)
        };
        (0..h * w).map(at).collect()
    }

    /// A plain blur: the mean of the means over windows.
    fn blurred(map: &[f32], (h, w): (usize, usize), radius: usize) -> Vec<f32> {
        let mut boxes = Boxes::new(h, w, radius);
        let once = boxes.mean(|i| map[i]);
        boxes.mean(|i| once[i])
    }

    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut state = seed | 1;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn a_box_by_hand() {
        let row = [1.0, 2.0, 6.0, 3.0];
        let mut out = [0.0; 4];
        means(&row, 1, &shares(4, 1), &mut out);
        assert_eq!(out, [1.5, 3.0, 11.0 / 3.0, 4.5]);
        means(&row, 9, &shares(4, 9), &mut out);
        assert_eq!(out, [3.0; 4], "a window wider than the row is the row");
        let mut boxes = Boxes::new(4, 1, 1);
        assert_eq!(boxes.mean(|i| row[i]), [1.5, 3.0, 11.0 / 3.0, 4.5], "likewise down a column");
        means(&row, 0, &shares(4, 0), &mut out);
        assert_eq!(out, row);
    }

    #[test]
    fn an_edge_of_the_guide_becomes_one_of_the_map() {
        let (h, w) = (24, 32);
        // A map that rises slowly, and a picture with a step where it has half of its height.
        let map: Vec<f32> = (0..h * w).map(|i| (i % w) as f32 / (w - 1) as f32 * 40.0 + 10.0).collect();
        let step: Vec<f32> = (0..h * w).map(|i| if i % w < w / 2 { 0.2 } else { 0.8 }).collect();
        let colour: Vec<f32> = step.iter().flat_map(|&v| [0.5, v, 1.0 - v]).collect();
        let map = Map::new(h, w, &map).unwrap();
        let how = Guided { radius: 6, epsilon: 1e-3, every: 1 };
        let reduced = Guided { every: 3, ..how };
        let guides = [Guide::Grey(&step), Guide::Colour(&colour)];
        for (guide, how) in guides.into_iter().flat_map(|guide| [(guide, how), (guide, reduced)]) {
            let refined = refine(map, guide, how).unwrap();
            let row = &refined[12 * w..13 * w];
            let jump = row[w / 2] - row[w / 2 - 1];
            assert!(jump > 7.0, "{jump} where the map itself rises by 1.3");
            let other = (2..w - 2).filter(|x| *x != w / 2).map(|x| row[x] - row[x - 1]).fold(0.0, f32::max);
            assert!(other < jump / 4.0, "{other} elsewhere");
        }
        // A step of colours that are equally bright is none in grey.
        let hue: Vec<f32> = step.iter().flat_map(|&v| [v, 1.0 - v, 0.5]).collect();
        let refined = refine(map, Guide::Colour(&hue), how).unwrap();
        assert!(refined[12 * w + w / 2] - refined[12 * w + w / 2 - 1] > 7.0);
    }

    /// A disc on a ground of slowly changing colours: found on blocks, the refined map is nearly that found on pixels,
    /// and much nearer to it than the map before.
    #[test]
    fn reduced_pictures_do_as_well() {
        let (h, w) = (61, 80);
        let disc = |i: usize| ((i / w) as f32 - 30.0).hypot((i % w) as f32 - 40.0) < 17.0;
        let shade = |i: usize| (i % w) as f32 / 400.0 + (i / w) as f32 / 300.0;
        let colour = |i: usize| if disc(i) { [0.8 - shade(i), 0.3, shade(i)] } else { [shade(i), 0.5, 0.4] };
        let colours: Vec<f32> = (0..h * w).flat_map(colour).collect();
        let cells: Vec<f32> = (0..48)
            .map(|i| f32::from(u8::from((2..4).contains(&(i / 8)) && (2..6).contains(&(i % 8)))))
            .collect();
        let coarse = crate::upsample(Map::new(6, 8, &cells).unwrap(), h, w);
        let coarse = Map::new(h, w, &coarse).unwrap();
        let of = |every| {
            refine(coarse, Guide::Colour(&colours), Guided { radius: 10, epsilon: 1e-4, every }).unwrap()
        };
        let exact = of(1);
        let apart =
            |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f32>() / a.len() as f32;
        let moved = apart(&exact, coarse.values());
        for every in [2, 3] {
            let off = apart(&of(every), &exact);
            assert!(off < moved / 4.0, "{every}: {off}, where the filter itself changes {moved}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let map = Map::new(2, 2, &[0.0, 1.0, 2.0, 3.0]).unwrap();
        let how = Guided { radius: 1, epsilon: 1e-3, every: 1 };
        let short = refine(map, Guide::Colour(&[0.5; 11]), how);
        assert_eq!(short, Err(Error::Length { height: 2, width: 2, expected: 12, got: 11 }));
        assert!(matches!(refine(map, Guide::Grey(&[0.5; 3]), how), Err(Error::Length { expected: 4, .. })));
        let odd = refine(map, Guide::Grey(&[0.5, 0.5, f32::NAN, 0.5]), how);
        assert_eq!(odd, Err(Error::Guide { index: 2 }));
        // Nothing to tell apart, and nothing to divide by.
        let none = Guided { radius: 0, epsilon: 0.0, every: 0 };
        let kept = refine(map, Guide::Grey(&[0.5; 4]), none).unwrap();
        assert!(kept.iter().zip(map.values()).all(|(a, b)| (a - b).abs() < 1e-6), "{kept:?}");
        let flat = Map::new(1, 3, &[7.0; 3]).unwrap();
        assert_eq!(refine(flat, Guide::Grey(&[0.0, 0.5, 1.0]), how).unwrap(), [7.0; 3]);
    }

    #[test]
    fn settings_follow_the_cells() {
        assert_eq!(Guided::for_cells(36.0).radius, (36.0 * RADIUS).round() as usize);
        assert_eq!((Guided::for_cells(0.1).radius, Guided::for_cells(0.1).every), (1, 1));
        assert_eq!(Guided::for_cells(36.0).every, 9);
        assert_eq!(unit(&[0, 51, 255]), [0.0, 0.2, 1.0]);
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            (h, w) in (1usize..9, 1usize..9), radius in 0usize..5, power in 1i32..4, seed in any::<u64>(),
            colour in any::<bool>(), scale in 0.01f32..1000.0,
        ) {
            let channels = if colour { 3 } else { 1 };
            let map: Vec<f32> = numbers(seed, h * w).iter().map(|v| (v - 0.3) * scale).collect();
            let guide = numbers(seed ^ 0x5bd1, h * w * channels);
            let how = Guided { radius, epsilon: 10f32.powi(-power), every: 1 };
            let checked = Map::new(h, w, &map).unwrap();
            let (low, high) = checked.range();
            let span = f64::from(high - low);
            let of = if colour { Guide::Colour(&guide) } else { Guide::Grey(&guide) };
            let got = refine(checked, of, how).unwrap();
            let expected = naive(&map, &guide, channels, (h, w), how);
            for (got, expected) in got.iter().zip(&expected) {
                let expected = expected.clamp(f64::from(low), f64::from(high));
                prop_assert!((f64::from(*got) - expected).abs() <= TOLERANCE * span + 1e-6, "{got} {expected}");
                prop_assert!((low..=high).contains(got), "no value leaves the map's range");
            }
        }

        #[test]
        fn a_constant_guide_is_a_plain_blur(
            (h, w) in (1usize..20, 1usize..20), radius in 0usize..6, shade in 0f32..1.0, seed in any::<u64>(),
        ) {
            let map = numbers(seed, h * w);
            let how = Guided { radius, epsilon: 1e-3, every: 1 };
            let expected = blurred(&map, (h, w), radius);
            let checked = Map::new(h, w, &map).unwrap();
            let (grey, colour) = (vec![shade; h * w], vec![shade; h * w * 3]);
            for guide in [Guide::Grey(&grey), Guide::Colour(&colour)] {
                let got = refine(checked, guide, how).unwrap();
                prop_assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }
}
