//! Looking for a learning rate on pictures that are held back.

use anyhow::{Result, bail};
use occlude_distributed::World;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::classifier::{Body, Classifier, Learner};
use super::protocol::Protocol;
use super::source::Cached;
use super::training::{Plan, train};

/// The learning rates that are tried. Features are not normalised, so that what fits depends on their length.
const GRID: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];
/// One picture in this many is held back, of every class.
const SHARE: usize = 10;

/// What was tried and what was chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// On which views: always `cached`.
    pub views: String,
    /// Training pictures that were held back to choose by; validation pictures play no part.
    pub held_out: usize,
    /// Every learning rate and its top-1 on them; absent where training diverged.
    pub grid: Vec<(f64, Option<f64>)>,
    /// The best; of equal ones the smallest.
    pub chosen: f64,
}

/// Features of pictures, of their mirror images, and classes.
pub(super) struct Features {
    /// `(N, D)`
    pub plain: Tensor,
    /// `(N, D)`
    pub mirrored: Tensor,
    /// Classes.
    pub labels: Vec<i64>,
}

impl Features {
    fn select(&self, rows: &[i64]) -> Self {
        let index = Tensor::from_slice(rows);
        Self {
            plain: self.plain.index_select(0, &index),
            mirrored: self.mirrored.index_select(0, &index),
            labels: rows.iter().map(|&i| self.labels[i as usize]).collect(),
        }
    }

    /// Batches of them.
    pub(super) fn source(&self, protocol: &Protocol, device: Device) -> Cached {
        Cached::new(&self.plain, &self.mirrored, &Tensor::from_slice(&self.labels), protocol, device)
    }
}

/// Trains with every learning rate of the grid on nine tenths of `features`, with all epochs of the protocol, and chooses
/// the one that is best on the rest. Each rank tries some of the rates.
///
/// # Errors
/// Where no class has two pictures, or everything diverges; where the ranks cannot be reached.
pub(super) fn search(
    features: &Features,
    classes: i64,
    protocol: &Protocol,
    (device, world): (Device, &World),
) -> Result<Search> {
    let (fit, held) = hold_out(&features.labels);
    if held.is_empty() {
        bail!("`--lr auto` needs a class of at least two pictures to hold one back; hint: give a number");
    }
    let (fit, held) = (features.select(&fit), features.select(&held));
    let source = fit.source(protocol, device);
    let said = |lr: f64, top1: Option<f64>| {
        let said =
            top1.map_or_else(|| "diverged".to_owned(), |t| format!("top-1 {:.2} % held out", 100.0 * t));
        tell!("lr {lr}: {said}");
    };
    let mut tried = Vec::new();
    for lr in GRID.into_iter().skip(world.rank()).step_by(world.size()) {
        let fc = Classifier::new(fit.plain.size()[1], classes, protocol.seed, device);
        let mut learner = Learner::new(Body::Done, fc, protocol, lr);
        let alone = World::single();
        let plan =
            Plan { protocol, folder: None, interrupt: None, stop_after: None, verbose: false, world: &alone };
        // without a folder, a signal or a limit the only error is a loss that is no number
        let done = train(&mut learner, &source, &plan, |_| None).is_ok();
        let top1 = done.then(|| learner.classifier().scores(&held.plain, &held.labels).top1);
        if world.is_single() {
            said(lr, top1);
        }
        tried.extend([lr, top1.unwrap_or(f64::NAN)]);
    }
    let tried = Tensor::from_slice(&tried).view([-1, 2]);
    let tried = Vec::<f64>::try_from(world.gather_uneven(&tried, "learning rates")?.flatten(0, -1))?;
    let mut grid: Vec<(f64, Option<f64>)> =
        tried.chunks(2).map(|pair| (pair[0], Some(pair[1]).filter(|top1| !top1.is_nan()))).collect();
    grid.sort_by(|a, b| a.0.total_cmp(&b.0));
    if !world.is_single() {
        grid.iter().for_each(|&(lr, top1)| said(lr, top1));
    }
    let best = grid.iter().filter_map(|&(lr, top1)| Some((lr, top1?)));
    let best = best.fold(None, |best: Option<(f64, f64)>, (lr, top1)| match best {
        Some((_, t)) if t >= top1 => best,
        _ => Some((lr, top1)),
    });
    let Some((chosen, _)) = best else {
        bail!("training diverges with every learning rate from {}", GRID[0])
    };
    Ok(Search { views: "cached".into(), held_out: held.labels.len(), grid, chosen })
}

/// Rows to learn from and rows to hold back: of every class of at least two pictures, each tenth, beginning with the
/// second.
fn hold_out(labels: &[i64]) -> (Vec<i64>, Vec<i64>) {
    let mut seen = std::collections::BTreeMap::<i64, usize>::new();
    (0i64..)
        .zip(labels)
        .map(|(i, label)| {
            let place = seen.entry(*label).or_default();
            *place += 1;
            (i, *place % SHARE == 2)
        })
        .fold((Vec::new(), Vec::new()), |(mut fit, mut held), (i, back)| {
            if back {
                held.push(i);
            } else {
                fit.push(i);
            }
            (fit, held)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::protocol::{LinearPreset, Overrides};
    use tch::Kind;

    #[test]
    fn a_tenth_of_every_class_is_held_back() {
        let labels: Vec<i64> = (0..40).map(|i| i % 2).chain([7]).collect();
        let (fit, held) = hold_out(&labels);
        assert_eq!((fit.len(), held), (37, vec![2, 3, 22, 23]));
        assert!(hold_out(&[0, 1, 2]).1.is_empty());
    }

    /// Two classes whose features differ by little and are long: large rates diverge or thrash, tiny ones are too slow.
    #[test]
    fn the_best_of_the_grid_is_chosen_by_held_out_pictures() {
        let _alone = crate::rng::alone();
        tch::manual_seed(3);
        let labels: Vec<i64> = (0..200).map(|i| i % 4).collect();
        let centre = Tensor::randn([4, 16], (Kind::Float, Device::Cpu));
        let noise = Tensor::randn([200, 16], (Kind::Float, Device::Cpu)) * 0.3;
        let plain = centre.index_select(0, &Tensor::from_slice(&labels)) + noise;
        let features = Features { mirrored: plain.shallow_clone(), plain, labels };
        let flags = Overrides { epochs: Some(5), batch_size: Some(32), ..Overrides::default() };
        let protocol = LinearPreset::Moco.resolve(&flags).expect("valid");
        let here = (Device::Cpu, &World::single());
        let found = search(&features, 4, &protocol, here).expect("found");
        let best = found.grid.iter().filter_map(|g| g.1).fold(0.0, f64::max);
        let chosen = found.grid.iter().find(|g| g.0 == found.chosen).expect("of the grid");
        assert_eq!((chosen.1, found.held_out), (Some(best), 20));
        assert!(best > 0.9, "{found:?}");
        let alone = Features { labels: (0..200).collect(), ..features };
        assert!(
            search(&alone, 200, &protocol, here).expect_err("one each").to_string().contains("--lr auto")
        );
    }
}
