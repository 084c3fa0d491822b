//! Embeddings of the foreground alone.

use crate::{Error, Mask, check_len};

/// Shortest length that a vector is divided by, as in `torch.nn.functional.normalize`.
const MIN_LENGTH: f64 = 1e-12;

/// The mean of a feature map `(channels, height, width)` over the foreground cells of a mask `(height, width)`, scaled
/// to length one: an embedding without the background. A mask without foreground counts as one of the whole picture.
///
/// # Errors
/// [`Error::Length`] for features that do not fill `channels` grids of the mask's size.
pub fn foreground_pooled(channels: usize, features: &[f32], mask: &Mask) -> Result<Vec<f32>, Error> {
    check_len(mask.height(), mask.width(), channels, features.len())?;
    let any = mask.cells().contains(&true);
    let mean = |plane: &[f32]| {
        let inside = plane.iter().zip(mask.cells()).filter(|(_, inside)| **inside || !any);
        let (sum, count) = inside.fold((0f64, 0u32), |(sum, n), (v, _)| (sum + f64::from(*v), n + 1));
        sum / f64::from(count)
    };
    let means: Vec<f64> = features.chunks_exact(mask.cells().len()).map(mean).collect();
    let length = means.iter().map(|m| m * m).sum::<f64>().sqrt().max(MIN_LENGTH);
    Ok(means.iter().map(|m| (m / length) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_numpy() {
        let text = include_str!("../tests/golden/pool.txt");
        let lines: Vec<Vec<f32>> =
            text.lines().map(|l| l.split(' ').map(|v| v.parse().unwrap()).collect()).collect();
        assert_eq!(lines.len(), 20);
        for case in lines.chunks(4) {
            let [c, h, w] = case[0][..] else { panic!("{:?}", case[0]) };
            let mask =
                Mask::new(h as usize, w as usize, case[2].iter().map(|&v| v == 1.0).collect()).unwrap();
            let pooled = foreground_pooled(c as usize, &case[1], &mask).unwrap();
            assert_eq!(pooled.len(), case[3].len());
            for (got, want) in pooled.iter().zip(&case[3]) {
                assert!((got - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }

    #[test]
    fn features_of_another_size_are_an_error() {
        let mask = Mask::new(2, 2, vec![true; 4]).unwrap();
        assert!(matches!(foreground_pooled(3, &[0.0; 11], &mask), Err(Error::Length { expected: 12, .. })));
        assert_eq!(foreground_pooled(1, &[0.0; 4], &mask), Ok(vec![0.0]), "no division by nothing");
    }
}
