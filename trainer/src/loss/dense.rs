//! The dense contrastive loss between two views' patches: what is looked at in one view is alike in the other, and unlike what is
//! not looked at.

use tch::{Kind, Tensor};

/// The mean over all patches that the student has and all that are alike of the cross-entropy of a softmax of cosines by
/// `temperature`: each of the student's k best patches of a view is to be known as each of the teacher's k best patches of the
/// picture's other view among the teacher's worst patches of both views.
///
/// All are normalised, those of all pictures' first views before those of their second: `student` and `best` `(2 B, k, d)`,
/// `worst` `(2 B, n, d)`.
pub fn dense_loss(student: &Tensor, best: &Tensor, worst: &Tensor, temperature: f64) -> Tensor {
    let other = |x: &Tensor| x.roll([x.size()[0] / 2], [0i64]);
    let cosines = |x: &Tensor| (student.matmul(&x.transpose(1, 2)) / temperature).to_kind(Kind::Float);
    let alike = cosines(&other(best)); // (2 B, k, k)
    let unlike = cosines(&Tensor::cat(&[worst, &other(worst)], 1)).logsumexp([2i64].as_slice(), true);
    (alike.logaddexp(&unlike) - alike).mean(Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::normalize;
    use tch::Device;

    /// Pair by pair, in double precision, with the positive among what the softmax divides by.
    #[test]
    fn it_is_the_cross_entropy_of_every_pair() {
        let _alone = crate::rng::alone();
        tch::manual_seed(6);
        let (b, k, n, d) = (3i64, 2i64, 4i64, 5i64);
        let vectors = |count: i64| normalize(&Tensor::randn([2 * b, count, d], (Kind::Float, Device::Cpu)));
        let (student, best, worst) = (vectors(k), vectors(k), vectors(n));
        let dot = |x: &Tensor, y: &Tensor| (x * y).sum(Kind::Double).double_value(&[]);
        let (mut sum, mut terms) = (0.0, 0);
        for (i, view) in (0..b).flat_map(|i| (0..2).map(move |view| (i, view))) {
            let (own, other) = (i + view * b, i + (1 - view) * b);
            for (a, p) in (0..k).flat_map(|a| (0..k).map(move |p| (a, p))) {
                let anchor = student.get(own).get(a);
                let cosine = |x: &Tensor, place: i64| (dot(&anchor, &x.get(place)) / 0.2).exp();
                let alike = cosine(&best.get(other), p);
                let unlike: f64 =
                    (0..n).map(|j| cosine(&worst.get(own), j) + cosine(&worst.get(other), j)).sum();
                sum -= (alike / (alike + unlike)).ln();
                terms += 1;
            }
        }
        let found = dense_loss(&student, &best, &worst, 0.2).double_value(&[]);
        let expected = sum / f64::from(terms);
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}
