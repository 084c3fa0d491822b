//! Whitening of embeddings: their mean, and the directions in which pictures differ most, found without labels.
//!
//! Pooled features behind a rectifier all point the same way: cosines of different pictures are near one, and a few
//! directions of large variance decide which neighbours are near. Principal components of the covariance, each divided by
//! its standard deviation, change both (<https://arxiv.org/abs/2103.15316>).

use anyhow::{Context, Result, ensure};
use occlude_checkpoint::{Whitening, WhiteningInfo};
use tch::{Device, Kind, Tensor};

use crate::loss::normalize;

/// What is added to each direction's variance, as a share of the mean over all directions: what few pictures
/// hardly show is not blown up to the size of the rest.
pub const SHRINKAGE: f64 = 0.1;

/// What is done to embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Their mean is taken away.
    Center,
    /// So many principal components of what is left, each of the same variance.
    Pca(usize),
}

/// Mean and scatter of embeddings, gathered piece by piece in double precision.
#[derive(Debug)]
pub struct Moments {
    pictures: i64,
    /// `(D)`
    mean: Tensor,
    /// `(D, D)`: the sum of the outer products of what departs from the mean.
    scatter: Tensor,
}

impl Moments {
    /// Of no embedding yet, of `dim` numbers each.
    pub fn new(dim: usize) -> Self {
        let (d, options) = (dim as i64, (Kind::Double, Device::Cpu));
        Self { pictures: 0, mean: Tensor::zeros([d], options), scatter: Tensor::zeros([d, d], options) }
    }

    /// Those of one set.
    pub fn of(features: &Tensor) -> Self {
        let mut moments = Self::new(features.size()[1] as usize);
        moments.add(features);
        moments
    }

    /// Adds `(N, D)`: two sets' moments make those of both, wherever the sets were parted (Chan, Golub and LeVeque,
    /// <https://doi.org/10.1080/00031305.1983.10483115>).
    pub fn add(&mut self, features: &Tensor) {
        let x = features.to_device(Device::Cpu).to_kind(Kind::Double);
        let new = x.size()[0];
        if new == 0 {
            return;
        }
        let mean = x.mean_dim([0i64].as_slice(), false, Kind::Double);
        let apart = &x - &mean;
        let step = &mean - &self.mean;
        let (before, all) = (self.pictures as f64, (self.pictures + new) as f64);
        let between = step.outer(&step) * (before * new as f64 / all);
        self.scatter += apart.transpose(0, 1).matmul(&apart) + between;
        self.mean += step * (new as f64 / all);
        self.pictures += new;
    }

    /// Numbers of an embedding.
    pub fn dim(&self) -> usize {
        self.mean.size()[0] as usize
    }

    /// Embeddings that were added.
    pub fn pictures(&self) -> usize {
        self.pictures as usize
    }

    /// The most components that these embeddings have.
    pub fn components(&self) -> usize {
        self.dim().min(self.pictures().saturating_sub(1))
    }

    /// Fits; `encoder` is the fingerprint of what made the embeddings.
    ///
    /// # Errors
    /// Where there are too few or all are the same, or where more components are asked for than they have numbers.
    pub fn fit(&self, how: How, encoder: &str) -> Result<Whitening> {
        let (pictures, numbers) = (self.pictures(), self.dim());
        ensure!(pictures >= 2, "{pictures} pictures are too few for a mean; hint: use hundreds of pictures");
        if let How::Pca(dim) = how {
            ensure!(dim <= numbers, "`{dim}` is more than the {numbers} numbers of these embeddings");
            ensure!(
                dim < pictures,
                "whitening to {dim} numbers takes more than {dim} pictures, and there are {pictures}; hint: use more pictures, or fewer numbers"
            );
        }
        let variance = &self.scatter / (pictures - 1) as f64;
        let total = variance.trace().double_value(&[]);
        ensure!(total.is_finite(), "the embeddings are not finite numbers; hint: is the checkpoint intact?");
        ensure!(
            total > 0.0,
            "the embeddings of all {pictures} pictures are the same; hint: are the pictures the same, or has training collapsed?"
        );
        let about = |variance, shrinkage| WhiteningInfo {
            pictures: pictures as u64,
            shrinkage,
            variance,
            encoder: encoder.to_owned(),
        };
        let (weight, bias, info) = match how {
            How::Center => (None, -&self.mean, about(1.0, 0.0)),
            How::Pca(dim) => {
                let (weight, kept) = components(&variance, dim as i64, SHRINKAGE * total / numbers as f64);
                let bias = -weight.matmul(&self.mean);
                (Some(weight), bias, about((kept / total).min(1.0), SHRINKAGE))
            }
        };
        let floats = |t: Tensor| Vec::<f32>::try_from(t.to_kind(Kind::Float).flatten(0, -1));
        Whitening::new(weight.map(floats).transpose()?, floats(bias)?, numbers, info)
            .map_err(anyhow::Error::msg)
            .context("the whitening cannot be used")
    }
}

/// The eigenvectors of the `dim` largest eigenvalues of `variance` `(D, D)`, largest first, each divided by the root of
/// its eigenvalue and `ridge`: `(dim, D)`; and the sum of these eigenvalues.
fn components(variance: &Tensor, dim: i64, ridge: f64) -> (Tensor, f64) {
    let (values, vectors) = variance.linalg_eigh("L"); // ascending; in columns
    let first = values.size()[0] - dim;
    let values = values.narrow(0, first, dim).flip([0]).clamp_min(0.0);
    let rows = vectors.narrow(1, first, dim).flip([1]).transpose(0, 1); // (dim, D)
    // The sign of an eigenvector is anybody's choice: its largest number is positive.
    let largest = rows.abs().argmax(1, true);
    let rows = &rows * rows.gather(1, &largest, false).sign();
    let kept = values.sum(Kind::Double).double_value(&[]);
    (rows / (values + ridge).sqrt().unsqueeze(1), kept)
}

/// A whitening at work on batches.
#[derive(Debug)]
pub struct Whitener {
    weight: Option<Tensor>,
    bias: Tensor,
}

impl Whitener {
    /// Of a checkpoint, or one that was fitted.
    pub fn new(whitening: &Whitening) -> Self {
        let double = |values: &[f32]| Tensor::from_slice(values).to_kind(Kind::Double);
        let weight = whitening.weight().map(|w| double(w).view([-1, whitening.inputs() as i64]));
        Self { weight, bias: double(whitening.bias()) }
    }

    /// Its tensors: the ranks that evaluate together take those of one of them.
    pub fn tensors(&self) -> Vec<Tensor> {
        self.weight.iter().chain([&self.bias]).map(Tensor::shallow_clone).collect()
    }

    /// `(N, D)` to `(N, dim)`, float32 on the CPU.
    pub fn apply(&self, features: &Tensor) -> Tensor {
        let x = features.to_device(Device::Cpu).to_kind(Kind::Double);
        let x = match &self.weight {
            Some(weight) => x.matmul(&weight.transpose(0, 1)),
            None => x,
        };
        (x + &self.bias).to_kind(Kind::Float)
    }
}

/// The mean cosine of different rows of `(N, D)`: near one, all embeddings point the same way. `None` for less than two.
pub fn mean_cosine(features: &Tensor) -> Option<f64> {
    let unit = normalize(&features.to_kind(Kind::Double)); // (N, D)
    let n = unit.size()[0] as f64;
    // All pairs at once: the square of the sum, less each row with itself.
    let sum = unit.sum_dim_intlist([0i64].as_slice(), false, Kind::Double).square().sum(Kind::Double);
    let own = unit.square().sum(Kind::Double);
    (n > 1.0).then(|| (sum - own).double_value(&[]) / (n * (n - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points that differ a hundred times more in some directions than in others, far from the origin.
    fn points(n: i64, dim: i64) -> Tensor {
        tch::manual_seed(5);
        let scale = Tensor::logspace(0.0, -2.0, dim, 10.0, (Kind::Float, Device::Cpu));
        let mix = Tensor::randn([dim, dim], (Kind::Float, Device::Cpu));
        (Tensor::randn([n, dim], (Kind::Float, Device::Cpu)) * scale).matmul(&mix) + 30.0
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    fn whitened(features: &Tensor, how: How) -> Tensor {
        Whitener::new(&Moments::of(features).fit(how, "").expect("fits")).apply(features)
    }

    #[test]
    fn every_direction_that_is_kept_gets_the_same_variance() {
        let _alone = crate::rng::alone();
        let x = points(500, 16);
        let y = whitened(&x, How::Pca(6)).to_kind(Kind::Double);
        let mean = y.mean_dim([0i64].as_slice(), false, Kind::Double);
        assert!(mean.abs().max().double_value(&[]) < 1e-4, "{mean}");
        let covariance = y.transpose(0, 1).matmul(&y) / 499.0;
        let unit = Tensor::eye(6, (Kind::Double, Device::Cpu));
        let off: Tensor = (&covariance - &unit) * (1.0 - &unit);
        assert!(off.abs().max().double_value(&[]) < 1e-3, "uncorrelated: {off}");
        let diagonal = Vec::<f64>::try_from(covariance.diagonal(0, 0, 1)).expect("floats");
        assert!(diagonal.iter().all(|v| (0.2..1.0).contains(v)), "one, less the shrinkage: {diagonal:?}");
        assert!(diagonal.is_sorted_by(|a, b| a >= b), "largest first: {diagonal:?}");
    }

    #[test]
    fn centring_is_the_mean_alone() {
        let _alone = crate::rng::alone();
        let x = points(50, 8);
        let expected = &x - x.mean_dim([0i64].as_slice(), false, Kind::Float);
        assert!(distance(&whitened(&x, How::Center), &expected) < 1e-4);
        let before = mean_cosine(&x).expect("many");
        let after = mean_cosine(&expected).expect("many");
        assert!(before > 0.5 && after.abs() < 0.1, "{before}, {after}");
    }

    /// Neither the order of the pictures nor how many are seen at a time decides: what whitening is for, cosines, is
    /// the same.
    #[test]
    fn order_and_pieces_change_nothing() {
        let _alone = crate::rng::alone();
        let x = points(300, 32);
        let whole = normalize(&whitened(&x, How::Pca(12)));
        let mut pieces = Moments::new(32);
        let order = Tensor::randperm(300, (Kind::Int64, Device::Cpu));
        let shuffled = x.index_select(0, &order);
        for (start, len) in [(0, 1), (1, 7), (8, 0), (8, 292)] {
            pieces.add(&shuffled.narrow(0, start, len));
        }
        assert_eq!(pieces.pictures(), 300);
        let parts = normalize(&Whitener::new(&pieces.fit(How::Pca(12), "").expect("fits")).apply(&x));
        assert!(distance(&whole, &parts) < 1e-5);
    }

    /// Fewer pictures than numbers, and numbers that never move: what nobody has seen is not blown up.
    #[test]
    fn few_pictures_stay_bounded() {
        let _alone = crate::rng::alone();
        let x = points(20, 64);
        let dead = Tensor::cat(&[&x, &Tensor::zeros([20, 64], (Kind::Float, Device::Cpu))], 1);
        let whitening = Moments::of(&dead).fit(How::Pca(19), "").expect("fits");
        let total = Moments::of(&dead).scatter.trace().double_value(&[]) / 19.0;
        let bound = 1.0 / (SHRINKAGE * total / 128.0).sqrt();
        let largest = whitening.weight().expect("a matrix").iter().fold(0.0f32, |a, w| a.max(w.abs()));
        assert!(f64::from(largest) <= bound * 1.001, "{largest} past {bound}");
        assert!(whitening.info().variance > 0.99);
    }

    #[test]
    fn what_cannot_be_fitted_is_named() {
        let _alone = crate::rng::alone();
        let refused = |x: &Tensor, how| Moments::of(x).fit(how, "").expect_err("refused").to_string();
        let x = points(10, 16);
        assert!(refused(&x, How::Pca(17)).contains("more than the 16 numbers"));
        assert!(refused(&x, How::Pca(10)).contains("more than 10 pictures, and there are 10"));
        assert!(refused(&x.narrow(0, 0, 1), How::Center).contains("1 pictures"));
        assert!(refused(&x.ones_like(), How::Center).contains("are the same"));
        assert!(refused(&(x.ones_like() * f64::NAN), How::Pca(2)).contains("not finite numbers"));
    }

    #[test]
    fn the_mean_cosine_is_that_of_all_pairs() {
        let _alone = crate::rng::alone();
        let x = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 2.0, -3.0, 0.0]).view([3, 2]);
        assert!((mean_cosine(&x).expect("three") + 1.0 / 3.0).abs() < 1e-6, "0, -1 and 0");
        assert_eq!(mean_cosine(&x.narrow(0, 0, 1)), None);
    }
}
