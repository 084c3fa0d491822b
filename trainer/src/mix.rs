//! Mixing each picture of a batch with another one: MixMask (arXiv 2210.11456) and Un-Mix (arXiv 2003.05438).
//!
//! Pure functions over batches; nothing here knows a network.

use anyhow::Result;
use occlude_distributed::World;
use rand::Rng;
use tch::{Kind, Tensor};

use crate::config::{Mix, MixMask, MixPer, Mixing, Pattern};
use crate::device::upload;
use crate::mask::enlarge;
use crate::rng::permutation;
use crate::share::Share;

/// Probability that Un-Mix blends whole pictures; otherwise it swaps a box.
const GLOBAL_P: f64 = 0.5;
/// Smallest block of cells.
const BLOCK_CELLS: f64 = 4.0;
/// Least height of a block as a multiple of its width; the most is the inverse.
const BLOCK_ASPECT: f64 = 0.3;
/// Tries for a block before the mask stays as it is.
const BLOCK_TRIES: usize = 10;

/// Pictures made of two each.
#[derive(Debug)]
pub struct Mixed {
    /// `(B, 3, S, S)`.
    pub images: Tensor,
    /// The other picture of each in the batch of all ranks, `(A)`.
    pub partner: Tensor,
    /// Share of its own picture in each, `(B)`.
    pub share: Tensor,
}

/// The mixtures of a batch `(B, 3, S, S)` that the method asks for: one, or two for `unmix+mixmask`. Partners are of the
/// batch of all ranks, of which `images` are this one's.
///
/// MixMask's and Un-Mix's partner is the picture at the mirrored place of the batch; where both are
/// asked for, MixMask's is drawn.
///
/// # Errors
/// Where the other ranks cannot be reached.
pub fn mixtures(images: &Tensor, config: &Mixing, world: &World, rng: &mut impl Rng) -> Result<Vec<Mixed>> {
    let batch = Batch { images, all: world.gather(images, "pictures to mix")?, share: Share::of(world) };
    let count = batch.all.size()[0];
    let mirrored = || (0..count).rev().collect::<Vec<i64>>();
    Ok(match config.mix {
        Mix::Mixmask => vec![masked(&batch, &mirrored(), &config.mask, rng)],
        Mix::Unmix => vec![unmixed(&batch, &mirrored(), rng)],
        Mix::Both => {
            let first = unmixed(&batch, &mirrored(), rng);
            let partner = permutation(count as usize, rng);
            vec![first, masked(&batch, &partner, &config.mask, rng)]
        }
    })
}

/// The pictures of a rank among those of all.
struct Batch<'a> {
    images: &'a Tensor,
    all: Tensor,
    share: Share,
}

/// MixMask: cells of the picture, the others from its partner.
fn masked(batch: &Batch<'_>, partner: &[i64], config: &MixMask, rng: &mut impl Rng) -> Mixed {
    let (b, size) = batch.sides();
    let (grid, per_image) = (config.grid as i64, config.per == MixPer::Image);
    let count = if per_image { partner.len() as i64 } else { 1 };
    let cells: Vec<f32> = (0..count).flat_map(|_| kept(config, rng)).collect();
    let cells = Tensor::from_slice(&cells).view([count, 1, grid, grid]);
    let own = upload(&if per_image { batch.share.rows(cells) } else { cells }, batch.images.device());
    let share = own.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float).expand([b], false);
    blend(batch, partner, &enlarge(&own, size), share)
}

/// Cells that stay as they are (ones), `grid * grid` of them; never all, never none.
fn kept(config: &MixMask, rng: &mut impl Rng) -> Vec<f32> {
    let mut taken = match config.pattern {
        Pattern::Discrete => (0..config.grid * config.grid).map(|_| rng.random_bool(config.share)).collect(),
        Pattern::Block => {
            blocks(config.grid, (config.share * (config.grid * config.grid) as f64) as usize, rng)
        }
    };
    if let Some(same) = taken.first().copied().filter(|first| taken.iter().all(|t| t == first)) {
        let at = rng.random_range(0..taken.len());
        taken[at] = !same;
    }
    taken.into_iter().map(|t| f32::from(u8::from(!t))).collect()
}

/// Blocks until `target` cells are taken, or no further one fits.
fn blocks(grid: usize, target: usize, rng: &mut impl Rng) -> Vec<bool> {
    let mut taken = vec![false; grid * grid];
    let mut count = 0;
    while count < target {
        let added = (0..BLOCK_TRIES).find_map(|_| block(&mut taken, grid, target - count, rng));
        let Some(added) = added else { break };
        count += added;
    }
    taken
}

/// One block of at most `most` new cells; how many it adds, `None` where it does not fit.
fn block(taken: &mut [bool], grid: usize, most: usize, rng: &mut impl Rng) -> Option<usize> {
    let (low, high) = (BLOCK_CELLS.min(most as f64), BLOCK_CELLS.max(most as f64));
    let area = low + (high - low) * rng.random::<f64>();
    let limit = -BLOCK_ASPECT.ln();
    let aspect = (limit * (2.0 * rng.random::<f64>() - 1.0)).exp();
    let side = |length: f64| (length.round() as usize).max(1);
    let (height, width) = (side((area * aspect).sqrt()), side((area / aspect).sqrt()));
    if height >= grid || width >= grid {
        return None;
    }
    let (top, left) = (rng.random_range(0..=grid - height), rng.random_range(0..=grid - width));
    let cells: Vec<usize> =
        (top..top + height).flat_map(|y| (left..left + width).map(move |x| y * grid + x)).collect();
    let fresh = cells.iter().filter(|&&cell| !taken[cell]).count();
    if fresh == 0 || fresh > most {
        return None;
    }
    cells.into_iter().for_each(|cell| taken[cell] = true);
    Some(fresh)
}

/// Un-Mix: the whole batch blended with one factor, or one box of it swapped. The factor is uniform: Beta(1, 1).
fn unmixed(batch: &Batch<'_>, partner: &[i64], rng: &mut impl Rng) -> Mixed {
    let ((b, size), device) = (batch.sides(), batch.images.device());
    let share = rng.random::<f64>();
    let (own, share) = if rng.random_bool(GLOBAL_P) {
        (Tensor::full([1, 1, 1, 1], share, (Kind::Float, device)), share)
    } else {
        let (own, kept) = all_but_box(size, share, rng);
        (upload(&own, device), kept)
    };
    blend(batch, partner, &own, Tensor::full([b], share, (Kind::Float, device)))
}

/// Ones, and zeros in a box of area `1 - share` around a random point, cut off at the border, `(1, 1, S, S)`; and the
/// share of the ones.
fn all_but_box(size: i64, share: f64, rng: &mut impl Rng) -> (Tensor, f64) {
    let side = (size as f64 * (1.0 - share).sqrt()) as i64;
    let mut range = || {
        let centre = rng.random_range(0..size);
        ((centre - side / 2).clamp(0, size), (centre + side / 2).clamp(0, size))
    };
    let ((top, bottom), (left, right)) = (range(), range());
    let inside = |i: i64| (top..bottom).contains(&(i / size)) && (left..right).contains(&(i % size));
    let own: Vec<f32> = (0..size * size).map(|i| if inside(i) { 0.0 } else { 1.0 }).collect();
    let kept = (size * size - (bottom - top) * (right - left)) as f64 / (size * size) as f64;
    (Tensor::from_slice(&own).view([1, 1, size, size]), kept)
}

fn blend(batch: &Batch<'_>, partner: &[i64], own: &Tensor, share: Tensor) -> Mixed {
    let partner = upload(&Tensor::from_slice(partner), batch.images.device());
    let other = batch.all.index_select(0, &batch.share.rows(partner.shallow_clone()));
    Mixed { images: batch.images * own + other * (1.0 - own), partner, share }
}

impl Batch<'_> {
    /// Pictures of this rank, and the side of each.
    fn sides(&self) -> (i64, i64) {
        let (b, _, size, _) = self.images.size4().unwrap_or_else(|e| panic!("images are (B, 3, S, S): {e}"));
        (b, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Domain, stream};
    use tch::Device;

    fn config(mix: Mix, pattern: Pattern, per: MixPer) -> Mixing {
        Mixing { mix, mask: MixMask { pattern, grid: 8, share: 0.5, per } }
    }

    /// Picture i is the constant i, so that a mean tells the shares.
    fn images(b: i64, size: i64) -> Tensor {
        Tensor::arange(b, (Kind::Float, Device::Cpu)).view([b, 1, 1, 1]).expand([b, 3, size, size], true)
    }

    #[test]
    fn a_mixture_is_what_its_share_and_partner_say() {
        let x = images(6, 32);
        for mix in [Mix::Mixmask, Mix::Unmix, Mix::Both] {
            for (pattern, per) in [(Pattern::Block, MixPer::Batch), (Pattern::Discrete, MixPer::Image)] {
                for seed in 0..20 {
                    let rng = &mut stream(seed, Domain::Mix, 0, 0);
                    let all = mixtures(&x, &config(mix, pattern, per), &World::single(), rng).expect("mixed");
                    assert_eq!(all.len(), if mix == Mix::Both { 2 } else { 1 });
                    for m in all {
                        for i in 0..6 {
                            let (partner, share) = (m.partner.int64_value(&[i]), m.share.double_value(&[i]));
                            let mean = m.images.get(i).mean(Kind::Double).double_value(&[]);
                            let expected = share * i as f64 + (1.0 - share) * partner as f64;
                            assert!((mean - expected).abs() < 1e-4, "{mix:?} {i}: {mean} {expected}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn partners_are_mirrored_or_permuted() {
        let rng = &mut stream(1, Domain::Mix, 0, 0);
        let config = config(Mix::Both, Pattern::Block, MixPer::Batch);
        let both = mixtures(&images(7, 32), &config, &World::single(), rng).expect("mixed");
        let partners = |m: &Mixed| Vec::<i64>::try_from(&m.partner).expect("numbers");
        assert_eq!(partners(&both[0]), [6, 5, 4, 3, 2, 1, 0]);
        let mut permuted = partners(&both[1]);
        assert_ne!(permuted, [6, 5, 4, 3, 2, 1, 0]);
        permuted.sort_unstable();
        assert_eq!(permuted, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn masks_have_their_share_and_are_never_empty_or_full() {
        for pattern in [Pattern::Block, Pattern::Discrete] {
            for share in [0.01, 0.25, 0.5, 0.99] {
                let config = MixMask { pattern, grid: 8, share, per: MixPer::Batch };
                let mut total = 0.0;
                for seed in 0..500 {
                    let kept = kept(&config, &mut stream(seed, Domain::Mix, 1, 1));
                    let taken = 64.0 - kept.iter().sum::<f32>();
                    assert!((1.0..64.0).contains(&taken), "{pattern:?} {share}: {taken}");
                    total += f64::from(taken) / 64.0 / 500.0;
                }
                // Blocks stop below their target where none fits any more.
                let slack = if pattern == Pattern::Block { 0.12 } else { 0.02 };
                assert!((total - share).abs() < slack, "{pattern:?}: {total} for {share}");
            }
        }
    }

    #[test]
    fn blocks_are_blocks_and_stay_within_their_target() {
        for seed in 0..200 {
            let taken = blocks(8, 32, &mut stream(seed, Domain::Mix, 2, 0));
            assert!(taken.iter().filter(|t| **t).count() <= 32);
            // A random half of the cells would have about 56 borders between neighbours; blocks have fewer.
            let borders = (0..64)
                .flat_map(|i| [(i, i + 1, i % 8 < 7), (i, i + 8, i < 56)])
                .filter(|&(a, b, inside)| inside && taken[a] != taken[b])
                .count();
            assert!(borders < 45, "{borders}");
        }
    }

    #[test]
    fn unmix_draws_blends_and_boxes_and_the_share_of_a_cut_box() {
        let x = images(2, 32);
        let x = Batch { images: &x, all: x.shallow_clone(), share: Share::ALL };
        let (mut boxes, mut blends) = (0, 0);
        for seed in 0..200 {
            let m = unmixed(&x, &[1, 0], &mut stream(seed, Domain::Mix, 3, 0));
            let first = m.images.get(0);
            let zeros = first.eq(0.0).sum(Kind::Int64).int64_value(&[]);
            let share = m.share.double_value(&[0]);
            let is_box = (zeros as f64 / 3072.0 - share).abs() < 1e-6;
            if is_box { boxes += 1 } else { blends += 1 }
        }
        assert!((70..130).contains(&boxes) && blends > 70, "{boxes} boxes, {blends} blends");
    }
}
