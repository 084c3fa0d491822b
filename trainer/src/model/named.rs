//! Tensors with names: what is saved, loaded, averaged and optimised.

use anyhow::{Result, bail, ensure};
use tch::Tensor;

/// A tensor of a network and its name in the state dict.
#[derive(Debug)]
pub struct Named {
    /// Name, prefix included.
    pub name: String,
    /// The tensor itself (shares its storage with the network's).
    pub tensor: Tensor,
}

impl Named {
    /// Shares `tensor`.
    pub fn new(name: impl Into<String>, tensor: &Tensor) -> Self {
        Self { name: name.into(), tensor: tensor.shallow_clone() }
    }
}

/// The tensor called `name`.
///
/// # Errors
/// Where there is none.
pub fn find<'a>(tensors: &'a [Named], name: &str) -> Result<&'a Tensor> {
    match tensors.iter().find(|n| n.name == name) {
        Some(n) => Ok(&n.tensor),
        None => bail!("missing tensor `{name}`"),
    }
}

/// Copies `from` into `into`, name by name, strictly: the same names and shapes on both sides.
///
/// # Errors
/// With the first name that is missing, left over, or of another shape.
pub fn load(into: &[Named], from: &[Named]) -> Result<()> {
    for target in into {
        let source = find(from, &target.name)?;
        ensure!(
            source.size() == target.tensor.size(),
            "tensor `{}`: expected shape {:?}, got {:?}",
            target.name,
            target.tensor.size(),
            source.size()
        );
        tch::no_grad(|| target.tensor.shallow_clone().copy_(source));
    }
    if let Some(extra) = from.iter().find(|s| !into.iter().any(|t| t.name == s.name)) {
        bail!("unexpected tensor `{}`", extra.name);
    }
    Ok(())
}

/// `key = momentum * key + (1 - momentum) * query`, tensor by tensor, in one call.
///
/// # Errors
/// Where the lists do not match.
pub fn ema(key: &[Tensor], query: &[Tensor], momentum: f64) -> Result<()> {
    Ok(occlude_torch_ext::lerp(key, query, 1.0 - momentum)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    /// Largest difference of a moving average by the formula of the paper and by interpolation, for numbers of about one:
    /// two roundings of float32.
    const TWO_ROUNDINGS: f64 = 5e-7;

    #[test]
    fn a_moving_average_of_all_tensors_equals_the_formula() {
        let _alone = crate::rng::alone();
        tch::manual_seed(1);
        let some = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let shapes: [&[i64]; 3] = [&[7], &[3, 5], &[4, 2, 3, 3]];
        let (key, query) = (shapes.map(some), shapes.map(some));
        let expected: Vec<Tensor> = key.iter().zip(&query).map(|(k, q)| k * 0.99 + q * 0.01).collect();
        ema(&key, &query, 0.99).expect("averaged");
        for (found, expected) in key.iter().zip(&expected) {
            assert!((found - expected).abs().max().double_value(&[]) < TWO_ROUNDINGS);
        }
    }
}
