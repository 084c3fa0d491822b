//! Arithmetic on vectors.

/// The vector scaled to length 1, or what is wrong with it. Every sum is in `f64` and in order, so that the same
/// numbers give the same bits everywhere. What has length 1 but for rounding stays as it is: a stored vector that is stored
/// again is the same.
pub(crate) fn unit(vector: &[f32]) -> Result<Vec<f32>, &'static str> {
    if !vector.iter().all(|v| v.is_finite()) {
        return Err("a number that is not finite");
    }
    let norm = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if norm == 0.0 {
        return Err("nothing but zeros");
    }
    // Each number of a scaled vector is off by 2^-24 of itself at most, and so is the length.
    if (norm - 1.0).abs() < f64::from(f32::EPSILON) {
        return Ok(vector.to_vec());
    }
    Ok(vector.iter().map(|&v| (f64::from(v) / norm) as f32).collect())
}

/// Whether a stored vector can be one of ours.
pub(crate) fn is_unit(vector: &[f32]) -> bool {
    (dot(vector, vector) - 1.0).abs() < 1e-3
}

/// Sum of products, of vectors of one length.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // sixteen sums side by side, which the compiler turns into vector instructions
    let mut sums = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for ((s, x), y) in sums.iter_mut().zip(x).zip(y) {
            *s += x * y;
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// As little-endian bytes.
pub(crate) fn to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// From little-endian bytes, if there are as many as `dim` numbers take.
pub(crate) fn from_bytes(bytes: &[u8], dim: usize) -> Option<Vec<f32>> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    (numbers.len() == dim && rest.is_empty())
        .then(|| numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// Eight bits a number, the largest of them 127: the cosine does not mind the scale.
pub(crate) fn quantise(vector: &[f32]) -> Vec<i8> {
    let largest = vector.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
    vector.iter().map(|v| (v * 127.0 / largest).round() as i8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tiny_and_huge_vectors_have_a_direction() {
        for scale in [1e-44f32, 1e-30, 1.0, 3e37] {
            let found = unit(&[3.0 * scale, 4.0 * scale]).unwrap();
            assert!((found[0] - 0.6).abs() < 0.1 && is_unit(&found), "{scale}: {found:?}");
        }
        assert_eq!(unit(&[3.0, 4.0]).unwrap(), [0.6, 0.8]);
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        for bad in [[0.0, -0.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert!(unit(&bad).is_err(), "{bad:?}");
        }
        assert!(!is_unit(&[f32::NAN, 0.0]) && !is_unit(&[2.0, 0.0]) && is_unit(&[0.0, -1.0]));
    }

    #[test]
    fn eight_bits_keep_the_direction() {
        assert_eq!(quantise(&[1.0, -0.5, 0.0]), [127, -64, 0]);
        assert_eq!(quantise(&[0.001, -0.001]), [127, -127]);
    }

    proptest! {
        #[test]
        fn products_sum_up(pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 0..70)) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let plain: f64 = pairs.iter().map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            prop_assert!((f64::from(dot(&a, &b)) - plain).abs() < 1e-4);
        }

        #[test]
        fn scaling_again_changes_nothing(vector in prop::collection::vec(-1e3f32..1e3, 1..300)) {
            let Ok(once) = unit(&vector) else { return Ok(()) };
            prop_assert_eq!(unit(&once).unwrap(), once);
        }

        #[test]
        fn bytes_come_back(vector in prop::collection::vec(any::<u32>().prop_map(f32::from_bits), 0..20)) {
            let bytes = to_bytes(&vector);
            let found = from_bytes(&bytes, vector.len()).unwrap();
            prop_assert!(found.iter().zip(&vector).all(|(a, b)| a.to_bits() == b.to_bits()));
            prop_assert!(from_bytes(&bytes, vector.len() + 1).is_none());
            prop_assert!(from_bytes(&[&bytes[..], &[0]].concat(), vector.len()).is_none());
        }
    }
}
