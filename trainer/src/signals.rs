//! Signals that end a run: the first one after saving, the second one at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// SIGINT, SIGTERM and SIGUSR1 (Slurm's warning of a time limit). They end the process at once with 128 and their number;
/// while there is something to save, the first one is noted.
#[derive(Debug)]
pub struct Interrupt {
    seen: Arc<AtomicUsize>,
    at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Takes charge of them.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn register() -> Result<Self> {
        let (seen, at_once) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        for signal in [SIGINT, SIGTERM, SIGUSR1] {
            // the order matters: leave if armed, then arm
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&at_once))?;
            flag::register(signal, Arc::clone(&at_once))?;
            flag::register_usize(signal, Arc::clone(&seen), signal as usize)?;
        }
        Ok(Self { seen, at_once })
    }

    /// From now on the first one is noted.
    pub fn hold(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }

    /// From now on they end the process at once: everything is saved.
    pub fn leave_at_once(&self) {
        self.at_once.store(true, Ordering::SeqCst);
    }

    /// What tells others of the signal that arrived: its number, or 0.
    pub fn flag(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.seen)
    }

    /// The number of the signal that arrived, if any.
    pub fn seen(&self) -> Option<usize> {
        match self.seen.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }
}
