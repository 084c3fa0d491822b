//! How far the reader may be ahead of the rows that are written: what bounds the memory.

use parking_lot::{Condvar, Mutex};

/// Bytes of pictures that are read and not decoded yet; a larger picture goes alone.
const MAX_BYTES: u64 = 128 << 20;
/// Rows between the last that is written and the newest that is read.
pub(super) const MAX_ROWS: u64 = 4096;

#[derive(Default)]
struct State {
    bytes: u64,
    read: u64,
    written: u64,
    stopped: bool,
}

/// Lets pictures in one by one, and counts those that have left.
#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl State {
    fn fits(&self, bytes: u64) -> bool {
        let room = self.bytes == 0 || self.bytes.saturating_add(bytes) <= MAX_BYTES;
        room && self.read - self.written < MAX_ROWS
    }
}

impl Gate {
    /// Whether a picture would be let in at once.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.state.lock().fits(bytes)
    }

    /// Waits until there is room for a picture; its number from 0, or nothing where the work has ended.
    pub(super) fn admit(&self, bytes: u64) -> Option<u64> {
        let mut state = self.state.lock();
        while !state.stopped && !state.fits(bytes) {
            self.changed.wait(&mut state);
        }
        if state.stopped {
            return None;
        }
        state.bytes += bytes;
        state.read += 1;
        Some(state.read - 1)
    }

    /// A picture's bytes are gone.
    pub(super) fn release(&self, bytes: u64) {
        self.state.lock().bytes -= bytes;
        self.changed.notify_all();
    }

    /// The next row is written.
    pub(super) fn written(&self) {
        self.state.lock().written += 1;
        self.changed.notify_all();
    }

    /// Whether nobody writes any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Nobody writes any more.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_rows_are_bounded_and_a_giant_goes_alone() {
        let gate = Gate::default();
        assert_eq!(gate.admit(10 * MAX_BYTES), Some(0));
        assert!(!gate.fits(1));
        gate.release(10 * MAX_BYTES);
        for row in 1..MAX_ROWS {
            assert_eq!(gate.admit(0), Some(row));
        }
        assert!(!gate.fits(0));
        gate.written();
        assert!(gate.fits(MAX_BYTES) && gate.fits(10 * MAX_BYTES));
        assert_eq!(gate.admit(MAX_BYTES), Some(MAX_ROWS));
        gate.written();
        assert!(gate.fits(0) && !gate.fits(1));
    }

    #[test]
    fn who_waits_hears_of_the_end() {
        let gate = Gate::default();
        gate.admit(MAX_BYTES);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| gate.admit(1));
            gate.stop();
            assert_eq!(waiting.join().unwrap(), None);
        });
    }
}
