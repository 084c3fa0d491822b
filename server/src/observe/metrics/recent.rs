//! The rate of the last seconds, which `Retry-After` is estimated from.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long pictures are remembered.
const WINDOW: Duration = Duration::from_secs(10);

/// Batches that were encoded lately: when, and of how many pictures.
#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<(Instant, usize)>>);

impl Recent {
    pub(super) fn add(&self, size: usize) {
        let mut recent = self.0.lock();
        recent.push_back((Instant::now(), size));
        while recent.front().is_some_and(|(at, _)| at.elapsed() > WINDOW) {
            recent.pop_front();
        }
    }

    /// Pictures a second; `None` while there was nothing to measure.
    pub(super) fn per_second(&self) -> Option<f64> {
        let recent = self.0.lock();
        let fresh = recent.iter().filter(|(at, _)| at.elapsed() <= WINDOW);
        let (first, count) = fresh.fold((None, 0), |(first, n), (at, size)| (first.or(Some(*at)), n + size));
        // One batch alone has a count but no duration: at least a tenth of a second keeps the rate sane.
        first.map(|at| count as f64 / at.elapsed().as_secs_f64().max(0.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_needs_something_to_measure() {
        let recent = Recent::default();
        assert_eq!(recent.per_second(), None);
        recent.add(8);
        let rate = recent.per_second().unwrap();
        assert!(rate > 1.0 && rate <= 80.0, "{rate}");
    }
}
