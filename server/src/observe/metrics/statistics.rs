//! What a model has done since it was first loaded, in the terms of Triton's statistics.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::Stage;

/// How often something happened, and how long that took together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) count: u64,
    pub(crate) time: Duration,
}

impl Sum {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }
}

/// What a model has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// When it ran last.
    pub(crate) last: Option<SystemTime>,
    /// Requests of the inference protocol, and those that failed once it was known which model they were for.
    pub(crate) success: Sum,
    pub(crate) fail: Sum,
    /// Pictures, in the queue.
    pub(crate) queue: Sum,
    /// Pictures, decoded and resized.
    pub(crate) decode: Sum,
    /// Runs.
    pub(crate) encode: Sum,
    /// Answers, written.
    pub(crate) render: Sum,
    /// Pictures whose answers were kept, and those that were looked up in vain.
    pub(crate) hit: Sum,
    pub(crate) miss: Sum,
    /// Runs by their number of pictures.
    pub(crate) batches: BTreeMap<usize, Sum>,
}

impl Statistics {
    /// Pictures encoded.
    pub(crate) fn pictures(&self) -> u64 {
        self.batches.iter().map(|(size, runs)| *size as u64 * runs.count).sum()
    }

    pub(super) fn stage(&mut self, stage: Stage, time: Duration) {
        match stage {
            Stage::Queue => self.queue.add(time),
            Stage::Decode => self.decode.add(time),
            Stage::Render => self.render.add(time),
            // Runs are counted with their pictures.
            Stage::Encode | Stage::Read | Stage::Parse | Stage::Store | Stage::Total => {}
        }
    }

    pub(super) fn ran(&mut self, size: usize, time: Duration) {
        self.encode.add(time);
        self.batches.entry(size).or_default().add(time);
        self.last = Some(SystemTime::now());
    }

    pub(super) fn looked_up(&mut self, found: bool, time: Duration) {
        if found { self.hit.add(time) } else { self.miss.add(time) }
    }

    pub(super) fn inferred(&mut self, succeeded: bool, time: Duration) {
        if succeeded { self.success.add(time) } else { self.fail.add(time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_added_up() {
        let (mut all, ms) = (Statistics::default(), Duration::from_millis);
        assert_eq!((all.pictures(), all.last), (0, None));
        for (size, time) in [(1, 5), (4, 9), (4, 11)] {
            all.ran(size, ms(time));
        }
        all.stage(Stage::Queue, ms(2));
        all.stage(Stage::Encode, ms(99));
        all.inferred(true, ms(7));
        all.inferred(false, ms(1));
        assert_eq!((all.pictures(), all.encode), (9, Sum { count: 3, time: ms(25) }));
        assert_eq!(all.batches[&4], Sum { count: 2, time: ms(20) });
        assert_eq!((all.queue.count, all.success.time, all.fail.count), (1, ms(7), 1));
        assert!(all.last.is_some());
    }
}
