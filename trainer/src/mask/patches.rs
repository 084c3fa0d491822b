//! Patches of a vision transformer that a student is not shown: which they are, and what they are ranked by.
//!
//! What is drawn is drawn on the host, what attention says stays on the device: places among ranks are known before the ranks
//! are, so that nothing has to be read.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use super::{Purpose, cells, foreground, independent};
use crate::config::{PatchChoice, PatchPer, PatchScore, Patches};
use crate::device::upload;
use crate::rng::permutation;
use crate::share::Share;

/// Tries at a rectangle (arXiv 2111.07832).
const TRIES: usize = 10;
/// Least ratio of a rectangle's sides; the largest is its inverse.
const LEAST_ASPECT: f64 = 0.3;

/// Hidden patches of N views of T patches.
#[derive(Debug)]
pub struct HiddenPatches {
    /// `(N, T)`, true where hidden.
    pub mask: Tensor,
    /// The places of M patches among all N T, view by view, every hidden one among them.
    pub places: Tensor,
    /// `(M)`: one by the number of hidden patches of the view, so that every view with some counts alike; zero where a patch is
    /// not hidden.
    pub weights: Tensor,
}

/// What is drawn without a look at pictures.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The hidden patches of every view: as places or, where the choice looks at scores, as places in an order that they say.
    /// Where each patch is hidden or not by itself, all those of a view that may have hidden ones.
    pub places: Vec<Vec<usize>>,
    /// The share of each view that is hidden; zero where nothing is.
    pub ratio: Vec<f64>,
}

/// Draws what is hidden of two views each of `pictures` pictures, with patches in a grid `(h, w)`: those of all first views,
/// then those of all second ones.
pub fn draw(settings: &Patches, grid: [usize; 2], pictures: usize, rng: &mut impl Rng) -> Drawn {
    let share = |rng: &mut _| share(settings, rng);
    let mut drawn = Drawn { places: Vec::new(), ratio: Vec::new() };
    let mut add = |hides: bool, ratio: f64, rng: &mut _| {
        drawn.places.push(if hides { choose(settings, ratio, grid, rng) } else { Vec::new() });
        drawn.ratio.push(if hides { ratio } else { 0.0 });
    };
    match settings.per {
        PatchPer::Picture => (0..2 * pictures).for_each(|_| {
            let hides = rng.random_bool(settings.share);
            let ratio = share(rng);
            add(hides, ratio, rng);
        }),
        PatchPer::Batch => {
            let ratio = share(rng);
            let views = [0, 1].map(|_| rng.random_bool(settings.share));
            let all = views.into_iter().flat_map(|hides| std::iter::repeat_n(hides, pictures));
            all.for_each(|hides| add(hides, ratio, rng));
        }
    }
    drawn
}

impl Drawn {
    /// What is meant for a part of the pictures.
    #[must_use]
    pub fn part(self, share: Share) -> Self {
        fn halves<T>(mut first: Vec<T>, share: Share) -> Vec<T> {
            let second = first.split_off(first.len() / 2);
            share.part(first).into_iter().chain(share.part(second)).collect()
        }
        Self { places: halves(self.places, share), ratio: halves(self.ratio, share) }
    }
}

/// The share of patches that is hidden.
fn share(settings: &Patches, rng: &mut impl Rng) -> f64 {
    let [low, high] = settings.ratio[rng.random_range(0..settings.ratio.len())];
    low + (high - low) * rng.random::<f64>()
}

/// The hidden patches of one view, in rising order.
fn choose(settings: &Patches, ratio: f64, [h, w]: [usize; 2], rng: &mut impl Rng) -> Vec<usize> {
    let all = h * w;
    let count = (ratio * all as f64) as usize;
    match settings.choice {
        PatchChoice::Block => blocks(ratio * all as f64, [h, w], rng),
        PatchChoice::Random => sample(all, count, rng),
        PatchChoice::High | PatchChoice::Low => (0..count).collect(),
        PatchChoice::Hint => {
            let top = ((settings.hint * all as f64) as usize).min(count);
            let shown = ((settings.hint * ratio * all as f64) as usize).min(top);
            sample(top, top - shown, rng).into_iter().chain(top..count).collect()
        }
        PatchChoice::Spread => (0..rounded(ratio, all)).collect(),
        PatchChoice::Background => (0..all).collect(),
    }
}

/// The number of cells that [`cells`] hides of `all`, in the precision that it counts in.
fn rounded(ratio: f64, all: usize) -> usize {
    (ratio as f32 * all as f32).round_ties_even() as usize
}

/// `count` of `0..n` in rising order, each equally likely.
fn sample(n: usize, count: usize, rng: &mut impl Rng) -> Vec<usize> {
    let mut chosen: Vec<usize> = permutation(n, rng).into_iter().take(count).map(|i| i as usize).collect();
    chosen.sort_unstable();
    chosen
}

/// Rectangles until at most `most` patches are hidden, each of at least `(min(h, w) / 3)^2` patches unless fewer are left; none
/// where [`TRIES`] find no room.
fn blocks(most: f64, [h, w]: [usize; 2], rng: &mut impl Rng) -> Vec<usize> {
    let mut hidden = vec![false; h * w];
    let mut left = most;
    let least = (h.min(w) / 3).pow(2) as f64;
    while left > 0.0 {
        let found = (0..TRIES).find_map(|_| {
            let area = least + (left - least) * rng.random::<f64>();
            let aspect = (LEAST_ASPECT.ln() * (1.0 - 2.0 * rng.random::<f64>())).exp();
            let [bh, bw] = [(area * aspect).sqrt(), (area / aspect).sqrt()].map(|side| side.round() as usize);
            if bh >= h || bw >= w {
                return None;
            }
            let (top, first) = (rng.random_range(0..=h - bh), rng.random_range(0..=w - bw));
            let cells = (top..top + bh).flat_map(|y| (first..first + bw).map(move |x| y * w + x));
            let fresh: Vec<usize> = cells.filter(|&cell| !hidden[cell]).collect();
            (!fresh.is_empty() && fresh.len() as f64 <= left).then_some(fresh)
        });
        let Some(fresh) = found else { break };
        left -= fresh.len() as f64;
        fresh.into_iter().for_each(|cell| hidden[cell] = true);
    }
    (0..h * w).filter(|&cell| hidden[cell]).collect()
}

/// What was drawn, of views of a grid `(h, w)` of patches, on `device`; nothing where nothing is hidden. `scores` `(N, T)` where the
/// choice looks at them.
pub fn hidden(
    settings: &Patches,
    drawn: &Drawn,
    [h, w]: [usize; 2],
    scores: Option<&Tensor>,
    device: Device,
) -> Option<HiddenPatches> {
    let some: usize = drawn.places.iter().map(Vec::len).sum();
    if some == 0 {
        return None;
    }
    let (n, patches) = (drawn.places.len() as i64, (h * w) as i64);
    let all = drawn.places.iter().enumerate();
    let places = all.flat_map(|(i, view)| view.iter().map(move |&p| (i * h * w + p) as i64));
    let places = upload(&Tensor::from_slice(&places.collect::<Vec<_>>()), device);
    let scores = scores.filter(|_| settings.choice.looks());
    let chosen =
        scores.and_then(|scores| by_foreground(settings, drawn, &scores.view([n, h as i64, w as i64])));
    if let (PatchChoice::Background, Some(chosen)) = (settings.choice, chosen.as_ref()) {
        let count = chosen.sum_dim_intlist([1i64].as_slice(), true, Kind::Float).clamp_min(1.0);
        let weights = (chosen / count).flatten(0, 1).index_select(0, &places);
        return Some(HiddenPatches { mask: chosen.gt(0.5), places, weights });
    }
    let order = match chosen {
        Some(chosen) => Some(chosen.argsort_stable(true, 1, true)),
        None => scores.map(|scores| order(settings.choice, scores)),
    };
    let places = match order {
        None => places,
        Some(order) => {
            let rows = Tensor::arange(n, (Kind::Int64, device)).unsqueeze(1) * patches;
            (order + rows).flatten(0, 1).index_select(0, &places)
        }
    };
    let weights =
        drawn.places.iter().flat_map(|view| std::iter::repeat_n(1.0 / view.len() as f32, view.len()));
    let weights = upload(&Tensor::from_slice(&weights.collect::<Vec<f32>>()), device);
    let mask =
        Tensor::zeros([n * patches], (Kind::Bool, device)).index_fill_(0, &places, 1).view([n, patches]);
    Some(HiddenPatches { mask, places, weights })
}

/// The patches that a choice by foreground and background hides, ones and zeros, by the code that masks the cells of views; none
/// by another choice. Scores are `(N, h, w)`. Shape: `(N, T)`.
fn by_foreground(settings: &Patches, drawn: &Drawn, scores: &Tensor) -> Option<Tensor> {
    let views = scores.size()[0];
    let upload = |values: Vec<f32>| upload(&Tensor::from_slice(&values), scores.device());
    let known = || {
        // each of the two large views has its own score
        let halves = scores.chunk(2, 0);
        let of = |(view, scores): (usize, &Tensor)| foreground(scores, settings.score_at(view).deviations());
        Tensor::cat(&halves.iter().enumerate().map(of).collect::<Vec<_>>(), 0)
    };
    let chosen = match settings.choice {
        PatchChoice::Spread => {
            let ratio = upload(drawn.ratio.iter().map(|&r| r as f32).collect());
            cells(&known(), &ratio, 1, Purpose::Positive, false)
        }
        PatchChoice::Background => {
            let hides = drawn.places.iter().map(|view| f32::from(u8::from(!view.is_empty())));
            let hides = upload(hides.collect()).view([views, 1, 1, 1]);
            independent(&known(), settings.probability, 1, false) * hides
        }
        PatchChoice::Block
        | PatchChoice::Random
        | PatchChoice::High
        | PatchChoice::Low
        | PatchChoice::Hint => return None,
    };
    Some(chosen.flatten(1, -1))
}

/// Patches by rank, `(N, T)` both: those that a choice hides first come first.
fn order(choice: PatchChoice, scores: &Tensor) -> Tensor {
    scores.argsort_stable(true, 1, choice != PatchChoice::Low)
}

/// What patches are ranked by, of the attention in blocks from the first to the last, `(N, heads, T + before, T + before)`
/// each, where the class token is the first of `before` tokens that are no patches. Shape: `(N, T)`.
pub fn scores(score: PatchScore, power: f64, attention: &[Tensor], before: i64) -> Tensor {
    let of_class = |map: &Tensor| {
        let seen = map.to_kind(Kind::Float).select(2, 0); // (N, heads, T + before)
        seen.narrow(2, before, seen.size()[2] - before)
    };
    let mean = |x: Tensor| x.mean_dim([1i64].as_slice(), false, Kind::Float);
    match score {
        PatchScore::Raw => mean(of_class(&attention[0])),
        PatchScore::Log => mean(of_class(&attention[0]).clamp_min(f64::from(f32::MIN_POSITIVE)).log()),
        PatchScore::Pow => mean(of_class(&attention[0]).pow_tensor_scalar(power)),
        PatchScore::RolloutAll | PatchScore::RolloutLast | PatchScore::RolloutMid => {
            let rolled = rollout(attention).select(1, 0);
            rolled.narrow(1, before, rolled.size()[1] - before)
        }
        PatchScore::Object => unreachable!("made of patches, not of attention"),
    }
}

/// How much of each token there is in each other one behind blocks, the first of which comes first: the product of the last to the
/// first of their mean heads, each beside what passes it by, rows adding up to one (arXiv 2005.00928). Shape: `(N, T, T)`.
fn rollout(attention: &[Tensor]) -> Tensor {
    let through = attention.iter().map(|map| {
        let heads = map.to_kind(Kind::Float).mean_dim([1i64].as_slice(), false, Kind::Float); // (N, T, T)
        let both = &heads + Tensor::eye(heads.size()[1], (Kind::Float, heads.device()));
        let sums = both.sum_dim_intlist([2i64].as_slice(), true, Kind::Float);
        both / sums
    });
    let all = through.reduce(|before, block| block.matmul(&before));
    all.unwrap_or_else(|| unreachable!("a score reads a block at least"))
}

#[cfg(test)]
mod tests;
