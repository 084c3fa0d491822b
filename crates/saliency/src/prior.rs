//! Maps that no network makes: what a saliency map must beat to be worth serving.
//!
//! [`centre`] looks at nothing: people point cameras at things. [`border_colour`] looks at colours: what differs from the
//! border of the picture is rarely background (Wei et al., "Geodesic saliency using background priors", ECCV 2012,
//! doi 10.1007/978-3-642-33712-3_3). Both were chosen for being simple, and their constants on photos of people in
//! streets, where they are strong.

use crate::{Error, Map, check_len, normalise};

/// Standard deviation of the blob in the centre, as a share of each side.
pub const SIGMA: f64 = 0.22;
/// Width of the border, as a share of the shorter side; at least one pixel.
const BORDER: f64 = 0.05;
/// Standard deviation of the blur of distances, as a share of the longer side.
const BLUR: f64 = 0.01;
/// Where the Gaussian is cut, in standard deviations.
const REACH: f64 = 3.0;

/// A Gaussian blob in the middle, 1 at most. Shape: `(height, width)`, row-major.
pub fn centre(height: usize, width: usize) -> Vec<f32> {
    let along = |n: usize| -> Vec<f64> {
        let at = |i| (((i as f64 + 0.5) / n as f64 - 0.5) / SIGMA).powi(2);
        (0..n).map(at).collect()
    };
    let (rows, columns) = (along(height), along(width));
    rows.iter().flat_map(|y| columns.iter().map(move |x| (-0.5 * (x + y)).exp() as f32)).collect()
}

/// Weights that add up to nothing: a mean weighted by `centre`, less the mean weighted by what is left of 1.
pub fn contrast(centre: &[f32]) -> Vec<f32> {
    let inside: f64 = centre.iter().map(|&g| f64::from(g)).sum();
    let outside = centre.len() as f64 - inside;
    let weight = |&g: &f32| (f64::from(g) / inside - (1.0 - f64::from(g)) / outside) as f32;
    centre.iter().map(weight).collect()
}

/// How far the colour of each pixel is from the nearest of four colours, the means of a strip along each side of the
/// picture, in CIE Lab; blurred a little, scaled to 0..1, and times [`centre`]. `rgb` has the shape
/// `(height, width, 3)`, the result `(height, width)`. A picture of one colour gives the blob.
///
/// # Errors
/// [`Error::Empty`] and [`Error::Length`] where `rgb` is no picture of that size.
pub fn border_colour(rgb: &[u8], (height, width): (usize, usize)) -> Result<Vec<f32>, Error> {
    check_len(height, width, 3, rgb.len())?;
    let lab = lab(rgb);
    let colours = border_colours(&lab, (height, width));
    let nearest = |pixel: &[f32; 3]| colours.iter().map(|c| distance(pixel, c)).fold(f32::INFINITY, f32::min);
    let distances: Vec<f32> = lab.iter().map(nearest).collect();
    let blurred = blur(&distances, (height, width), BLUR * height.max(width) as f64);
    let scaled = normalise(Map::new(height, width, &blurred)?);
    Ok(scaled.iter().zip(centre(height, width)).map(|(v, blob)| v * blob).collect())
}

/// The product of two maps of one size, each scaled to 0..1 before: what both call salient.
///
/// # Errors
/// [`Error::Sizes`] where they have different sizes.
pub fn product(a: Map<'_>, b: Map<'_>) -> Result<Vec<f32>, Error> {
    let (size, other) = ((a.height(), a.width()), (b.height(), b.width()));
    if size != other {
        return Err(Error::Sizes { map: size, mask: other });
    }
    Ok(normalise(a).iter().zip(normalise(b)).map(|(a, b)| a * b).collect())
}

/// sRGB (IEC 61966-2-1) to CIE 1976 L*a*b* of the white D65.
fn lab(rgb: &[u8]) -> Vec<[f32; 3]> {
    let linear: [f32; 256] = std::array::from_fn(|v| {
        let v = v as f32 / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    // the primaries of sRGB, each row divided by its white
    const XYZ: [[f32; 3]; 3] = [
        [0.412_456_4 / 0.950_47, 0.357_576_1 / 0.950_47, 0.180_437_5 / 0.950_47],
        [0.212_672_9, 0.715_152_2, 0.072_175],
        [0.019_333_9 / 1.088_83, 0.119_192 / 1.088_83, 0.950_304_1 / 1.088_83],
    ];
    const DELTA: f32 = 6.0 / 29.0;
    let f = |t: f32| {
        if t > DELTA * DELTA * DELTA { t.cbrt() } else { t / (3.0 * DELTA * DELTA) + 4.0 / 29.0 }
    };
    let pixel = |p: &[u8; 3]| {
        let p = p.map(|v| linear[usize::from(v)]);
        let [x, y, z] = XYZ.map(|row| f(row[0] * p[0] + row[1] * p[1] + row[2] * p[2]));
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    rgb.as_chunks::<3>().0.iter().map(pixel).collect()
}

fn distance(a: &[f32; 3], b: &[f32; 3]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

/// Mean colours of the strips along the upper, lower, left and right side.
fn border_colours(lab: &[[f32; 3]], (height, width): (usize, usize)) -> [[f32; 3]; 4] {
    let border = ((BORDER * height.min(width) as f64).round() as usize).max(1);
    let mean = |inside: &dyn Fn(usize, usize) -> bool| {
        let (mut sum, mut n) = ([0f64; 3], 0u32);
        for (_, pixel) in lab.iter().enumerate().filter(|(i, _)| inside(i / width, i % width)) {
            sum.iter_mut().zip(pixel).for_each(|(sum, v)| *sum += f64::from(*v));
            n += 1;
        }
        sum.map(|sum| (sum / f64::from(n.max(1))) as f32)
    };
    [
        mean(&|row, _| row < border),
        mean(&|row, _| row + border >= height),
        mean(&|_, column| column < border),
        mean(&|_, column| column + border >= width),
    ]
}

/// A Gaussian blur whose borders are continued with their last values.
fn blur(values: &[f32], (height, width): (usize, usize), sigma: f64) -> Vec<f32> {
    let reach = (REACH * sigma).ceil() as usize;
    let weights: Vec<f64> =
        (0..=2 * reach).map(|i| (-0.5 * ((i as f64 - reach as f64) / sigma).powi(2)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let weights: Vec<f32> = weights.iter().map(|w| (w / total) as f32).collect();
    let mut rows = vec![0f32; values.len()];
    for (from, to) in values.chunks_exact(width).zip(rows.chunks_exact_mut(width)) {
        for (x, to) in to.iter_mut().enumerate() {
            *to = weights
                .iter()
                .enumerate()
                .map(|(k, w)| w * from[(x + k).saturating_sub(reach).min(width - 1)])
                .sum();
        }
    }
    let mut out = vec![0f32; values.len()];
    for (y, to) in out.chunks_exact_mut(width).enumerate() {
        for (k, w) in weights.iter().enumerate() {
            let from = (y + k).saturating_sub(reach).min(height - 1) * width;
            to.iter_mut().zip(&rows[from..from + width]).for_each(|(to, v)| *to += w * v);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of tests/golden/prior.txt: a size, the bytes of a picture, and its map by numpy.
    #[test]
    fn equals_numpy() {
        let text = include_str!("../tests/golden/prior.txt");
        let lines: Vec<Vec<f64>> =
            text.lines().map(|l| l.split(' ').map(|v| v.parse().unwrap()).collect()).collect();
        assert_eq!(lines.len(), 12);
        for case in lines.chunks(3) {
            let size = (case[0][0] as usize, case[0][1] as usize);
            let rgb: Vec<u8> = case[1].iter().map(|&v| v as u8).collect();
            let map = border_colour(&rgb, size).unwrap();
            assert_eq!(map.len(), case[2].len());
            for (i, (ours, expected)) in map.iter().zip(&case[2]).enumerate() {
                // single precision, and the cube root of it, on a scale of 0 to 1
                assert!((f64::from(*ours) - expected).abs() < 2e-5, "{size:?}, {i}: {ours} {expected}");
            }
        }
    }

    #[test]
    fn colours_are_those_of_the_standard() {
        // white, black, and the primaries as tables of CIE Lab (D65) have them
        let of = |rgb: [u8; 3]| lab(&rgb)[0].map(|v| (v * 10.0).round() / 10.0 + 0.0);
        assert_eq!(of([255, 255, 255]), [100.0, 0.0, 0.0]);
        assert_eq!(of([0, 0, 0]), [0.0, 0.0, 0.0]);
        assert_eq!(of([255, 0, 0]), [53.2, 80.1, 67.2]);
        assert_eq!(of([0, 255, 0]), [87.7, -86.2, 83.2]);
        assert_eq!(of([0, 0, 255]), [32.3, 79.2, -107.9]);
    }

    #[test]
    fn the_blob_is_centred_and_as_wide_as_the_picture() {
        let map = centre(21, 41);
        let at = |y: usize, x: usize| map[y * 41 + x];
        assert_eq!(at(10, 20), 1.0);
        assert_eq!(at(3, 5), at(17, 35));
        // one standard deviation from the middle, along either side
        let value = |y: f64, x: f64| (-0.5 * ((y / 0.22).powi(2) + (x / 0.22).powi(2))).exp() as f32;
        assert!((at(15, 20) - value(5.0 / 21.0, 0.0)).abs() < 1e-6);
        assert!((at(10, 29) - value(0.0, 9.0 / 41.0)).abs() < 1e-6);
        assert!(centre(0, 3).is_empty());
    }

    #[test]
    fn another_colour_in_the_middle_stands_out() {
        let (h, w) = (40, 60);
        let inside = |i: usize| (i / w).abs_diff(20) < 8 && (i % w).abs_diff(24) < 10;
        let rgb: Vec<u8> =
            (0..h * w).flat_map(|i| if inside(i) { [200, 40, 40] } else { [60, 120, 60] }).collect();
        let map = border_colour(&rgb, (h, w)).unwrap();
        let mean = |which: bool| {
            let values: Vec<f32> = (0..h * w).filter(|&i| inside(i) == which).map(|i| map[i]).collect();
            values.iter().sum::<f32>() / values.len() as f32
        };
        assert!(mean(true) > 0.6 && mean(false) < 0.01, "{} {}", mean(true), mean(false));
    }

    #[test]
    fn pictures_of_one_colour_and_of_no_size() {
        assert_eq!(border_colour(&[7; 5 * 4 * 3], (5, 4)).unwrap(), centre(5, 4));
        assert_eq!(border_colour(&[7; 3], (1, 1)).unwrap(), [1.0]);
        assert!(matches!(border_colour(&[7; 11], (2, 2)), Err(Error::Length { expected: 12, got: 11, .. })));
        assert!(matches!(border_colour(&[], (0, 2)), Err(Error::Empty { .. })));
    }

    #[test]
    fn a_product_is_of_scaled_maps() {
        let a = Map::new(1, 3, &[0.0, 1.0, 2.0]).unwrap();
        let b = Map::new(1, 3, &[9.0, 8.0, 5.0]).unwrap();
        assert_eq!(product(a, b).unwrap(), [0.0, 0.375, 0.0]);
        let other = Map::new(3, 1, &[9.0, 8.0, 5.0]).unwrap();
        assert_eq!(product(a, other), Err(Error::Sizes { map: (1, 3), mask: (3, 1) }));
    }
}
