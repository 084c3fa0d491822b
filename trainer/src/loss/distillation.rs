//! Losses of self-distillation: a student's softmax over prototypes follows a teacher's (arXiv 2104.14294, 2111.07832).

use tch::{Kind, Tensor};

/// What the teacher says: the softmax of its logits `(N, K)`, less the centre `(1, K)`, at its temperature.
pub fn targets(logits: &Tensor, center: &Tensor, temperature: f64) -> Tensor {
    ((logits - center) / temperature).softmax(-1, Kind::Float)
}

/// Cross-entropy of targets `(N, K)` and a student's logits `(N, K)` at its temperature, of each row.
pub fn cross_entropies(targets: &Tensor, logits: &Tensor, temperature: f64) -> Tensor {
    let log = (logits / temperature).log_softmax(-1, Kind::Float);
    -(targets * log).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
}

/// The mean over all pairs of one of the teacher's two views and another view of the student. `targets` `(2 B, K)`, `logits`
/// `(V B, K)`: those of the first views of all pictures come first, then those of the second, and so on.
pub fn class_loss(targets: &Tensor, logits: &Tensor, temperature: f64) -> Tensor {
    let pictures = targets.size()[0] / 2;
    let views = logits.size()[0] / pictures;
    let [first, second] = [0, 1].map(|i| targets.narrow(0, i * pictures, pictures));
    // cross-entropy is linear in targets: those of a view may be added before it
    let both = &first + &second;
    let mut of_views = vec![second, first];
    of_views.extend((2..views).map(|_| both.shallow_clone()));
    let sum = cross_entropies(&Tensor::cat(&of_views, 0), logits, temperature).sum(Kind::Float);
    sum / (pictures * (2 * views - 2)) as f64
}

/// The mean over `views` views of the mean over their hidden patches; a view without any counts as zero. `targets` and `logits` are
/// `(M, K)`, those of hidden patches, `weights` `(M)` one by the number of its view's.
pub fn patch_loss(
    targets: &Tensor,
    logits: &Tensor,
    weights: &Tensor,
    views: i64,
    temperature: f64,
) -> Tensor {
    (cross_entropies(targets, logits, temperature) * weights).sum(Kind::Float) / views as f64
}

/// Entropy of each row of probabilities `(N, K)`, in nats.
pub fn entropies(targets: &Tensor) -> Tensor {
    let log = targets.clamp_min(f64::from(f32::MIN_POSITIVE)).log();
    -(targets * log).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn randn(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    /// Row by row and prototype by prototype, in double precision.
    fn naive(target: &[f64], logits: &[f64], t: f64) -> f64 {
        let sum: f64 = logits.iter().map(|l| (l / t).exp()).sum();
        -target.iter().zip(logits).map(|(p, l)| p * (l / t - sum.ln())).sum::<f64>()
    }

    fn row(x: &Tensor, i: i64) -> Vec<f64> {
        Vec::<f64>::try_from(x.get(i).to_kind(Kind::Double)).expect("numbers")
    }

    #[test]
    fn the_class_loss_is_the_mean_over_pairs_of_different_views() {
        let _alone = crate::rng::alone();
        tch::manual_seed(4);
        let (b, k, views) = (3i64, 5i64, 4i64);
        let said = targets(&randn(&[2 * b, k]), &randn(&[1, k]), 0.3);
        assert!(
            (said.sum_dim_intlist([1i64].as_slice(), false, Kind::Float) - 1.0).abs().max().double_value(&[])
                < 1e-6
        );
        let logits = randn(&[views * b, k]);
        let (mut sum, mut terms) = (0.0, 0);
        for (t, v) in (0..2).flat_map(|t| (0..views).map(move |v| (t, v))).filter(|(t, v)| t != v) {
            for i in 0..b {
                sum += naive(&row(&said, t * b + i), &row(&logits, v * b + i), 0.1) / b as f64;
            }
            terms += 1;
        }
        let found = class_loss(&said, &logits, 0.1).double_value(&[]);
        assert!(terms == 6 && (found - sum / 6.0).abs() < 1e-5 * sum, "{found} {}", sum / 6.0);
    }

    #[test]
    fn the_patch_loss_counts_views_not_patches() {
        let _alone = crate::rng::alone();
        tch::manual_seed(5);
        let (said, logits) = (randn(&[3, 4]).softmax(1, Kind::Float), randn(&[3, 4]));
        let weights = Tensor::from_slice(&[0.5f32, 0.5, 1.0]);
        let each: Vec<f64> = (0..3).map(|i| naive(&row(&said, i), &row(&logits, i), 0.2)).collect();
        let expected = ((each[0] + each[1]) / 2.0 + each[2]) / 4.0;
        let found = patch_loss(&said, &logits, &weights, 4, 0.2).double_value(&[]);
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }

    #[test]
    fn entropy_is_that_of_the_definition() {
        let p = Tensor::from_slice(&[0.25f32, 0.25, 0.25, 0.25, 1.0, 0.0, 0.0, 0.0]).view([2, 4]);
        let found = Vec::<f32>::try_from(entropies(&p)).expect("numbers");
        assert!((found[0] - 4f32.ln()).abs() < 1e-6 && found[1].abs() < 1e-6, "{found:?}");
    }
}
