//! Pictures of saliency: a heat map and its overlay.

use crate::{Error, check_len};

/// Control points of the colour scale, dark blue over magenta and orange to pale yellow: luminance rises steadily,
/// so it reads in grey and for colour-blind people too.
const SCALE: [[f32; 3]; 6] = [
    [10.0, 10.0, 40.0],
    [72.0, 20.0, 110.0],
    [158.0, 42.0, 99.0],
    [226.0, 89.0, 52.0],
    [249.0, 166.0, 40.0],
    [252.0, 250.0, 170.0],
];

/// The colour of a value in 0..1 (clamped; NaN counts as 0).
pub fn colour(value: f32) -> [u8; 3] {
    let last = SCALE.len() - 1;
    let at = if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) * last as f32 };
    let low = (at as usize).min(last - 1);
    let weight = at - low as f32;
    std::array::from_fn(|c| (SCALE[low][c] + (SCALE[low + 1][c] - SCALE[low][c]) * weight).round() as u8)
}

/// Values in 0..1 as RGB pixels; `None` (what the encoder did not see) becomes black. Shape: `(n, 3)`.
pub fn heat(values: &[Option<f32>]) -> Vec<u8> {
    values.iter().flat_map(|v| v.map_or([0; 3], colour)).collect()
}

/// How much darker the overlay shows what the encoder did not see.
const UNSEEN: f32 = 0.45;

/// A picture tinted by its saliency: every pixel mixed with the colour of its value by `opacity` (0..1); pixels
/// without a value are darkened. `rgb` has shape `(height, width, 3)`, `values` `(height, width)`.
pub fn overlay(
    rgb: &[u8],
    values: &[Option<f32>],
    (height, width): (usize, usize),
    opacity: f32,
) -> Result<Vec<u8>, Error> {
    check_len(height, width, 3, rgb.len())?;
    check_len(height, width, 1, values.len())?;
    let opacity = opacity.clamp(0.0, 1.0);
    let mut out = Vec::with_capacity(rgb.len());
    for (pixel, value) in rgb.chunks_exact(3).zip(values) {
        match value {
            Some(value) => {
                let tint = colour(*value);
                let mix = |(&p, t): (&u8, u8)| f32::from(p) + (f32::from(t) - f32::from(p)) * opacity;
                out.extend(pixel.iter().zip(tint).map(mix).map(|v| v.round() as u8));
            }
            None => out.extend(pixel.iter().map(|&p| (f32::from(p) * UNSEEN).round() as u8)),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_where_it_should_and_gets_lighter() {
        assert_eq!(colour(0.0), [10, 10, 40]);
        assert_eq!(colour(1.0), [252, 250, 170]);
        assert_eq!((colour(-3.0), colour(7.0), colour(f32::NAN)), (colour(0.0), colour(1.0), colour(0.0)));
        let luminance =
            |c: [u8; 3]| 0.2126 * f32::from(c[0]) + 0.7152 * f32::from(c[1]) + 0.0722 * f32::from(c[2]);
        let steps: Vec<f32> = (0..=100).map(|i| luminance(colour(i as f32 / 100.0))).collect();
        assert!(steps.windows(2).all(|w| w[1] >= w[0] - 0.8), "rounding may cost under one step");
        assert!(steps[100] - steps[0] > 200.0);
    }

    #[test]
    fn heat_of_values_and_of_nothing() {
        assert_eq!(heat(&[Some(1.0), None]), [252, 250, 170, 0, 0, 0]);
    }

    #[test]
    fn overlay_mixes_by_opacity() {
        let rgb = [100, 100, 100, 200, 200, 200];
        let values = [Some(0.0), None];
        assert_eq!(overlay(&rgb, &values, (1, 2), 0.0).unwrap(), [100, 100, 100, 90, 90, 90]);
        assert_eq!(overlay(&rgb, &values, (1, 2), 1.0).unwrap()[..3], [10, 10, 40]);
        assert_eq!(overlay(&rgb, &values, (1, 2), 0.5).unwrap()[..3], [55, 55, 70]);
    }

    #[test]
    fn overlay_checks_its_sizes() {
        assert!(matches!(
            overlay(&[0; 5], &[None; 2], (1, 2), 0.5),
            Err(Error::Length { expected: 6, got: 5, .. })
        ));
        assert!(matches!(
            overlay(&[0; 6], &[None; 3], (1, 2), 0.5),
            Err(Error::Length { expected: 2, got: 3, .. })
        ));
        assert!(matches!(overlay(&[], &[], (0, 2), 0.5), Err(Error::Empty { .. })));
    }
}
