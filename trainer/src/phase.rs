//! What a step spends its time on. The code that makes a step says what it is about; where nobody listens, that costs a
//! look at a thread's own variable.

use std::cell::RefCell;
use std::marker::PhantomData;

use anyhow::Result;
use occlude_torch_ext::{Counts, Mark, Observer};
use tch::Device;

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The loader is not ready.
    DataWait,
    /// Pixels on their way to the device.
    Copy,
    /// Colour changes.
    Augment,
    /// Where the foreground is.
    Localise,
    /// Which cells are masked or mixed, and with what.
    Mask,
    /// What is not learnt from: keys and hard negatives.
    Key,
    /// What is learnt from.
    Query,
    /// Logits and loss.
    Loss,
    /// The numbers of a metric line.
    Metrics,
    /// Gradients.
    Backward,
    /// The optimiser.
    Optimiser,
    /// The momentum encoder.
    Ema,
    /// The queue of keys.
    Queue,
    /// The rest.
    Other,
}

impl Phase {
    /// All of them, in the order of a step.
    pub const ALL: [Self; 14] = [
        Self::DataWait,
        Self::Copy,
        Self::Augment,
        Self::Localise,
        Self::Mask,
        Self::Key,
        Self::Query,
        Self::Loss,
        Self::Metrics,
        Self::Backward,
        Self::Optimiser,
        Self::Ema,
        Self::Queue,
        Self::Other,
    ];

    /// The name in tables and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::DataWait => "data wait",
            Self::Copy => "copy",
            Self::Augment => "augment",
            Self::Localise => "localise",
            Self::Mask => "mask",
            Self::Key => "key forward",
            Self::Query => "query forward",
            Self::Loss => "loss",
            Self::Metrics => "metrics",
            Self::Backward => "backward",
            Self::Optimiser => "optimiser",
            Self::Ema => "ema",
            Self::Queue => "queue",
            Self::Other => "other",
        }
    }
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

struct Recorder {
    device: Device,
    /// Of the operators, where they are counted.
    observer: Option<Observer>,
    /// The phases under way, from the outermost.
    stack: Vec<Phase>,
    /// Where a phase begins, or goes on.
    marks: Vec<(Phase, Mark, Counts)>,
    /// The first thing that went wrong.
    error: Option<occlude_torch_ext::Error>,
}

impl Recorder {
    fn mark(&mut self) {
        let phase = self.stack.last().copied().unwrap_or(Phase::Other);
        let counts = self.observer.as_ref().map_or_else(Counts::default, Observer::counts);
        match Mark::now(self.device) {
            Ok(mark) => self.marks.push((phase, mark, counts)),
            Err(error) => self.error = self.error.take().or(Some(error)),
        }
    }
}

/// While it lives, what this thread does belongs to a phase, and not to the one around it.
#[must_use]
pub struct Within(PhantomData<*const ()>);

/// Enters `phase`.
pub fn within(phase: Phase) -> Within {
    with(|recorder| {
        recorder.stack.push(phase);
        recorder.mark();
    });
    Within(PhantomData)
}

impl Drop for Within {
    fn drop(&mut self) {
        with(|recorder| {
            recorder.stack.pop();
            recorder.mark();
        });
    }
}

fn with(f: impl FnOnce(&mut Recorder)) {
    // a phase that ends while its thread does has nobody to tell
    let _ = RECORDER.try_with(|cell| {
        if let Ok(mut recorder) = cell.try_borrow_mut()
            && let Some(recorder) = recorder.as_mut()
        {
            f(recorder);
        }
    });
}

/// What one phase took.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which.
    pub phase: Phase,
    /// Milliseconds, over all steps.
    pub milliseconds: f64,
    /// Operators, over all steps; zero where they are not counted.
    pub counts: Counts,
}

/// What a recording found.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Every phase that occurred, in the order of a step.
    pub shares: Vec<Share>,
    /// Operators by name, where they are counted.
    pub operators: Vec<(String, Counts)>,
}

/// Listens to the phases of this thread.
pub struct Recording(PhantomData<*const ()>);

impl Recording {
    /// Starts to listen; `count`: to operators, too, which makes everything slower.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn start(device: Device, count: bool) -> Result<Self> {
        let observer = if count { Some(Observer::start()?) } else { None };
        let mut recorder = Recorder { device, observer, stack: vec![], marks: vec![], error: None };
        recorder.mark();
        RECORDER.set(Some(recorder));
        Ok(Self(PhantomData))
    }

    /// Stops, waits for the device, and adds up.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn finish(self) -> Result<Recorded> {
        with(Recorder::mark);
        let Some(recorder) = RECORDER.take() else { unreachable!("it was started, and is finished once") };
        if let Some(error) = recorder.error {
            return Err(error.into());
        }
        let mut shares: Vec<Share> = Vec::new();
        for pair in recorder.marks.windows(2) {
            let ((phase, from, before), (_, to, after)) = (&pair[0], &pair[1]);
            let (milliseconds, counts) = (from.until(to)?, *after - *before);
            match shares.iter_mut().find(|s| s.phase == *phase) {
                Some(share) => {
                    share.milliseconds += milliseconds;
                    share.counts += counts;
                }
                None => shares.push(Share { phase: *phase, milliseconds, counts }),
            }
        }
        shares.sort_by_key(|s| Phase::ALL.iter().position(|p| *p == s.phase));
        let operators = recorder.observer.as_ref().map_or_else(Vec::new, Observer::by_name);
        Ok(Recorded { shares, operators })
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDER.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tch::{Kind, Tensor};

    /// An inner phase's time and operators are not the outer one's, and nothing is lost.
    #[test]
    fn phases_are_told_apart_and_add_up() {
        let _alone = crate::rng::alone();
        let pause = || std::thread::sleep(Duration::from_millis(20));
        let x = Tensor::ones([4], (Kind::Float, Device::Cpu));
        let recording = Recording::start(Device::Cpu, true).expect("started");
        {
            let _key = within(Phase::Key);
            let _ = &x + 1.0;
            {
                let _mask = within(Phase::Mask);
                pause();
                let _ = (&x + 1.0).sum(Kind::Float).double_value(&[]);
            }
            let _ = &x * 2.0;
        }
        let _ = &x - 1.0;
        let found = recording.finish().expect("added up");
        let of = |phase| *found.shares.iter().find(|s| s.phase == phase).expect("it occurred");
        let (key, mask, other) = (of(Phase::Key), of(Phase::Mask), of(Phase::Other));
        assert!(mask.milliseconds >= 20.0 && key.milliseconds < mask.milliseconds, "{:?}", found.shares);
        assert_eq!((key.counts.kernels, key.counts.reads), (2, 0));
        assert_eq!((mask.counts.kernels, mask.counts.reads), (3, 1));
        assert_eq!(other.counts.kernels, 1);
        assert_eq!(found.operators.iter().map(|(_, c)| c.kernels).sum::<u64>(), 6, "{:?}", found.operators);
        // nobody listens any more
        let _nothing = within(Phase::Key);
        assert!(RECORDER.with_borrow(Option::is_none));
    }

    #[test]
    fn every_phase_has_a_place_and_a_name() {
        let mut names: Vec<_> = Phase::ALL.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Phase::ALL.len());
    }
}
