//! Patches of a vision transformer that a student is not shown: which they are, and what they are ranked by.
//!
//! What is drawn is drawn on the host, what attention says stays on the device: places among ranks are known before the ranks
//! are, so that nothing has to be read.

use rand::Rng;
use tch::{Device, Kind, Tensor};

use crate::config::{PatchChoice, PatchPer, PatchScore, Patches};
use crate::device::upload;
use crate::rng::permutation;

/// Tries at a rectangle (arXiv 2111.07832).
const TRIES: usize = 10;
/// Least ratio of a rectangle's sides; the largest is its inverse.
const LEAST_ASPECT: f64 = 0.3;

/// Hidden patches of N views of T patches.
#[derive(Debug)]
pub struct HiddenPatches {
    /// `(N, T)`, true where hidden.
    pub mask: Tensor,
    /// The places of the M hidden ones among all N T, view by view.
    pub places: Tensor,
    /// `(M)`: one by the number of hidden patches of the view, so that every view with some counts alike.
    pub weights: Tensor,
}

/// The hidden patches of every view, as places or, where the choice ranks, as ranks.
pub type Drawn = Vec<Vec<usize>>;

/// Draws what is hidden of two views each of `pictures` pictures, with patches in a grid `(h, w)`: those of all first views,
/// then those of all second ones.
pub fn draw(settings: &Patches, grid: [usize; 2], pictures: usize, rng: &mut impl Rng) -> Drawn {
    let share = |rng: &mut _| share(settings, rng);
    match settings.per {
        PatchPer::Picture => (0..2 * pictures)
            .map(|_| {
                let hides = rng.random_bool(settings.share);
                let ratio = share(rng);
                if hides { choose(settings, ratio, grid, rng) } else { Vec::new() }
            })
            .collect(),
        PatchPer::Batch => {
            let ratio = share(rng);
            let views = [0, 1].map(|_| rng.random_bool(settings.share));
            let all = views.into_iter().flat_map(|hides| std::iter::repeat_n(hides, pictures));
            all.map(|hides| if hides { choose(settings, ratio, grid, rng) } else { Vec::new() }).collect()
        }
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
    }
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

/// What was drawn, of views of `patches` patches, on `device`; nothing where nothing is hidden. `order`: the patches of each view by
/// rank, `(N, T)`, where ranks were drawn.
pub fn hidden(
    drawn: &Drawn,
    patches: usize,
    order: Option<&Tensor>,
    device: Device,
) -> Option<HiddenPatches> {
    let weights = drawn.iter().flat_map(|view| std::iter::repeat_n(1.0 / view.len() as f32, view.len()));
    let weights: Vec<f32> = weights.collect();
    if weights.is_empty() {
        return None;
    }
    let places =
        drawn.iter().enumerate().flat_map(|(i, view)| view.iter().map(move |&p| (i * patches + p) as i64));
    let places = upload(&Tensor::from_slice(&places.collect::<Vec<_>>()), device);
    let (n, patches) = (drawn.len() as i64, patches as i64);
    let places = match order {
        None => places,
        Some(order) => {
            let rows = Tensor::arange(n, (Kind::Int64, device)).unsqueeze(1) * patches;
            (order + rows).flatten(0, 1).index_select(0, &places)
        }
    };
    let mask =
        Tensor::zeros([n * patches], (Kind::Bool, device)).index_fill_(0, &places, 1).view([n, patches]);
    Some(HiddenPatches { mask, places, weights: upload(&Tensor::from_slice(&weights), device) })
}

/// Patches by rank, `(N, T)` both: those that a choice hides first come first.
pub fn order(choice: PatchChoice, scores: &Tensor) -> Tensor {
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
