//! Random numbers that depend only on what they are for.
//!
//! Every draw comes from a ChaCha8 stream whose key names its purpose: the run's seed, the
//! domain, and two coordinates such as epoch and sample. So a resumed run, a different number of
//! loader threads, or another order of evaluation draws the same numbers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream is for; streams of different domains are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// Order of the samples in an epoch.
    Order = 1,
    /// Crops and colours of one view of one sample.
    View = 2,
    /// Masks of a step.
    Mask = 3,
    /// Initial weights.
    Init = 4,
    /// Key permutation of a step.
    Shuffle = 5,
    /// libtorch's own generator in a step (noise drawn on the device).
    Device = 6,
    /// Mixtures of a step.
    Mix = 7,
    /// Confidence intervals.
    Bootstrap = 8,
    /// Other crops of a view, where the first does not hold what it has to.
    Crop = 9,
    /// What only the pictures of the first batch show.
    Preview = 10,
}

/// The stream of `domain` at the coordinates `(a, b)`.
pub fn stream(seed: u64, domain: Domain, a: u64, b: u64) -> ChaCha8Rng {
    named([seed, domain as u64, a, b])
}

/// The stream of `domain` for a view of a picture in an epoch; `view` counts all views of the picture.
pub fn view_stream(seed: u64, domain: Domain, epoch: u64, picture: u64, view: u32) -> ChaCha8Rng {
    match view {
        // the first two share a coordinate with their picture, and go on drawing what they always drew
        0 | 1 => stream(seed, domain, epoch, picture << 1 | u64::from(view)),
        _ => named([seed, domain as u64 | u64::from(view) << 32, epoch, picture]),
    }
}

/// Domains lie below 2^32, so that the upper half of the second word is free for a further name.
fn named(words: [u64; 4]) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (chunk, word) in key.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Seeds libtorch's generators for the step, so that what is drawn on the device repeats too.
pub fn seed_device(seed: u64, step: u64) {
    let word: u64 = stream(seed, Domain::Device, step, 0).random();
    // libtorch takes a signed seed; any bit pattern will do
    tch::manual_seed((word >> 1) as i64);
}

/// A permutation of `0..n`.
pub fn permutation(n: usize, rng: &mut impl Rng) -> Vec<i64> {
    let mut out: Vec<i64> = (0..n as i64).collect();
    for i in (1..n).rev() {
        out.swap(i, rng.random_range(0..=i));
    }
    out
}

/// Keeps other tests of this process from libtorch's generator, which they share: a test that seeds it, or builds a
/// network, holds this while it runs.
#[cfg(test)]
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, domain, a, b| stream(seed, domain, a, b).random::<u64>();
        assert_eq!(draw(1, Domain::View, 2, 3), draw(1, Domain::View, 2, 3));
        let others = [draw(2, Domain::View, 2, 3), draw(1, Domain::Mask, 2, 3), draw(1, Domain::View, 3, 2)];
        assert!(others.iter().all(|&x| x != draw(1, Domain::View, 2, 3)));
    }

    /// `picture << 1 | view` is another picture's from the third view on.
    #[test]
    fn every_view_of_every_picture_has_a_stream_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for (epoch, picture, view) in
            (0..3).flat_map(|e| (0..20).flat_map(move |p| (0..10).map(move |v| (e, p, v))))
        {
            for domain in [Domain::View, Domain::Crop] {
                let drawn = view_stream(1, domain, epoch, picture, view).random::<u64>();
                assert!(seen.insert(drawn), "{domain:?} {picture} {view}");
            }
        }
        // what checkpoints of all versions were trained on
        for view in [0, 1] {
            let known = stream(1, Domain::View, 2, 7 << 1 | u64::from(view)).random::<u64>();
            assert_eq!(view_stream(1, Domain::View, 2, 7, view).random::<u64>(), known);
        }
    }

    #[test]
    fn permutations_hold_every_index() {
        let mut p = permutation(100, &mut stream(7, Domain::Order, 0, 0));
        assert_ne!(p, (0..100).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..100).collect::<Vec<_>>());
    }
}
