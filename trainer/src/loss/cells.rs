//! What cells of a view say where a teacher's are known.

use tch::{Kind, Tensor};

use super::distances;

/// The mean over all cells that count of one less the cosine of the student's and the target. Shapes: `(.., d)` twice, and
/// `(..)` ones where a cell counts, and zeros; nothing where none does.
pub fn cell_loss(student: &Tensor, targets: &Tensor, counts: &Tensor) -> Tensor {
    let each = distances(student, targets) / 2.0;
    (each * counts).sum(Kind::Float) / counts.sum(Kind::Float).clamp_min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Cell by cell, in double precision.
    #[test]
    fn it_is_the_mean_over_the_cells_that_count() {
        let _alone = crate::rng::alone();
        tch::manual_seed(7);
        let randn = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (student, targets) = (randn(&[2, 3, 5]), randn(&[2, 3, 5]));
        let counts = [1.0f32, 0.0, 1.0, 0.0, 0.0, 1.0];
        let row = |x: &Tensor, i: i64| {
            Vec::<f64>::try_from(x.view([6, 5]).get(i).to_kind(Kind::Double)).expect("numbers")
        };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let each = (0..6).filter(|&i| counts[i as usize] > 0.0).map(|i| {
            let (s, t) = (row(&student, i), row(&targets, i));
            1.0 - dot(&s, &t) / (dot(&s, &s) * dot(&t, &t)).sqrt()
        });
        let expected = each.sum::<f64>() / 3.0;
        let counted = Tensor::from_slice(&counts).view([2, 3]);
        let found = cell_loss(&student, &targets, &counted).double_value(&[]);
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        assert_eq!(cell_loss(&student, &targets, &counted.zeros_like()).double_value(&[]), 0.0);
    }
}
