//! What the tests of the methods share.

use tch::{Device, Kind, Tensor};

use super::Step;
use crate::config::{Config, Recipe};

/// A recipe for batches of eight views of 64 px.
pub(super) fn config(recipe: Recipe) -> Config {
    let mut c = Config::new(recipe);
    c.arch = "resnet18".into();
    (c.image_size, c.batch_size) = (64, 8);
    c
}

pub(super) fn views() -> [Tensor; 2] {
    tch::manual_seed(9);
    [0, 1].map(|_| Tensor::randn([8, 3, 64, 64], (Kind::Float, Device::Cpu)))
}

pub(super) fn step(number: u64) -> Step {
    Step { number, epoch: 0.0, preview: true, measure: true }
}

pub(super) fn distance(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[])
}
