//! What embeddings say of each other: a student's pictures are to be as alike as the teacher's are.

use tch::{Kind, Tensor};

/// The mean over all pairs of different rows of the squared difference between their cosine and that of the teacher's rows,
/// after the similarities of arXiv 1907.09682 and the relations of arXiv 1904.05068. Shapes: normalised `(B, D)` and `(B, E)`;
/// the lengths may differ.
pub fn relational_loss(student: &Tensor, teacher: &Tensor) -> Tensor {
    let cosines = |x: &Tensor| x.matmul(&x.transpose(0, 1)); // (B, B)
    let b = student.size()[0];
    // a row with itself has a cosine of one on both sides, but for rounding
    let itself = Tensor::eye(b, (Kind::Bool, student.device()));
    let apart = (cosines(student) - cosines(teacher)).masked_fill(&itself, 0.0);
    apart.square().sum(Kind::Float) / (b * (b - 1)).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::normalize;
    use tch::Device;

    fn rows(b: i64, d: i64) -> Tensor {
        Tensor::randn([b, d], (Kind::Double, Device::Cpu))
    }

    /// Pair by pair, by torch's own cosine, in double precision.
    #[test]
    fn it_is_the_mean_over_pairs_of_different_pictures() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let (student, teacher) = (rows(5, 4), rows(5, 7));
        let cosine =
            |x: &Tensor, i, j| Tensor::cosine_similarity(&x.get(i), &x.get(j), 0, 1e-12).double_value(&[]);
        let pairs = (0..5).flat_map(|i| (0..5).map(move |j| (i, j))).filter(|(i, j)| i != j);
        let each: Vec<f64> =
            pairs.map(|(i, j)| (cosine(&student, i, j) - cosine(&teacher, i, j)).powi(2)).collect();
        let expected = each.iter().sum::<f64>() / each.len() as f64;
        let float = |x: &Tensor| normalize(&x.to_kind(Kind::Float));
        let found = relational_loss(&float(&student), &float(&teacher)).double_value(&[]);
        assert!(each.len() == 20 && (found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn a_turned_teacher_says_the_same() {
        let _alone = crate::rng::alone();
        tch::manual_seed(4);
        let teacher = normalize(&rows(6, 5));
        let (turn, _) = Tensor::linalg_qr(&rows(5, 5), "reduced");
        let turned = teacher.matmul(&turn);
        assert!(relational_loss(&turned, &teacher).double_value(&[]) < 1e-12);
        assert_eq!(relational_loss(&teacher.narrow(0, 0, 1), &turned.narrow(0, 0, 1)).double_value(&[]), 0.0);
    }
}
